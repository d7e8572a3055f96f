"""How mini's language model begins: already able to repeat.

To say again what was heard, a transformer needs two heads that work together (induction; Olsson et al., arXiv
2209.11895): one writes to each word which word came before it, the other looks for the word whose predecessor is the
one just said. Neither is of use without the other, so gradient descent finds them late: half an hour of training on two
cores did not. Here they are written into the initial weights, roughly; training makes them exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.mini.training import orthogonal
from engine.model.decoder import Attention
from engine.model.llm import QwenDecoder

REACH = 12.0
"""Tokens after which the pull of an earlier word has fallen to 1/e."""
PULL = 80.0
"""Attention logit of a word that came just before."""
SKIP = 0.6
"""Share of this logit that a token without a word loses."""
COMPARE, OUT, SAY = 3.0, 14.0, 4.0
"""Scale of what is compared, of what rules a token out, and of what is said."""
SLOW_PAIRS = 16
"""The first rotary pair that turns so slowly that words are compared whatever their distance."""
STEEP_PAIRS = 16
"""Rotary pairs that tell distance in the first head."""
OTHER = 3.0
"""Scale of what keeps a word from being taken for its own predecessor."""
FINDING_HEADS = 5
"""Heads of the second layer that look for the follower, each comparing and saying another part of a word."""


@torch.no_grad()
def plant_induction(llm: QwenDecoder, wordless: Sequence[int]) -> None:
    """Writes both heads into the first two layers. ``wordless`` are the ids that stand between the words of a turn."""
    generator = torch.Generator().manual_seed(23)
    embeddings = llm.model.embed_tokens.weight
    unit = embeddings / embeddings.square().mean(1, keepdim=True).sqrt()
    attentions = [module for module in llm.model.modules() if isinstance(module, Attention)]
    first, second = attentions[:2]
    size, width = first.head_dim, embeddings.shape[1]
    read, written = orthogonal(size, width, generator), orthogonal(size, width, generator)
    scale = float(embeddings.std())
    _remember_the_word_before(first, llm.model.sizes.rope_theta, unit[list(wordless)], generator)
    first.v_proj.weight[:size], first.o_proj.weight[:, :size] = read, 1.5 * scale * written.T
    for head in range(FINDING_HEADS):
        _find_its_follower(second, head, read, written, unit[list(wordless)], generator)


def _remember_the_word_before(attention: Attention, theta: float, wordless: Tensor, generator: torch.Generator) -> None:
    """Head 0: constant queries and keys whose rotary product falls with the distance; keys of ``wordless`` (embeddings
    of mean square 1) are smaller."""
    size = attention.head_dim
    distances = torch.arange(201, dtype=torch.float64)  # double: see orthogonal()
    angles = distances[:, None] * theta ** (-torch.arange(0, 2 * STEEP_PAIRS, 2) / size)
    basis, aim = torch.cat([angles.cos(), angles.sin()], 1), (-distances / REACH).exp()
    fit = torch.linalg.solve(basis.T @ basis + 0.05 * torch.eye(2 * STEEP_PAIRS), basis.T @ aim)
    cosine, sine = fit.float().chunk(2)
    strength, phase = (PULL * size**0.5 * (cosine**2 + sine**2).sqrt()).sqrt(), torch.atan2(-sine, cosine)
    query, key = torch.zeros(size), torch.zeros(size)
    key[:STEEP_PAIRS] = strength
    query[:STEEP_PAIRS], query[size // 2 : size // 2 + STEEP_PAIRS] = strength * phase.cos(), strength * phase.sin()
    attention.q_proj.bias[:size], attention.k_proj.bias[:size] = query, key
    weights = -SKIP * key[:, None] * _reader(wordless)
    # A word is not its own predecessor, nor is the same word said twice in one sound.
    rest = torch.arange(STEEP_PAIRS, size // 2)
    rest = torch.cat([rest, rest + size // 2])
    same = OTHER * orthogonal(len(rest), len(weights[0]), generator)
    weights[rest] = same
    attention.k_proj.weight[:size] = weights
    attention.q_proj.weight[:size] = 0
    attention.q_proj.weight[rest] = -same


def _reader(wordless: Tensor) -> Tensor:
    """The vector whose product with each of ``wordless`` is 1."""
    ones = torch.ones(len(wordless), dtype=torch.float64)
    return torch.linalg.lstsq(wordless.double(), ones).solution.float()


def _find_its_follower(
    attention: Attention, head: int, read: Tensor, written: Tensor, wordless: Tensor, generator: torch.Generator
) -> None:
    """The query is this word, the key the word before, less the word itself, since a sound may say a word twice. What
    holds no word, though it remembers one, is out of the question."""
    size, width = attention.head_dim, read.shape[1]
    rows = slice(head * size, (head + 1) * size)
    slow = torch.arange(SLOW_PAIRS, size // 2 - 1)
    slow = torch.cat([slow, slow + size // 2])
    compare = orthogonal(len(slow), size, generator)
    query, key = torch.zeros(size, width), torch.zeros(size, width)
    query[slow] = COMPARE * compare @ read
    key[slow] = COMPARE * compare @ (written - 0.8 * read)
    key[size // 2 - 1] = -OUT * _reader(wordless)
    attention.q_proj.weight[rows], attention.k_proj.weight[rows] = query, key
    attention.q_proj.bias[rows] = attention.k_proj.bias[rows] = 0
    attention.q_proj.bias[(head + 1) * size - size // 2 - 1] = OUT
    value = orthogonal(size, width, generator)
    attention.v_proj.weight[rows] = value
    attention.o_proj.weight[:, rows] = SAY * value.T
