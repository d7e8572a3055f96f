"""One answer on its way from the model to the caller, and what is left of it in the context afterwards."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.client import OUTPUT_RATE, Chunk
from engine.conversation.speech import SpeechChunk
from engine.conversation.streaming import LiveAnswer
from engine.conversation.work import Step
from engine.serving.answer import CHUNKS_AHEAD, AnswerPipe
from engine.serving.policy import MARGIN_S
from engine.serving.scheduler import Job


@dataclass(slots=True, eq=False)
class ServedAnswer:
    """One answer, seen from both sides: the model's thread counts what it pushed, the event loop what was taken."""

    epoch: int
    number: int
    """Of the session's answers, from 1."""
    asked: float = 0.0
    """When, on the scheduler's clock."""
    pipe: AnswerPipe[Chunk] = field(default_factory=AnswerPipe)
    job: Job | None = None
    live: LiveAnswer | None = None
    """Set when it begins."""
    complete: bool = False
    """The model came to its end, by itself or at the limit."""
    pushed: int = 0
    taken: int = 0
    spoken: int = 0
    """Samples (24 kHz) pushed."""
    untaken: deque[int] = field(default_factory=deque)
    """Samples of each chunk that the consumer has not taken yet."""
    dry: float = 0.0
    """When all that it took will have been played, on the scheduler's clock, if it plays without a pause."""

    @property
    def is_ahead(self) -> bool:
        """The consumer has enough to take."""
        return self.pushed - self.taken >= CHUNKS_AHEAD

    def due(self, now: float) -> float:
        """When the next piece of it should be under way: at once until something is heard, later a while before the
        consumer's playout runs dry."""
        if not self.spoken:
            return self.asked
        return max(self.dry, now) + sum(list(self.untaken)) / OUTPUT_RATE - MARGIN_S

    def take(self, now: float) -> None:
        """The consumer has taken the next chunk, and plays it behind the others."""
        self.taken += 1
        if self.untaken:  # the last chunk, which ends the answer, is no piece of it
            self.dry = max(self.dry, now) + self.untaken.popleft() / OUTPUT_RATE

    def chunk(self, piece: SpeechChunk) -> Chunk | None:
        """The next chunk, from what the model gave; None if there is nothing in it."""
        pcm = to_pcm(piece.wave)
        if not piece.text and not len(pcm) and not piece.starts:
            return None
        chunk = Chunk(self.epoch, self.pushed, piece.text, pcm, piece.starts)
        self.pushed += 1
        self.spoken += len(pcm)
        self.untaken.append(len(pcm))
        return chunk

    def settle(self, samples: int, read: int | None) -> Step[None]:
        """Let the context end with the first ``read`` characters, or where that is None with what was heard in the
        first ``samples`` (24 kHz); nothing of the answer: as if it had never begun. All of a complete one stays whole.

        The result depends on what the caller had got when it stopped, not on how far the model had come, so that a
        replayed call remembers the same.
        """
        live = self.live
        if live is None or live.text is None:
            return
        said = live.said
        live.state.pace = said.pace(samples)
        if read is None:
            if samples >= self.spoken and (self.complete or not live.options.speak):
                return
            read = said.spoken.heard_chars(samples)
        yield from live.cut(read)


def to_pcm(wave: Tensor) -> NDArray[np.int16]:
    """Wave float32 [N] in [-1, 1] -> int16 [N]; louder is clipped."""
    return (wave.clamp(-1, 1) * 32767).round().numpy().astype(np.int16)
