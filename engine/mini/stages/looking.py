"""Where the words of an answer come from, and a head of attention that is taught to look there.

Most words of mini's answers are taken from somewhere: from a picture token, from a word that was heard, from an answer
given before. Conversations are made here, so that is known to the token, and one head of the last layer learns it by a
loss of its own. From answers alone the language model finds out late, if ever, where to look: as in aligning speech
(:mod:`engine.mini.stages.voice`), saying it saves most of the training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.mini.stages.induction import head_rows
from engine.model.decoder import Attention, rotate
from engine.processing.tokens import TokenBuilder

Look = tuple[int, list[int]]
"""Number of a token of an answer, and the positions of the tokens that say it."""
HEAD = 0
"""The head of the last layer that is taught."""


def from_picture(
    answer: Sequence[int], looks: Iterable[tuple[str, int]], pictures: Sequence[int], builder: TokenBuilder
) -> Iterator[Look]:
    """``looks``: words of the answer in order, each with the picture token that says it; ``pictures``: where the turn's
    pictures begin (the same one, once for every unit)."""
    wanted = [(builder.text(" " + word)[0], slot) for word, slot in looks]
    for number, token in enumerate(answer):
        if wanted and token == wanted[0][0]:
            yield number, [first + wanted[0][1] for first in pictures]
            wanted.pop(0)


def from_words(answer: Sequence[int], heard: Sequence[int], places: Sequence[int]) -> Iterator[Look]:
    """``heard`` are the ids at ``places`` that the answer repeats in order; what is lost on the way is passed over."""
    at = 0
    for number, token in enumerate(answer):
        if token in heard[at:]:
            at = heard.index(token, at)
            yield number, [places[at]]
            at += 1


def from_answers(answer: Sequence[int], earlier: Sequence[tuple[int, list[int]]]) -> Iterator[Look]:
    """``earlier`` answers with where they begin: the last one that is the very same."""
    for first, said in reversed(earlier):
        if said == list(answer):
            yield from ((number, [first + number]) for number in range(len(answer)))
            return


def looking_loss(attention: Attention, x: Tensor, turn: tuple[Tensor, Tensor], looks: Tensor) -> Tensor:
    """Cross-entropy of what :data:`HEAD` looks at. ``x`` [B, T, hidden]: what goes into it; ``turn``: cosines
    and sines [1, 1, T, head_dim]; ``looks`` int64 [N, 3]: row, the position that looks, one that it may look at."""
    size, (cosine, sine) = attention.head_dim, (part[0, 0] for part in turn)
    rows = head_rows(attention, HEAD)
    pairs, which = looks[:, :2].unique(dim=0, return_inverse=True)
    row, at = pairs.T
    query = F.linear(x[row, at], attention.q_proj.weight[rows], attention.q_proj.bias[rows])
    key = F.linear(x, attention.k_proj.weight[rows], attention.k_proj.bias[rows])
    query, key = rotate(query, cosine[at], sine[at]), rotate(key, cosine, sine)
    scores = torch.einsum("nd,ntd->nt", query, key[row]).float() / size**0.5
    position = torch.arange(x.shape[1], device=x.device)
    scores = scores.masked_fill(position > at[:, None], -1e4)
    allowed = torch.zeros_like(scores, dtype=torch.bool)
    allowed[which, looks[:, 2]] = True
    out: Tensor = (scores.logsumexp(1) - scores.masked_fill(~allowed, -1e9).logsumexp(1)).mean()
    return out
