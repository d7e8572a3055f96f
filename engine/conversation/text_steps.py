"""Steps of text: what a row of a step is, and how its next token is drawn, without asking the host.

Everything that a step reads or writes is in tensors of :class:`TextRows`, in place. So the same function makes the
steps of a CPU one by one and those of a card from a recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from engine.conversation.sampling import TextSampling, text_token


@dataclass(frozen=True, slots=True)
class TextRows:
    """The rows of a step of text, one for each session."""

    step: Tensor
    """int64 [1]: steps of the block so far."""
    ids: Tensor
    """int64 [rows], drawn last."""
    limit: Tensor
    """int64 [rows], steps that the row asked for."""
    least: Tensor
    """int64 [rows], steps before a stop token may be drawn."""
    alive: Tensor
    """bool [rows]: what is drawn next counts. False behind a stop token or the limit, and for a row that nobody has."""
    sound: Tensor
    """bool [rows]: all scores that counted were finite."""
    seen: Tensor
    """bool [rows, V], ids that the repetition penalty counts."""
    uniform: Tensor
    """float32 [rows, steps], what ids are drawn with."""
    drawn: Tensor
    """int64 [rows, steps]"""

    @classmethod
    def make(cls, rows: int, steps: int, vocabulary: int, device: torch.device) -> TextRows:
        """Rows that nobody has."""
        whole, flag = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.bool)
        made = (whole[:1], whole, whole, whole, flag, flag, flag[:, None].expand(-1, vocabulary))
        wide = (torch.zeros(rows, steps), whole[:, None].expand(-1, steps))
        return cls(*(tensor.to(device, copy=True).contiguous() for tensor in (*made, *wide)))

    def narrowed(self, rows: int) -> TextRows:
        """The first ``rows`` of the same tensors."""
        return TextRows(self.step, *(getattr(self, item.name)[:rows] for item in fields(self)[1:]))

    def results(self) -> Tensor:
        """What the host wants to know, int64 [rows, 1 + steps]: whether the row is sound, and what was drawn."""
        return torch.cat((self.sound[:, None].long(), self.drawn), 1)


def draw_text(scores: Tensor, rows: TextRows, stops: Tensor, sampling: TextSampling) -> None:
    """Draw the next token of every row from ``scores`` float32 [rows, V], which change; ``stops`` int64 [N]."""
    rows.sound.logical_and_(scores.amax(-1).isfinite().logical_or_(~rows.alive))  # NaN if any score is
    stopping = scores[:, stops].masked_fill_((rows.step < rows.least)[:, None], float("-inf"))
    scores.index_copy_(1, stops, stopping)
    ids = text_token(scores, rows.seen, sampling, rows.uniform.index_select(1, rows.step)[:, 0])
    rows.ids.copy_(ids)
    rows.drawn.index_copy_(1, rows.step, ids[:, None])
    rows.seen.scatter_(1, ids[:, None], rows.seen.gather(1, ids[:, None]).logical_or_(rows.alive[:, None]))
    rows.step.add_(1)
    rows.alive.logical_and_((ids[:, None] != stops).all(1)).logical_and_(rows.step < rows.limit)


def read_text(results: Sequence[Sequence[int]], limits: Sequence[int], stops: frozenset[int]) -> list[tuple[int, ...]]:
    """The tokens of each row, up to its stop token or limit, from :meth:`TextRows.results` on the host."""
    found = []
    for row, limit in zip(results, limits, strict=True):
        ids = tuple(row[1 : 1 + limit])
        end = next((index + 1 for index, token in enumerate(ids) if token in stops), len(ids))
        found.append(ids[:end])
    return found
