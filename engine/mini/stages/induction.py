"""How mini's language model begins: already able to repeat.

To say again what was heard, a transformer needs heads in several layers that work together (induction; Olsson et al.,
arXiv 2209.11895). None is of use without the others, so gradient descent finds them late: an hour of training on two
cores did not. Here they are written into the initial weights, roughly; training makes them exact.

1. Each token finds *the last word*: itself, when it is one; what lies between words is passed over.
2. Each token copies that from the token just before it: a word knows *the word before*, even where they are the same.
3. Each token finds the last word again and what it knows: *the word before the last*.
4. Each token copies that, too, from the token just before it: a word knows *the second word before*.
5. The word just said looks for one that follows this word and the one before it, and says it. So in "four seven three
   seven five" it is known what follows each "seven".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.mini.stages.training import orthogonal
from engine.model.decoder import Attention
from engine.model.llm import LanguageModel

REACH = 6.0
"""Tokens after which the pull of an earlier word has fallen to 1/e."""
PULL = 80.0
"""Attention logit of a word that was just heard."""
SKIP = 0.6
"""Share of this logit that a token without a word loses."""
NEAREST = 120.0
"""Attention logit of the one token that a head looks at because of its place."""
STEEP_PAIRS = 16
"""Rotary pairs that tell distance where it has to be far or near."""
FAST_PAIRS = 12
"""Rotary pairs that tell a place exactly."""
SLOW_PAIRS = 16
"""The first rotary pair that turns so slowly that words are compared whatever their distance."""
WRITE = 1.5
"""Scale of what is remembered, in standard deviations of an embedding."""
MARK = 3.0
"""The same, of the mark of what is no word."""
SILENCE = 0.3
"""What makes such a mark, as it is read two layers later, about 1."""
COMPARE = 3.0
"""Scale of what is compared."""
OUT, HEARD = 10.0, 0.2
"""Scale of what rules a token out, and the share of it that words in sound are preferred by."""
RECENT = 5.0
"""Attention logit that a word of the same turn has before one of long ago."""
SAY = 8.0
"""Scale of what is said."""


@torch.no_grad()
def plant_induction(llm: LanguageModel, wordless: Sequence[int]) -> None:
    """Writes the heads into the first five layers. ``wordless`` are the ids that stand between the words of a turn."""
    generator = torch.Generator().manual_seed(23)
    embeddings, theta = llm.model.embed_tokens.weight, llm.model.sizes.rope_theta
    width, scale = embeddings.shape[1], WRITE * float(embeddings.std())
    between = _reader((embeddings / embeddings.square().mean(1, keepdim=True).sqrt())[list(wordless)])
    first, second, third, fourth, fifth = [m for m in llm.model.modules() if isinstance(m, Attention)][:5]
    size = first.head_dim
    # What is remembered lies in subspaces of the states.
    last, before, last_but_one, second_before, marks = orthogonal(width, width, generator).split(size)
    silent, heard = marks[:2]

    _look_back(first, 0, theta, between)
    copy(first, 0, orthogonal(size, width, generator), scale * last)
    # What is no word gets a mark in a direction of its own, and so does what follows on it: words in sound.
    _look_at(first, 1, 0, theta)
    copy(first, 1, single_row(between, size), single_row(MARK * scale * silent, size))
    _look_at(second, 0, 1, theta)
    copy(second, 0, last, scale * before)
    _look_at(second, 1, 1, theta)
    copy(second, 1, single_row(silent, size), single_row(MARK * scale * heard, size))
    _look_back(third, 0, theta, SILENCE * silent)
    copy(third, 0, before, scale * last_but_one)
    _look_at(fourth, 0, 1, theta)
    copy(fourth, 0, last_but_one, scale * second_before)
    out = OUT * (HEARD * heard - silent)
    for head, part in enumerate(orthogonal(width, width, generator).split(size)):
        _find_the_follower(fifth, head, [(last, before), (before, second_before)], out, generator)
        copy(fifth, head, part, SAY * part)


def single_row(vector: Tensor, size: int) -> Tensor:
    """A matrix [size, width] that holds one ``vector``."""
    return torch.cat([vector[None], torch.zeros(size - 1, len(vector))])


def head_rows(attention: Attention, head: int) -> slice:
    """Where a head lies in the projections."""
    return slice(head * attention.head_dim, (head + 1) * attention.head_dim)


def copy(attention: Attention, head: int, read: Tensor, written: Tensor) -> None:
    """What a head takes from the tokens that it looks at, and where it puts that; both [head_dim, width]."""
    rows = head_rows(attention, head)
    attention.v_proj.weight[rows], attention.o_proj.weight[:, rows] = read, written.T


def _look_back(attention: Attention, head: int, theta: float, between: Tensor) -> None:
    """Constant queries and keys whose rotary product falls with the distance; keys of what lies between words, which
    ``between`` tells with 1, are smaller."""
    size, rows = attention.head_dim, head_rows(attention, head)
    distances = torch.arange(201, dtype=torch.float64)  # double: see orthogonal()
    angles = distances[:, None] * theta ** (-torch.arange(0, 2 * STEEP_PAIRS, 2) / size)
    basis, aim = torch.cat([angles.cos(), angles.sin()], 1), (-distances / REACH).exp()
    fit = torch.linalg.solve(basis.T @ basis + 0.05 * torch.eye(2 * STEEP_PAIRS), basis.T @ aim)
    cosine, sine = fit.float().chunk(2)
    strength, phase = (PULL * size**0.5 * (cosine**2 + sine**2).sqrt()).sqrt(), torch.atan2(-sine, cosine)
    query, key = torch.zeros(size), torch.zeros(size)
    key[:STEEP_PAIRS] = strength
    query[:STEEP_PAIRS], query[size // 2 : size // 2 + STEEP_PAIRS] = strength * phase.cos(), strength * phase.sin()
    attention.q_proj.bias[rows], attention.k_proj.bias[rows] = query, key
    attention.q_proj.weight[rows], attention.k_proj.weight[rows] = 0, -SKIP * key[:, None] * between


def _look_at(attention: Attention, head: int, back: int, theta: float) -> None:
    """Constant queries and keys whose rotary product is largest ``back`` tokens before."""
    size, rows = attention.head_dim, head_rows(attention, head)
    angles = back * theta ** (-torch.arange(0, 2 * FAST_PAIRS, 2) / size)
    strength = (NEAREST * size**0.5 / FAST_PAIRS) ** 0.5
    query, key = torch.zeros(size), torch.zeros(size)
    key[:FAST_PAIRS] = strength
    query[:FAST_PAIRS], query[size // 2 : size // 2 + FAST_PAIRS] = strength * angles.cos(), -strength * angles.sin()
    attention.q_proj.bias[rows], attention.k_proj.bias[rows] = query, key
    attention.q_proj.weight[rows] = attention.k_proj.weight[rows] = 0


def _reader(wordless: Tensor) -> Tensor:
    """The vector whose product with each of ``wordless`` is 1."""
    ones = torch.ones(len(wordless), dtype=torch.float64)
    out: Tensor = torch.linalg.lstsq(wordless.double(), ones).solution.float()
    return out


def _find_the_follower(
    attention: Attention, head: int, pairs: Sequence[tuple[Tensor, Tensor]], out: Tensor, generator: torch.Generator
) -> None:
    """Compares the first subspace of each of ``pairs``, of the word just said, with the second one of every token;
    ``out`` reads what else speaks for a token or rules it out: what lies between words remembers some, too."""
    size, rows = attention.head_dim, head_rows(attention, head)
    slow = torch.arange(SLOW_PAIRS, size // 2 - 1)
    slow = torch.cat([slow, slow + size // 2])
    query, key = torch.zeros(size, len(out)), torch.zeros(size, len(out))
    for said, remembered in pairs:
        compare = COMPARE * orthogonal(len(slow), size, generator)
        query[slow] += compare @ said
        key[slow] += compare @ remembered
    key[size // 2 - 1] = out
    attention.q_proj.weight[rows], attention.k_proj.weight[rows] = query, key
    constant = torch.zeros(size)
    constant[SLOW_PAIRS - 1] = (RECENT * size**0.5) ** 0.5
    attention.k_proj.bias[rows] = constant
    constant[size // 2 - 1] = OUT
    attention.q_proj.bias[rows] = constant
