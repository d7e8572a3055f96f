"""How often something may happen.

The time comes from a clock that a test can replace. It is the wall's, not the media's: nothing here is part of a call's
course, and none of it is recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]


class TokenBucket:
    """Allows ``burst`` events at once and ``per_s`` events per second in the long run."""

    def __init__(self, per_s: float, burst: float, clock: Clock = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._tokens = burst
        self._at = clock()

    def take(self) -> bool:
        """Count one event; False if it is one too many, which is then not counted."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    @property
    def wait_s(self) -> float:
        """Seconds until the next event is allowed."""
        missing = 1 - self._tokens - (self._clock() - self._at) * self._per_s
        return max(0.0, missing / self._per_s)

    @property
    def full(self) -> bool:
        """Whether nothing happened for so long that the bucket remembers nothing."""
        return self._tokens + (self._clock() - self._at) * self._per_s >= self._burst
