"""What preparing answers in a pause costs: how many drafts were kept, how many were in vain, and the work in them."""

from __future__ import annotations

from typing import Any

from engine.client import INPUT_RATE, OUTPUT_RATE, Chunk


class DraftCosts:
    """Counts the drafts of one call. Times ``now`` are media time, samples at 16 kHz."""

    def __init__(self) -> None:
        self._kept = self._dropped = 0
        self._lost = self._lost_speech = self._lost_characters = 0
        self._begun = self._ended = 0
        self._speech = self._characters = 0

    def begin(self, now: int) -> None:
        """The engine is asked for a draft."""
        self._begun = self._ended = now
        self._speech = self._characters = 0

    def chunk(self, chunk: Chunk, now: int) -> None:
        """A piece of the draft has come."""
        self._ended = now
        self._speech += len(chunk.pcm)
        self._characters += len(chunk.text)

    def keep(self) -> None:
        """It is the answer."""
        self._kept += 1

    def drop(self, now: int, *, finished: bool) -> None:
        """It was in vain. The engine worked on it until ``now`` unless it had ``finished`` it before."""
        self._dropped += 1
        self._lost += (self._ended if finished else now) - self._begun
        self._lost_speech += self._speech
        self._lost_characters += self._characters

    def figures(self, now: int) -> dict[str, Any]:
        """For the ``metrics`` event. The share is of the call's time: an upper bound of what the engine wasted, since
        it may also have waited for room or for other calls."""
        return {
            "drafts_kept": self._kept,
            "drafts_dropped": self._dropped,
            "drafts_dropped_chars": self._lost_characters,
            "drafts_dropped_speech_ms": round(1000 * self._lost_speech / OUTPUT_RATE),
            "drafts_dropped_share": round(self._lost / max(now, INPUT_RATE), 4),
        }
