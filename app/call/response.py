"""The record of one answer: what was said, how long it took, how much of it was heard."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from app.call.playout import SpokenText
from engine.client import INPUT_RATE, OUTPUT_RATE, Chunk

MAX_REPORTED_BUFFER_MS = 2_000.0
"""A listener's buffer is not believed to be longer than this."""


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
    prefilled: int | None = None
    first_text: int | None = None
    first_audio: int | None = None
    reported_buffer_ms: float = 0.0
    """What the listener says is still in its own buffer."""

    def add(self, chunk: Chunk, now: int) -> None:
        """A chunk has come."""
        self.spoken.add(chunk.text, chunk.audio_start, len(chunk.pcm) if self.speak else 0)
        if chunk.text and self.first_text is None:
            self.first_text = now

    def unit_prefilled(self, index: int, now: int) -> None:
        """The session holds unit ``index``."""
        if index >= self.units_before and self.prefilled is None:
            self.prefilled = now

    def heard_samples(self, played: int, *, complete: bool) -> int:
        """How many of the ``played`` samples (24 kHz) were heard: of an answer that was cut, what the listener's own
        buffer still held is taken off."""
        buffered = 0.0 if complete else min(self.reported_buffer_ms, MAX_REPORTED_BUFFER_MS)
        return max(0, played - round(buffered * OUTPUT_RATE / 1000))

    def summary(self, heard: int, status: str) -> dict[str, Any]:
        """What ``response.done`` tells when ``heard`` samples (24 kHz) of the answer were heard."""
        complete = status == "completed"
        chars = len(self.spoken.text) if complete else self.spoken.heard_chars(heard)
        return {
            "heard_ms": round(heard * 1000 / OUTPUT_RATE, 1),
            "heard_chars": chars,
            "timings": {
                "endpoint_ms": _milliseconds(self.speech_end, self.decided),
                "prefill_ms": _milliseconds(self.decided, self.prefilled),
                "first_text_ms": _milliseconds(self.decided, self.first_text),
                "first_audio_ms": _milliseconds(self.decided, self.first_audio),
            },
        }


def _milliseconds(begin: int | None, end: int | None) -> float | None:
    return None if begin is None or end is None else round((end - begin) * 1000 / INPUT_RATE, 1)
