"""One answer on its way from the model to the caller, and what is left of it in the context afterwards."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.client import Chunk
from engine.conversation.speech import SpeechChunk
from engine.conversation.streaming import LiveAnswer
from engine.conversation.work import Feed
from engine.serving.answer import CHUNKS_AHEAD, AnswerPipe
from engine.serving.scheduler import Job, Urgency


@dataclass(frozen=True, slots=True)
class _Piece:
    """A piece of text that was handed over."""

    audio_start: int
    """Sample at which it is spoken, as its chunk said."""
    spoken_before: int
    """Samples that were handed over before it."""
    position: int
    """Tokens that the session was fed once it holds the piece."""


@dataclass(slots=True, eq=False)
class ServedAnswer:
    """One answer, seen from both sides: the model's thread counts what it pushed, the event loop what was taken."""

    epoch: int
    number: int
    """Of the session's answers, from 1."""
    pipe: AnswerPipe = field(default_factory=AnswerPipe)
    job: Job | None = None
    live: LiveAnswer | None = None
    """Set when it begins."""
    complete: bool = False
    """The model came to its end, by itself or at the limit."""
    pushed: int = 0
    taken: int = 0
    spoken: int = 0
    """Samples (24 kHz) pushed."""
    pieces: list[_Piece] = field(default_factory=list)

    @property
    def is_ahead(self) -> bool:
        """The consumer has enough to take."""
        return self.pushed - self.taken >= CHUNKS_AHEAD

    def urgency(self) -> Urgency:
        if not self.spoken:
            return Urgency.FIRST_AUDIO
        return Urgency.ANSWER if self.pushed > self.taken else Urgency.RUNNING_DRY

    def chunk(self, piece: SpeechChunk) -> Chunk | None:
        """The next chunk, from what the model gave; None if there is nothing in it."""
        pcm = to_pcm(piece.wave)
        if not piece.text and not len(pcm):
            return None
        if piece.text and self.live is not None and self.live.speech is not None:
            position = self.live.speech.said[-1][1]
            self.pieces.append(_Piece(piece.audio_start, self.spoken, position))
        chunk = Chunk(self.epoch, self.pushed, piece.text, pcm, piece.audio_start)
        self.pushed += 1
        self.spoken += len(pcm)
        return chunk

    def settle(self, heard: int) -> Generator[Any, Any, None]:
        """Let the context end with the last piece whose beginning was heard; nothing heard: as if it had never begun.

        The result depends on ``heard`` (samples, 24 kHz) and on the chunks up to the one with the last heard sample,
        not on how far the model had come when it was stopped, so that a replayed call remembers the same. An answer
        that is only written stays as far as it came.
        """
        live = self.live
        if live is None or live.text is None or not live.options.speak or (self.complete and heard >= self.spoken):
            return
        state, pool = live.state, live.stream.pool
        known = [piece.position for piece in self.pieces if max(piece.audio_start, piece.spoken_before) < heard]
        if not known:
            pool.truncate(state, live.before)
            return
        if known[-1] > state.position:  # the last token of a piece is fed with the next one, which did not come
            yield Feed(state, live.stream.embed(live.text.ids[-1:]))
            state.note("answer", 1)
        mark = replace(state.mark(), position=known[-1], book=replace(state.book, completed=False))
        pool.truncate(state, mark)


def to_pcm(wave: Tensor) -> NDArray[np.int16]:
    """Wave float32 [N] in [-1, 1] -> int16 [N]; louder is clipped."""
    return (wave.clamp(-1, 1) * 32767).round().numpy().astype(np.int16)
