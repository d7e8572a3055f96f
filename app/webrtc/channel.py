"""The data channel ``events`` of one peer: text goes to the call, events of the call go to the browser.

What a well-behaved page never sends is stopped here: binary messages, messages over 16 KB, floods.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from aiortc import RTCDataChannel

from app.token_bucket import TokenBucket

log = logging.getLogger(__name__)

LABEL = "events"
MAX_MESSAGE_BYTES = 16 * 1024
MESSAGES_PER_S = 30.0
MESSAGE_BURST = 120.0
"""A page sends a few messages per second; a burst of this size is still no flood."""

FLOOD_LIMIT = 120
"""Messages beyond the rate that are dropped before the call is ended."""

MAX_UNSENT_BYTES = 4 * 1024 * 1024
"""A peer that lets this much pile up does not read any more. What a resumed call repeats fits well within."""


FLUSH_TRIES = 20


class Events(Protocol):
    """The call, as far as its events go; see :class:`app.call.call.Call`."""

    def receive(self, raw: str) -> None:
        """One message of the client."""

    def warn(self, code: str, message: str) -> None:
        """Send a warning to the client."""

    def attach(self, send: Callable[[str], None]) -> None:
        """Send events here from now on."""


class EventChannel:
    """Joins an open data channel and a call."""

    def __init__(
        self,
        channel: RTCDataChannel,
        events: Events,
        flooded: Callable[[], None],
        clogged: Callable[[], None],
    ) -> None:
        """``flooded()`` is called once when the client sends far too much, ``clogged()`` when it stops reading."""
        self._channel = channel
        self._events = events
        self._flooded = flooded
        self._clogged = clogged
        self._rate = TokenBucket(MESSAGES_PER_S, MESSAGE_BURST)
        self._dropped = 0
        channel.on("message", self._receive)
        events.attach(self._send)

    async def flush(self) -> None:
        """Take nothing in any more, and wait until what was sent has left, but not long: the client may be gone."""
        self._channel.remove_listener("message", self._receive)
        for _ in range(FLUSH_TRIES):
            await asyncio.sleep(0.01)
            if self._channel.readyState != "open" or not self._channel.bufferedAmount:
                break

    def _receive(self, message: str | bytes) -> None:
        if self._rate.full:
            self._dropped = 0
        if not self._rate.take():
            self._drop()
        elif isinstance(message, bytes):
            self._events.warn("binary_message", "A binary message was ignored: events are JSON text.")
        elif len(message.encode()) > MAX_MESSAGE_BYTES:
            self._events.warn(
                "message_too_large", f"A message of {len(message.encode())} bytes was ignored: 16 KB is the limit."
            )
        else:
            self._events.receive(message)

    def _drop(self) -> None:
        self._dropped += 1
        if self._dropped == 1:
            self._events.warn(
                "message_flood",
                f"Messages come too fast and are being ignored; more than {MESSAGES_PER_S:.0f} a second end the call.",
            )
        elif self._dropped == FLOOD_LIMIT:
            self._flooded()

    def _send(self, message: str) -> None:
        if self._channel.readyState != "open":
            return
        if self._channel.bufferedAmount > MAX_UNSENT_BYTES:
            self._clogged()
            return
        self._channel.send(message)
