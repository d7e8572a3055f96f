"""Asks somebody who listens, whether the person is done, for one. What they say is an input of the call, like any."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.call.media_time import FRAME_SAMPLES
from engine.client import INPUT_RATE

LONGEST_SAMPLES = 8 * INPUT_RATE
"""How much is listened to at most: the end of what was said."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class EndOfTurn(Protocol):
    """Who can tell from its sound whether a turn is over."""

    async def probability(self, audio: NDArray[np.int16]) -> float:
        """That the person is done, 0 to 1, after ``audio``, int16 [n] at 16 kHz, with the silence at its end."""
        ...


class SoundJudge(Generic[T]):
    """Keeps the newest seconds of the microphone and asks about them, one question at a time."""

    def __init__(self, ask: Callable[[NDArray[np.int16]], Awaitable[T]], tell: Callable[[int, T], None]) -> None:
        """``ask(audio)`` is given int16 [n] at 16 kHz; ``tell(end, answer)`` is called on the event loop."""
        self._question = ask
        self._tell = tell
        self._line: deque[NDArray[np.int16]] = deque(maxlen=LONGEST_SAMPLES // FRAME_SAMPLES)
        self._asking: asyncio.Task[None] | None = None

    def push(self, frame: NDArray[np.int16]) -> None:
        """The next 20 ms of the microphone, int16 [320]."""
        self._line.append(frame)

    def ask(self, end: int, samples: int) -> None:
        """Ask about what was said until media time ``end``, the newest ``samples``. A question that is still open is
        given up: the person has spoken since."""
        self.close()
        frames = list(self._line)[-max(1, -(-samples // FRAME_SAMPLES)) :]
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
            answer = await self._question(audio)
        except Exception:  # silence still ends the turn, and who insists still stops an answer
            log.exception("a question about what was said came to nothing")
            return
        self._tell(end, answer)
