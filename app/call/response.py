"""The record of one answer: what was said, how long it took, how much of it was heard."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from engine.client import INPUT_RATE, OUTPUT_RATE, Chunk
from engine.spoken import SpokenText

MAX_REPORTED_BUFFER_MS = 2_000.0
"""A listener's buffer is not believed to be longer than this."""


@dataclass(frozen=True, slots=True)
class Heard:
    """How far an answer was heard."""

    samples: int
    """Of its sound, 24 kHz."""
    characters: int


@dataclass(slots=True)
class Response:
    """Times are media time, samples at 16 kHz."""

    turn: int
    epoch: int
    speak: bool
    decided: int
    speech_end: int | None
    units_before: int
    """Number of the last unit that the answer waits for."""
    spoken: SpokenText = field(default_factory=SpokenText)
    samples: int = 0
    """Of its sound that came (24 kHz)."""
    prefilled: int | None = None
    first_text: int | None = None
    first_audio: int | None = None
    reported_buffer_ms: float = 0.0
    """What the listener says is still in its own buffer."""

    def add(self, chunk: Chunk, now: int) -> None:
        """A chunk has come."""
        self.spoken.add(chunk.text, chunk.starts)
        self.samples += len(chunk.pcm)
        if chunk.text and self.first_text is None:
            self.first_text = now

    def unit_prefilled(self, index: int, now: int) -> None:
        """The session holds unit ``index``."""
        if index >= self.units_before and self.prefilled is None:
            self.prefilled = now

    def heard(self, played: int, *, complete: bool) -> Heard:
        """How much was heard when ``played`` samples (24 kHz) were handed to the listener. Of an answer that was cut,
        what the listener's own buffer still held is taken off; one that is only written is read as it comes."""
        text = self.spoken.text
        if not self.speak:
            return Heard(self.samples if complete else 0, len(text))
        if complete:
            return Heard(played, len(text))
        buffered = min(self.reported_buffer_ms, MAX_REPORTED_BUFFER_MS)
        samples = max(0, played - round(buffered * OUTPUT_RATE / 1000))
        return Heard(samples, self.spoken.heard_chars(samples))

    def timing(self, begin: int, end: int) -> dict[str, Any]:
        """What ``assistant.text`` tells of when characters ``begin`` to ``end - 1`` are spoken; nothing where they are
        not."""
        start = self.spoken.start(begin) if self.speak else None
        if start is None:
            return {}
        return {"audio_start_ms": _sound_ms(start), "starts": _starts_ms(self.spoken.between(begin, end))}

    def mended(self, chunk: Chunk, before: int) -> list[list[float]]:
        """The starts that a chunk mends: those of the first ``before`` characters, which came with earlier ones."""
        starts = chunk.starts if self.speak else ()
        return _starts_ms(start for start in starts if start[0] < before)

    def summary(self, heard: Heard) -> dict[str, Any]:
        """What ``response.done`` tells."""
        return {
            "heard_ms": _sound_ms(heard.samples) if self.speak else 0.0,
            "heard_chars": heard.characters,
            "timings": {
                "endpoint_ms": _milliseconds(self.speech_end, self.decided),
                "prefill_ms": _milliseconds(self.decided, self.prefilled),
                "first_text_ms": _milliseconds(self.decided, self.first_text),
                "first_audio_ms": _milliseconds(self.decided, self.first_audio),
            },
        }


def _milliseconds(begin: int | None, end: int | None) -> float | None:
    return None if begin is None or end is None else round((end - begin) * 1000 / INPUT_RATE, 1)


def _sound_ms(samples: int) -> float:
    return round(samples * 1000 / OUTPUT_RATE, 1)


def _starts_ms(starts: Iterable[tuple[int, int]]) -> list[list[float]]:
    """Pairs of a character and a sample as the protocol has them: with milliseconds."""
    return [[character, _sound_ms(sample)] for character, sample in starts]
