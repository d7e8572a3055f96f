"""One call: microphone, camera and client events in; speech and server events out.

The deterministic core. All inputs are synchronous, do not block, belong on the event loop and are totally ordered;
everything that a call does follows from that order, so that replaying the inputs gives the identical events. Media
time, the number of 16 kHz microphone samples processed in whole 20 ms frames, is its only clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from app.config import CallConfig
from app.engine_link import EngineLink
from app.microphone import Microphone
from app.playout import SpeechQueue
from app.tap import CallTap
from engine.client import EngineInfo, EngineSession


class Call:
    """Create it on a running event loop; end it with :meth:`close`."""

    call_id: str
    config: CallConfig
    microphone: Microphone
    """``push(samples, rate, pts)``"""
    output: SpeechQueue
    """``pull(n)``"""
    link: EngineLink
    """``await idle()``, and ``held`` results for replay"""

    def __init__(
        self,
        call_id: str,
        config: CallConfig,
        session: EngineSession,
        tap: CallTap | None = None,
        *,
        engine: EngineInfo | None = None,
        resume_token: str | None = None,
        resume_s: float | None = None,
        recorded: bool = False,
        held: bool = False,
        on_end: Callable[[str], None] | None = None,
    ) -> None:
        """``on_end(reason)`` is called once when the call ends by itself (``bye``, the engine is lost); the owner then
        closes it. ``held`` keeps the engine's results back until ``link.release()`` lets them take effect (replay of
        recorded times). ``resume_token``, ``resume_s`` and ``recorded`` are told to the client only, never to the tap.
        """
        raise NotImplementedError

    @property
    def t_samples(self) -> int:
        """Media time, samples at 16 kHz."""
        raise NotImplementedError

    def push_frame(self, jpeg: bytes) -> None:
        """The newest camera picture; it goes with the next unit."""

    def receive(self, raw: str) -> None:
        """One message of the client. The peer limits their rate."""

    def microphone_paused(self) -> None:
        """No audio packet for more than a second; the next one ends the pause."""

    def attach(self, send: Callable[[str], None]) -> None:
        """Send events here from now on; ``send`` must not raise. See :mod:`app.protocol` for what a second one gets."""

    def detach(self) -> None:
        """There is no connection; events are kept for the next one."""

    def metrics(self, figures: Mapping[str, Any]) -> None:
        """Send the connection's figures to the client (not recorded)."""

    def warn(self, code: str, message: str) -> None:
        """Send a warning about the connection to the client (not recorded)."""

    def announce_end(self, in_s: float, reason: str) -> None:
        """Tell the client that the server is going to end the call (not recorded)."""

    async def close(self, reason: str) -> None:
        """End the call and the engine's session. Twice is no error."""
