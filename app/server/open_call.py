"""A call while it lasts, with its engine session, its peer and its timers, and how all of that ends together."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from app.call.call import Call
from app.webrtc.peer import Peer
from app.webrtc.tracks import MicrophoneTimeline
from engine.client import EngineSession

log = logging.getLogger(__name__)

PEER_WAITS_S = 0.5
"""How long the peer waits for the call's end. It is longer when this process or the engine is held up."""

BUSY = ("hearing", "thinking", "speaking", "interrupted")
"""Phases of a call in which somebody is in the middle of something."""

LAST_WORD_S = 0.5
"""From the last sample of an answer that was handed to the track until it has been heard."""

LOOK_EVERY_S = 0.05

GIVE_UP_S = 10.0
"""After this a call that does not close is left to itself, so that its place can be used again."""


@dataclass(eq=False, slots=True)
class OpenCall:
    """A call and what belongs to it."""

    call: Call
    session: EngineSession
    resume_token: str
    timeline: MicrophoneTimeline = field(default_factory=MicrophoneTimeline)
    since: float = field(default_factory=time.monotonic)
    peer: Peer | None = None
    page: str | None = None
    """The name of the page that the peer belongs to, where it gave one."""
    grace: asyncio.TimerHandle | None = None
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    """For the end of its time."""
    reached: bool = False
    """Whether any of its peers was connected before the present one."""
    candidates: int = 0
    """Candidates of the present peer that were tried."""
    ignored: int = 0
    """Candidates that were not: see :mod:`app.webrtc.candidates`."""
    moving: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a peer takes the place of another."""
    ending: asyncio.Task[None] | None = None
    """The task that closes it, from the beginning of its end."""

    @property
    def connected(self) -> bool:
        """Whether its caller was ever there."""
        return self.reached or (self.peer is not None and self.peer.reached)

    def stop_grace(self) -> None:
        """The call is not going to end for want of a peer."""
        if self.grace is not None:
            self.grace.cancel()
            self.grace = None

    async def say_the_last_word(self, within_s: float, reason: str) -> None:
        """Return when nobody is in the middle of something, after ``within_s`` at the latest. A client that has to wait
        for that is told that the call then ends, for ``reason``."""
        if within_s <= 0 or not self._busy:
            return
        self.call.announce_end(within_s, reason)
        busy_at = time.monotonic()
        until = busy_at + within_s
        while self.ending is None and time.monotonic() < min(until, busy_at + LAST_WORD_S):
            await asyncio.sleep(LOOK_EVERY_S)
            if self._busy:
                busy_at = time.monotonic()

    @property
    def _busy(self) -> bool:
        return self.peer is not None and self.call.phase in BUSY

    async def close(self, reason: str) -> None:
        """End the call, its engine session and its peer. Ends within some seconds, whatever hangs or fails; nothing
        that is begun here is cancelled for being slow, since what is cancelled half way is never finished."""
        self.stop_grace()
        for timer in self.timers:
            timer.cancel()
        closing = asyncio.create_task(self.call.close(reason))
        await asyncio.wait([closing], timeout=PEER_WAITS_S)
        if self.peer is not None:
            await self.peer.close(flush=True)
        if not (await asyncio.wait([closing], timeout=GIVE_UP_S))[0]:
            log.error("call %s: does not close, and is left to itself", self.call.call_id)
        elif error := closing.exception():
            log.error("call %s: did not close cleanly", self.call.call_id, exc_info=error)
