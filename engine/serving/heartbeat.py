"""Whether a worker lives: it is asked for a sign of life all the time.

A worker may run and not answer: stopped, deadlocked, swapped out. Silence is counted in rounds of this loop, none for
more than two: when it is this process that stood still, the worker is not to blame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PING_EVERY_S = 0.5
SILENT_S = 2.0
"""Without a sign of life for so long, the engine is not ready, and calls are told."""

HUNG_S = 5.0
"""Without one for so long, the worker is killed and started again. Calls survive that, so that it is better to begin
anew than to wait much longer for something that may never come back."""

SILENT_START_S = 120.0
"""The same while it loads: imports and pages of weights hold the interpreter for long."""

STUCK_S = 300.0
"""A model that takes so long for one piece of work is stuck: the slowest, pictures in slices on a CPU, take less."""


class Heartbeat:
    """Of one worker. Every sign of life is told to :meth:`beat`."""

    def __init__(self, ping: Callable[[], None], stalls: Callable[[], None], recovers: Callable[[], None]) -> None:
        """``ping`` asks for a sign of life. ``stalls`` is called when the worker, which had started, does not answer,
        ``recovers`` when it answers again."""
        self._ping, self._stalls, self._recovers = ping, stalls, recovers
        self._silent_s = 0.0
        self.started = False
        """The worker has loaded its model."""
        self.busy_s = 0.0
        """Seconds that the model has been at work on its present piece."""

    @property
    def stalled(self) -> bool:
        """The worker has started and has not given a sign of life for :data:`SILENT_S`."""
        return self.started and self._silent_s >= SILENT_S

    def beat(self) -> None:
        """Something came from the worker."""
        was_stalled, self._silent_s = self.stalled, 0.0
        if was_stalled:
            self._recovers()

    async def failure(self) -> str:
        """Watch the worker until it is to be given up, and return why, as the end of a sentence about it."""
        loop = asyncio.get_running_loop()
        while True:
            self._ping()
            begun, was_stalled = loop.time(), self.stalled
            await asyncio.sleep(PING_EVERY_S)
            self._silent_s += min(loop.time() - begun, 2 * PING_EVERY_S)
            if self.stalled and not was_stalled:
                self._stalls()
            limit_s = HUNG_S if self.started else SILENT_START_S
            if self._silent_s >= limit_s:
                return f"did not answer for {limit_s:g} s and was ended"
            if self.busy_s >= STUCK_S:
                return "was stuck in one step of the model and was ended"
