"""Steps of text: what a row of a step is, and how its next token is drawn, without asking the host.

Everything that a step reads or writes is in tensors of :class:`TextRows`, in place. So the same function makes the
steps of a CPU one by one and those of a card from a recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from engine.conversation.sampling import TextSampling, penalize_seen, pick, top_p
from engine.model.fused import fused

KERNELS = "engine.conversation.draw_kernels"


@dataclass(frozen=True, slots=True)
class TextRows:
    """The rows of a step of text, one for each session."""

    step: Tensor
    """int64 [rows]: steps of the block so far."""
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
        made = (whole, whole, whole, whole, flag, flag, flag[:, None].expand(-1, vocabulary))
        wide = (torch.zeros(rows, steps), whole[:, None].expand(-1, steps))
        return cls(*(tensor.to(device, copy=True).contiguous() for tensor in (*made, *wide)))

    def narrowed(self, rows: int) -> TextRows:
        """The first ``rows`` of the same tensors."""
        return TextRows(*(getattr(self, item.name)[:rows] for item in fields(self)))

    def results(self) -> Tensor:
        """What the host wants to know, int64 [rows, 1 + steps]: whether the row is sound, and what was drawn."""
        return torch.cat((self.sound[:, None].long(), self.drawn), 1)


def draw_text(logits: Tensor, rows: TextRows, stops: Tensor, sampling: TextSampling) -> None:
    """Draw the next token of every row from ``logits`` [rows, V]; ``stops`` int64 [N]."""
    temperature = 1.0 if sampling.greedy else sampling.temperature
    scores = text_scores(
        logits, rows.seen, stops, rows.step, rows.least, sampling.repetition_penalty, temperature
    )  # fmt: skip
    count = min(1 if sampling.greedy else sampling.top_k, scores.shape[1])
    best, ids = scores.topk(count) if count > 1 else scores.max(-1, keepdim=True)
    choose_text_(
        best, ids, rows.uniform, stops, rows.limit, rows.step, rows.ids, rows.drawn, rows.seen, rows.alive, rows.sound,
        sampling.top_p,
    )  # fmt: skip


@fused(
    "(Tensor logits, Tensor seen, Tensor stops, Tensor step, Tensor least, float penalty, float temperature) -> Tensor",
    kernels=KERNELS,
)
def text_scores(
    logits: Tensor, seen: Tensor, stops: Tensor, step: Tensor, least: Tensor, penalty: float, temperature: float
) -> Tensor:
    """The scores float32 [rows, V] that tokens are drawn by, from ``logits`` [rows, V]: no stop token among the first
    ``least``, and what was ``seen`` is less likely. What is no number stays none."""
    scores = logits.float()
    stopping = scores[:, stops]
    banned = (step < least)[:, None].logical_and(stopping.isnan().logical_not_())
    scores = scores.index_copy(1, stops, stopping.masked_fill_(banned, float("-inf")))
    return penalize_seen(scores, seen, penalty) / temperature


@fused(
    "(Tensor best, Tensor ids, Tensor uniform, Tensor stops, Tensor limit, Tensor(a!) step, Tensor(b!) last, "
    "Tensor(c!) drawn, Tensor(d!) seen, Tensor(e!) alive, Tensor(f!) sound, float mass) -> ()",
    kernels=KERNELS,
)
def choose_text_(
    best: Tensor, ids: Tensor, uniform: Tensor, stops: Tensor, limit: Tensor, step: Tensor, last: Tensor,
    drawn: Tensor, seen: Tensor, alive: Tensor, sound: Tensor, mass: float,
) -> None:  # fmt: skip
    """Draw one of each row's ``best`` scores float32 [rows, N], the largest first, which ``ids`` int64 [rows, N] have,
    from those that make up ``mass`` of the probability; and note it. The others as in :class:`TextRows`."""
    # A score that is no number comes first.
    sound.logical_and_(best[:, 0].isfinite().logical_or_(~alive))
    choice = pick(top_p(best, mass).softmax(-1), uniform.gather(1, step[:, None])[:, 0])
    chosen = ids.gather(1, choice[:, None])
    last.copy_(chosen[:, 0])
    drawn.scatter_(1, step[:, None], chosen)
    seen.scatter_(1, chosen, seen.gather(1, chosen).logical_or_(alive[:, None]))
    step.add_(1)
    alive.logical_and_((chosen != stops).all(1)).logical_and_(step < limit)


def read_text(results: Sequence[Sequence[int]], limits: Sequence[int], stops: frozenset[int]) -> list[tuple[int, ...]]:
    """The tokens of each row, up to its stop token or limit, from :meth:`TextRows.results` on the host."""
    found = []
    for row, limit in zip(results, limits, strict=True):
        ids = tuple(row[1 : 1 + limit])
        end = next((index + 1 for index, token in enumerate(ids) if token in stops), len(ids))
        found.append(ids[:end])
    return found
