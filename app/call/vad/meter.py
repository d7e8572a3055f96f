"""When the level of the microphone is worth telling the client."""

from __future__ import annotations

from typing import Any

from engine.client import INPUT_RATE

SHORTEST_SAMPLES = INPUT_RATE // 10
"""At most ten ``vad`` events a second."""

STEP_DB = 3.0
"""A change of level that is worth an event."""


class LevelMeter:
    """Remembers what the client was told last."""

    def __init__(self) -> None:
        self._t, self._speaking, self._level = -SHORTEST_SAMPLES, False, 0.0

    def push(self, t_samples: int, speaking: bool, level_dbfs: float) -> dict[str, Any] | None:
        """Data of a ``vad`` event, or None where nothing changed or the last event was just now."""
        changed = speaking != self._speaking or abs(level_dbfs - self._level) >= STEP_DB
        if t_samples - self._t < SHORTEST_SAMPLES or not changed:
            return None
        self._t, self._speaking, self._level = t_samples, speaking, level_dbfs
        return {"speaking": speaking, "level": min(0.0, round(level_dbfs, 1))}
