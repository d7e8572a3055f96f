"""Steps of speech: what a row of a step is, and how its next codes are drawn, without asking the host.

As :mod:`engine.conversation.text_steps`, for the four codes of a step.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from engine.conversation.sampling import SpeechSampling, pick, speech_probabilities
from engine.model.tts import CodeTables


@dataclass(frozen=True, slots=True)
class SpeechRows:
    """The rows of a step of speech, one for each voice."""

    step: Tensor
    """int64 [1]: steps of the block so far."""
    embeds: Tensor
    """[rows, hidden], the embedded codes drawn last."""
    history: Tensor
    """int64 [rows, num_vq, window], the codes that the repetition penalty counts; negative: none."""
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
            whole[:1],
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
        return SpeechRows(self.step, *(getattr(self, item.name)[:rows] for item in fields(self)[1:]))

    def results(self) -> Tensor:
        """What the host wants to know, int64 [rows, 1 + steps * num_vq]: whether the row is sound, and the codes."""
        return torch.cat((self.sound[:, None].long(), self.drawn.flatten(1)), 1)


def draw_codes(logits: Tensor, rows: SpeechRows, tables: CodeTables, end: int, sampling: SpeechSampling) -> None:
    """Draw the next codes of every row from ``logits`` float32 [rows, num_vq, V]; ``end`` is the end of speech."""
    rows.sound.logical_and_(logits.amax((1, 2)).isfinite().logical_or_(~rows.alive))
    chances = speech_probabilities(logits, rows.history, sampling, warp=rows.begun, allow_end=rows.guard <= rows.step)
    codes = pick(chances, None if sampling.greedy else rows.uniform.index_select(1, rows.step)[:, 0])
    rows.drawn.index_copy_(1, rows.step, codes[:, None])
    if sampling.repetition_penalty != 1.0:  # nobody asks for it otherwise
        rows.history.copy_(torch.cat((rows.history[:, :, 1:], codes[:, :, None]), 2))
    rows.begun.fill_(True)
    rows.step.add_(1)
    rows.alive.logical_and_((codes != end).all(1)).logical_and_(rows.step < rows.limit)
    rows.embeds.copy_(tables.embed(codes[:, None])[:, 0])
