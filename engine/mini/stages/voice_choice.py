"""How mini's language model begins: already aware of the voice that it is asked to answer in.

The sound tokens of a voice prompt say whose voice it is, along one direction
(:func:`engine.mini.world.words.voice_direction`), and so do those of the turns, which must not matter. What tells the
two apart is that nothing ended before the prompt. Without help the language model settles on one voice for all, and the
more certain it is the less it can still learn. So two heads are written into it, with directions found by least squares
in what their layers see, in a model that is new as well as in one that was trained. Training makes them exact and
learns the answer's two voices (:func:`engine.mini.stages.language.voice_vectors`) from what they say.

1. Each token marks whether a message ended before it.
2. Each token takes the mean of whose voice it is over all tokens without that mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.mini.stages.induction import copy, head_rows, single_row
from engine.mini.stages.training import orthogonal
from engine.model.decoder import DecoderLayer
from engine.model.llm import LanguageModel

MARKING, READING = (1, 2), (2, 1)
"""Layer and head of the two: heads that repeating (:mod:`engine.mini.stages.induction`) leaves free."""
CERTAIN = 8.0
"""Attention logit between what is looked at and all else."""
MARK, TONE = 0.7, 0.1
"""How large what they write is, compared with the states that it is added to."""
RIDGE = 1e-3
"""Of least squares, as a share of the mean square of what is seen."""


@dataclass(frozen=True, slots=True)
class Example:
    """A batch of conversations."""

    ids: Tensor
    """int64 [B, T]."""
    embeds: Tensor
    """float32 [B, T, hidden]."""
    tones: Tensor
    """What each token says along the direction of voices, float32 [B, T]."""


@torch.no_grad()
def plant_voice_choice(llm: LanguageModel, examples: Sequence[Example], end: int) -> None:
    """Writes the heads. ``end`` is the id that ends a message."""
    mark, tone = orthogonal(2, llm.model.sizes.hidden_size, torch.Generator().manual_seed(25))
    seen, size = _inputs(llm, examples, MARKING[0])
    ends = _fit(seen, [example.ids == end for example in examples])
    _write(llm, MARKING, ends, ends, MARK * size * mark)
    seen, size = _inputs(llm, examples, READING[0])
    later = _fit(seen, [(example.ids == end).cumsum(1) > 0 for example in examples])
    read = _fit(seen, [example.tones for example in examples])
    _write(llm, READING, -later, read, TONE * size * tone)


def _inputs(llm: LanguageModel, examples: Sequence[Example], layer: int) -> tuple[Tensor, float]:
    """What the attention of a layer sees [tokens, hidden], and the median length of the states that it adds to."""
    seen, sizes = [], []
    for example in examples:
        x, turn = example.embeds, llm.model._turn(example.embeds, None, None)
        for index in range(layer):
            x = llm.model.layers[index](x, turn, index, None, None)
        seen.append(decoder_layer(llm, layer).input_layernorm(x).flatten(0, 1))
        sizes.append(x.norm(dim=-1).flatten())
    return torch.cat(seen), torch.cat(sizes).median().item()


def decoder_layer(llm: LanguageModel, index: int) -> DecoderLayer:
    """One of the layers, by its type."""
    return llm.model.layers[index]  # type: ignore[return-value]


def _fit(seen: Tensor, aims: Sequence[Tensor]) -> Tensor:
    """The vector whose product with each row of ``seen`` is nearest to ``aims`` (in double precision: see
    :func:`engine.mini.stages.training.orthogonal`)."""
    x, aim = seen.double(), torch.cat([a.flatten() for a in aims]).double()
    square = x.T @ x
    ridge = RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype, device=square.device)
    out: Tensor = torch.linalg.solve(square + ridge, x.T @ aim).float()
    return out


def _write(llm: LanguageModel, place: tuple[int, int], key: Tensor, value: Tensor, written: Tensor) -> None:
    """A head whose query is constant: the tokens with the highest product with ``key`` win, and the mean of their
    products with ``value`` is written along ``written``. All three [hidden]."""
    layer, head = place
    attention = decoder_layer(llm, layer).self_attn
    size, rows = attention.head_dim, head_rows(attention, head)
    for part in (attention.q_proj, attention.k_proj, attention.v_proj):
        part.weight[rows] = 0
        part.bias[rows] = 0
    # The slowest rotary pair, which is the same at any distance.
    slow = rows.start + size // 2 - 1
    strength = (CERTAIN * size**0.5) ** 0.5
    attention.q_proj.bias[slow] = strength
    attention.k_proj.weight[slow] = strength * key
    copy(attention, head, single_row(value, size), single_row(written, size))
