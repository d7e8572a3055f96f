"""One peer: a browser's connection (RFC 8825) joined to a call.

The call outlives it. When the peer is lost, another one can take its place; see :mod:`app.server.calls`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceCandidate,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamTrack

from app.errors import RequestError
from app.webrtc.channel import LABEL, EventChannel
from app.webrtc.offer import Offer
from app.webrtc.stats import Figures
from app.webrtc.tracks import MicrophoneTimeline, VoiceTrack, receive_camera, receive_microphone

if TYPE_CHECKING:
    from app.call.call import Call

log = logging.getLogger(__name__)

TICK_S = 0.25
TICKS_PER_HEARTBEAT = 4
CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 10.0
SILENT_S = 3.0
"""A peer from which nothing at all came for this long is lost. A live one answers each second's metrics event with a
receipt at least (SACK, RFC 9260 section 6.2). aiortc by itself takes half a minute to notice."""

MICROPHONE_PAUSE_S = 1.0
CLOSE_TIMEOUT_S = 1.0

_closing: set[asyncio.Task[None]] = set()


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """What all peers of a server share."""

    ice_servers: tuple[RTCIceServer, ...]
    workers: Executor
    """Threads on which camera pictures are encoded."""


class Peer:
    """Joins one RTCPeerConnection to ``call`` from the offer to :meth:`close`."""

    def __init__(
        self,
        call: Call,
        timeline: MicrophoneTimeline,
        settings: PeerSettings,
        lost: Callable[[Peer, str], None],
        flooded: Callable[[], None],
    ) -> None:
        """``lost(peer, why)`` is called once when the connection is gone and :meth:`close` was not called;
        ``flooded()`` when the client does nothing but send messages."""
        self._call = call
        self._timeline = timeline
        self._settings = settings
        self._lost = lost
        self._flooded = flooded
        # An empty list: with None, aiortc asks a public STUN server, and waits for it for five seconds. A transport
        # for each section, until the offer says which ones share theirs.
        self._connection = RTCPeerConnection(
            RTCConfiguration(iceServers=list(settings.ice_servers), bundlePolicy=RTCBundlePolicy.MAX_COMPAT)
        )
        self._connection.on("track", self._on_track)
        self._connection.on("datachannel", self._on_channel)
        self._connection.on("connectionstatechange", self._on_state)
        self._voice = VoiceTrack(call.output.pull)
        self._tasks: set[asyncio.Task[None]] = set()
        self._channel: EventChannel | None = None
        self._figures = Figures()
        self._closing = False
        self._given_up = False
        self._connected = False
        self._paused = False
        self._begun = self._alive = self._last_audio = time.monotonic()

    async def answer(self, offer: Offer) -> str:
        """The answer (SDP). Raises RequestError ``bad_sdp`` or ``no_address``; the peer is then closed."""
        connection = self._connection
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                connection.addTransceiver(self._voice, "sendrecv")
                await connection.setRemoteDescription(RTCSessionDescription(offer.sdp, "offer"))
                await connection.setLocalDescription()
            answer = offer.answer(connection.localDescription.sdp)
        except BaseException as error:
            await self.close()
            if isinstance(error, asyncio.CancelledError | RequestError):
                raise
            log.debug("an offer could not be answered", exc_info=True)
            raise RequestError("bad_sdp", "The offer's SDP can be read but not answered; is it a fresh one?") from error
        self._start(self._watch())
        return answer

    @property
    def reached(self) -> bool:
        """Whether the connection was ever there."""
        return self._connected

    async def add_candidate(self, candidate: RTCIceCandidate) -> None:
        """Try this address of the browser too."""
        candidate.sdpMid = self._connection.getTransceivers()[0].mid  # the first one's transport is the bundle's
        await self._connection.addIceCandidate(candidate)

    async def close(self, *, flush: bool = False) -> None:
        """End the connection, with ``flush`` after the last events have left. Twice is no error."""
        if self._closing:
            return
        self._closing = True
        self._voice.stop()  # from here on its successor takes the voice from the call
        for task in self._tasks:
            task.cancel()
        if flush and self._channel is not None:
            await self._channel.flush()
        closing = asyncio.create_task(self._connection.close())
        _closing.add(closing)  # it goes on where it takes longer: cancelled half way it would leave sockets and threads
        closing.add_done_callback(_closing.discard)
        await asyncio.wait([closing], timeout=CLOSE_TIMEOUT_S)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("call %s: a task of its peer failed", self._call.call_id, exc_info=error)
            self._give_up("internal")

    def _give_up(self, why: str) -> None:
        if not self._closing and not self._given_up:
            self._given_up = True
            # Not at once: the call may be in the middle of sending the event that found the peer gone.
            asyncio.get_running_loop().call_soon(self._tell_lost, why)

    def _tell_lost(self, why: str) -> None:
        if not self._closing:
            self._lost(self, why)

    # What aiortc tells

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":  # the offer leaves one sending section of each kind
            microphone = self._call.microphone
            self._start(receive_microphone(track, self._timeline, microphone.push, self._on_audio))
        else:
            self._start(receive_camera(track, self._settings.workers, self._call.push_frame))

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if channel.label != LABEL or self._channel is not None or self._closing:
            channel.close()
            return
        self._channel = EventChannel(channel, self._call, self._flooded, lambda: self._give_up("clogged"))

    def _on_state(self) -> None:
        state = self._connection.connectionState
        log.debug("call %s: peer is %s", self._call.call_id, state)
        if state == "connected":
            self._connected = True
            self._alive = self._last_audio = time.monotonic()
        elif state in ("failed", "closed"):
            self._give_up(state)

    def _on_audio(self) -> None:
        self._last_audio = time.monotonic()
        self._paused = False

    # What the clock tells

    async def _watch(self) -> None:
        for tick in itertools.count(1):
            before = time.monotonic()
            await asyncio.sleep(TICK_S)
            late = time.monotonic() - before - TICK_S
            self._alive += late  # while this process was held up, nothing could be received
            self._last_audio += late
            if self._connected:
                self._watch_microphone()
            if tick % TICKS_PER_HEARTBEAT == 0:
                await self._beat()

    def _watch_microphone(self) -> None:
        if not self._paused and time.monotonic() - self._last_audio > MICROPHONE_PAUSE_S:
            self._paused = True
            self._call.microphone_paused()

    async def _beat(self) -> None:
        now = time.monotonic()
        if not self._connected:
            if now - self._begun > CONNECT_TIMEOUT_S:
                self._give_up("not_connected")
            return
        metrics = self._figures.update(await self._connection.getStats())
        if self._figures.received_something:
            self._alive = now
        if now - self._alive > SILENT_S:
            self._give_up("silent")
        elif self._channel is not None:
            self._call.metrics(metrics)
