"""What a session was given and what was heard of its answers: all that it takes to build it again.

Bounded like the session itself: no more than the context holds. Pictures go first, the oldest before the newer, then
whole units and answers; what of the rest is too much the window of the new session lets go of, as the old one did.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from engine.client import MAX_REWIND_UNITS, Chunk, FinishReason, Prefilled, Unit
from engine.spoken import SpokenText

MAX_BYTES = 32 << 20
"""Of sound and pictures: five minutes of sound are 10 MB."""


@dataclass(slots=True, eq=False)
class FedUnit:
    """A unit that the session holds."""

    unit: Unit
    tokens: int
    picture_tokens: int

    @property
    def size(self) -> int:
        """Bytes of sound and picture."""
        return self.unit.audio.nbytes + len(self.unit.frame or b"")

    @property
    def is_empty(self) -> bool:
        """It was a picture, which is gone."""
        return not (len(self.unit.audio) or self.unit.text or self.unit.frame)

    def drop_picture(self) -> None:
        self.unit = replace(self.unit, frame=None)
        self.tokens, self.picture_tokens = self.tokens - self.picture_tokens, 0


@dataclass(slots=True, eq=False)
class Answered:
    """An answer: as far as it came, and from :meth:`settle` on as far as it was heard."""

    epoch: int
    speak: bool
    said: SpokenText = field(default_factory=SpokenText)
    made: int = 0
    """Samples (24 kHz) that came."""
    finish: FinishReason | None = None
    heard: int | None = None
    """Samples that were played; None until that is known."""
    read: int | None = None
    """Characters that count; None for all of them."""

    def add(self, chunk: Chunk) -> None:
        self.said.add(chunk.text, chunk.starts)
        self.made += len(chunk.pcm)
        self.finish = chunk.finish

    def settle(self, samples: int, read: int | None) -> None:
        """``samples`` and ``read`` as :meth:`engine.client.EngineSession.heard` takes them."""
        self.heard = samples
        complete = self.finish in ("stop", "length")
        if read is None and not (samples >= self.made and (complete or not self.speak)):
            read = self.said.heard_chars(samples)
        self.read = read

    @property
    def is_settled(self) -> bool:
        return self.heard is not None

    def as_remembered(self) -> dict[str, Any]:
        """The arguments of :meth:`engine.client.EngineSession.remember`."""
        samples = self.made if self.heard is None else self.heard
        starts = tuple(start for start in self.said.starts if start[1] < samples)
        return {"text": self.said.text[: self.read], "samples": samples, "starts": starts}


Entry = FedUnit | Answered


class Journal:
    """Of one session, in the order in which it happened."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.forgotten_answers = 0
        """Answers that were given before the first entry; their number decides what is drawn in later ones."""

    def feed(self, unit: Unit, prefilled: Prefilled) -> None:
        """The session holds ``unit``."""
        self.entries.append(FedUnit(replace(unit, ask_end=False), prefilled.tokens, prefilled.picture_tokens))
        self._trim(prefilled.context_limit)

    def begin(self, answer: Answered) -> None:
        """The session was asked for an answer, or takes in one that was given elsewhere."""
        self.entries.append(answer)

    def unsettled(self, epoch: int) -> Answered | None:
        """The last entry, if it is the answer of ``epoch`` and nobody has said what was heard of it."""
        last = self.entries[-1] if self.entries else None
        return last if isinstance(last, Answered) and last.epoch == epoch and not last.is_settled else None

    def rewind(self, units: int) -> None:
        """The session has forgotten the last ``units`` units and what came after the first of them."""
        while units:
            units -= isinstance(self.entries.pop(), FedUnit)

    def _trim(self, context_limit: int) -> None:
        fed = [entry for entry in self.entries if isinstance(entry, FedUnit)]
        tokens, size = sum(entry.tokens for entry in fed), sum(entry.size for entry in fed)
        for entry in fed[:-MAX_REWIND_UNITS]:
            if tokens <= context_limit and size <= MAX_BYTES:
                return
            tokens, size = tokens - entry.picture_tokens, size - len(entry.unit.frame or b"")
            entry.drop_picture()
        while len(fed) > MAX_REWIND_UNITS and (tokens > context_limit or size > MAX_BYTES):
            oldest = self.entries.pop(0)
            if isinstance(oldest, Answered):
                self.forgotten_answers += 1
            else:
                fed.pop(0)
                tokens, size = tokens - oldest.tokens, size - oldest.size
