"""Steps of speech: what a row of a step is, and how its next codes are drawn, without asking the host.

As :mod:`engine.conversation.text_steps`, for the four codes of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.conversation.sampling import SpeechSampling, pick, speech_probabilities
from engine.conversation.text_steps import KERNELS
from engine.model.fused import fused
from engine.model.tts import CodeTables


@dataclass(frozen=True, slots=True)
class SpeechRows:
    """The rows of a step of speech, one for each voice."""

    step: Tensor
    """int64 [rows]: steps of the block so far."""
    embeds: Tensor
    """[rows, hidden], the embedded codes drawn last."""
    history: Tensor
    """int64 [rows, num_vq, window], the codes that the repetition penalty counts; negative: none. The oldest comes
    first as a block begins; what is drawn takes the oldest's place."""
    begun: Tensor
    """bool [rows]: there are codes before the next ones."""
    guard: Tensor
    """int64 [rows], steps before the end of speech may be drawn."""
    limit: Tensor
    """int64 [rows], steps that the row asked for."""
    text_length: Tensor
    """int64 [rows], text tokens that the row's voice has read."""
    alive: Tensor
    """bool [rows]: what is drawn next counts. False behind the end of speech or the limit, and for a row that nobody
    has."""
    sound: Tensor
    """bool [rows]: all scores that counted were finite."""
    uniform: Tensor
    """float32 [rows, steps, num_vq], what codes are drawn with."""
    drawn: Tensor
    """int64 [rows, steps, num_vq]"""

    @classmethod
    def make(cls, rows: int, steps: int, window: int, codes: int, like: Tensor) -> SpeechRows:
        """Rows that nobody has; ``like`` [hidden] has the device and dtype of the embeddings."""
        whole, flag = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.bool)
        history = torch.full((rows, codes, window), -1)
        made = (
            whole,
            torch.zeros(rows, len(like), dtype=like.dtype),
            history,
            flag,
            whole,
            whole,
            whole,
            flag,
            flag,
        )
        wide = (torch.zeros(rows, steps, codes), torch.zeros(rows, steps, codes, dtype=torch.int64))
        return cls(*(tensor.to(like.device, copy=True) for tensor in (*made, *wide)))

    def narrowed(self, rows: int) -> SpeechRows:
        """The first ``rows`` of the same tensors."""
        return SpeechRows(*(getattr(self, item.name)[:rows] for item in fields(self)))

    def results(self) -> Tensor:
        """What the host wants to know, int64 [rows, 1 + steps * num_vq]: whether the row is sound, and the codes."""
        return torch.cat((self.sound[:, None].long(), self.drawn.flatten(1)), 1)


def draw_codes(logits: Tensor, rows: SpeechRows, tables: CodeTables, end: int, sampling: SpeechSampling) -> None:
    """Draw the next codes of every row from ``logits`` [rows, num_vq, V]; ``end`` is the end of speech."""
    choose_codes_(
        logits, rows.uniform, rows.alive, rows.begun, rows.guard, rows.step, rows.history, rows.drawn, rows.sound,
        sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_keep, sampling.repetition_penalty,
        sampling.greedy,
    )  # fmt: skip
    go_on_(
        rows.drawn, rows.limit, rows.step, rows.begun, rows.alive, rows.embeds, tables.embeddings, tables.offsets, end
    )  # fmt: skip


@fused(
    "(Tensor logits, Tensor uniform, Tensor alive, Tensor begun, Tensor guard, Tensor step, Tensor(a!) history, "
    "Tensor(b!) drawn, Tensor(c!) sound, float[] temperature, float mass, int count, int least, float penalty, "
    "bool greedy) -> ()",
    kernels=KERNELS,
)
def choose_codes_(
    logits: Tensor, uniform: Tensor, alive: Tensor, begun: Tensor, guard: Tensor, step: Tensor, history: Tensor,
    drawn: Tensor, sound: Tensor, temperature: Sequence[float], mass: float, count: int, least: int, penalty: float,
    greedy: bool,
) -> None:  # fmt: skip
    """Draw codes from ``logits`` [rows, num_vq, V], and note them. The tensors are those of :class:`SpeechRows`, the
    numbers those of :class:`SpeechSampling`: of ``count`` candidates those that make up ``mass``, or ``least`` of them.
    """
    logits = logits.float()
    sound.logical_and_(logits.amax((1, 2)).isfinite().logical_or_(~alive))
    window = history.shape[2]
    sampling = SpeechSampling(tuple(temperature), mass, count, penalty, window, least)
    chances = speech_probabilities(logits, history, sampling, warp=begun, allow_end=guard <= step)
    place = step[:, None, None].expand(-1, 1, logits.shape[1])
    codes = pick(chances, None if greedy else uniform.gather(1, place)[:, 0])
    drawn.scatter_(1, place, codes[:, None])
    if penalty != 1.0:  # nobody asks for it otherwise
        history.scatter_(2, place.transpose(1, 2) % window, codes[:, :, None])


@fused(
    "(Tensor drawn, Tensor limit, Tensor(a!) step, Tensor(b!) begun, Tensor(c!) alive, Tensor(d!) embeds, "
    "Tensor embeddings, Tensor offsets, int end) -> ()",
    kernels=KERNELS,
)
def go_on_(
    drawn: Tensor, limit: Tensor, step: Tensor, begun: Tensor, alive: Tensor, embeds: Tensor, embeddings: Tensor,
    offsets: Tensor, end: int,
) -> None:  # fmt: skip
    """Embed what was drawn for the next step, in ``embeds`` [rows, hidden], and note whether there is one. The tensors
    are those of :class:`SpeechRows` and :class:`~engine.model.tts.CodeTables`."""
    codes = drawn.gather(1, step[:, None, None].expand(-1, 1, drawn.shape[2]))[:, 0]
    begun.fill_(True)
    step.add_(1)
    alive.logical_and_((codes != end).all(1)).logical_and_(step < limit)
    embeds.copy_(F.embedding(codes + offsets, embeddings).sum(-2))
