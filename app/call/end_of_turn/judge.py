"""Asks somebody who listens whether the person is done. What they say is an input of the call, like any other."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.call.media_time import FRAME_SAMPLES
from engine.client import INPUT_RATE

LONGEST_SAMPLES = 8 * INPUT_RATE
"""How much of a turn is listened to at most, its end."""

log = logging.getLogger(__name__)


class EndOfTurn(Protocol):
    """Who can tell from its sound whether a turn is over."""

    async def probability(self, audio: NDArray[np.int16]) -> float:
        """That the person is done, 0 to 1, after ``audio``, int16 [n] at 16 kHz, with the silence at its end."""
        ...


class TurnJudge:
    """Keeps the newest seconds of the microphone and asks about them, one question at a time."""

    def __init__(self, listener: Callable[[], EndOfTurn], tell: Callable[[int, float], None]) -> None:
        """``listener()`` is made when it is first needed; ``tell(end, probability)`` is called on the event loop."""
        self._make = listener
        self._listener: EndOfTurn | None = None
        self._tell = tell
        self._line: deque[NDArray[np.int16]] = deque(maxlen=LONGEST_SAMPLES // FRAME_SAMPLES)
        self._asking: asyncio.Task[None] | None = None

    def prepare(self) -> None:
        """Somebody will be asked: have them there when it is time."""
        if self._listener is None:
            self._listener = self._make()

    def push(self, frame: NDArray[np.int16]) -> None:
        """The next 20 ms of the microphone, int16 [320]."""
        self._line.append(frame)

    def ask(self, end: int, turn_samples: int) -> None:
        """Whether the person was done at media time ``end``; the turn is ``turn_samples`` long by now. A question that
        is still open is given up: the person has spoken since."""
        self.close()
        frames = list(self._line)[-max(1, -(-turn_samples // FRAME_SAMPLES)) :]
        self._asking = asyncio.get_running_loop().create_task(self._ask(end, np.concatenate(frames)))

    async def idle(self) -> None:
        """Return when no question is open."""
        if self._asking is not None:
            await asyncio.wait([self._asking])

    def close(self) -> None:
        """Give an open question up."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    async def _ask(self, end: int, audio: NDArray[np.int16]) -> None:
        try:
            self.prepare()
            assert self._listener is not None
            probability = await self._listener.probability(audio)
        except Exception:  # silence still ends the turn
            log.exception("it could not be judged whether a turn is over")
            return
        self._tell(end, probability)
