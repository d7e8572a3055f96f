"""The other end of a call in the same process: an aiortc client, and a stand-in for the call behind a peer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame, VideoFrame
from numpy.typing import NDArray

PATIENCE_S = 60.0


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds; a test on a busy machine waits long before it fails."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.01)


class Microphone(MediaStreamTrack):
    """Sends ``pcm`` (48 kHz mono) in real time, 20 ms a frame, and silence after it; without ``endless`` it stops
    there until ``again`` is set, and goes on as if time had passed."""

    kind = "audio"

    def __init__(self, pcm: NDArray[np.int16], *, endless: bool = True) -> None:
        super().__init__()
        self.pcm = pcm
        self.endless = endless
        self.again = asyncio.Event()
        self.position = 0
        self._begin = 0.0

    async def recv(self) -> AudioFrame:
        if self.position >= len(self.pcm) and not self.endless:
            await self.again.wait()
            self.endless = True
            self.position = int(48_000 * (time.monotonic() - self._begin))
        self._begin = self._begin or time.monotonic()
        await asyncio.sleep(max(0.0, self._begin + self.position / 48_000 - time.monotonic()))
        piece = np.zeros(960, np.int16)
        part = self.pcm[self.position : self.position + 960]
        piece[: len(part)] = part
        frame = AudioFrame.from_ndarray(piece[np.newaxis], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, self.position, Fraction(1, 48_000)
        self.position += 960
        return frame


class Camera(MediaStreamTrack):
    """Sends ``count`` pictures of noise (several packets each), a second of stream time apart, and after them one for
    each release of ``wanted``."""

    kind = "video"

    def __init__(self, count: int) -> None:
        super().__init__()
        self.wanted = asyncio.Semaphore(count)
        self.sent = 0

    async def recv(self) -> VideoFrame:
        await self.wanted.acquire()
        await asyncio.sleep(0.05)
        noise = np.random.default_rng(self.sent).integers(0, 256, (240, 320, 3), np.uint8)
        frame = VideoFrame.from_ndarray(noise, format="rgb24")
        frame = frame.reformat(format="yuv420p")
        frame.pts, frame.time_base = 90_000 * self.sent, Fraction(1, 90_000)
        self.sent += 1
        return frame


class Caller:
    """A client as a page is one: it offers audio, maybe video, and the channel ``events``."""

    def __init__(
        self,
        microphone: MediaStreamTrack | None = None,
        camera: MediaStreamTrack | None = None,
        codec: str = "",
        *,
        camera_first: bool = False,
        **configuration: Any,
    ) -> None:
        """``codec``, such as ``video/H264``, is the only one that the camera offers."""
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[], **configuration))
        self.channel = self.connection.createDataChannel("events")
        self.microphone = microphone or Microphone(np.zeros(0, np.int16))
        for track in [camera, self.microphone] if camera_first else [self.microphone, camera]:
            if track is not None:
                self.connection.addTrack(track)
        for transceiver in self.connection.getTransceivers():
            if transceiver.kind == "video":
                codecs = RTCRtpSender.getCapabilities("video").codecs
                transceiver.setCodecPreferences([c for c in codecs if c.mimeType == codec])
        self.channel.on("message", lambda raw: self.events.append(json.loads(raw)))
        self.connection.on("track", self._listen)
        self.events: list[dict[str, Any]] = []
        self.heard: list[AudioFrame] = []
        self._listener: asyncio.Task[None] | None = None
        self._seq = 0

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return self.connection.localDescription.sdp

    async def accept(self, sdp: str) -> None:
        await self.connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    async def connected(self) -> None:
        await until(lambda: self.channel.readyState == "open", "the data channel")

    def send(self, kind: str, **data: Any) -> None:
        self.channel.send(json.dumps({"v": 1, "type": kind, "seq": self._seq, "data": data}))
        self._seq += 1

    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    async def receive(self, kind: str, count: int = 1) -> dict[str, Any]:
        """Wait for an event of this type; return the last one."""
        await until(lambda: len(self.of_type(kind)) >= count, f"{kind} among {self.types()}")
        return self.of_type(kind)[-1]

    def transport(self) -> Any:
        """The ICE transport, to drop packets at."""
        return self.connection.getTransceivers()[0].sender.transport.transport

    def vanish(self) -> None:
        """Fall silent without a word, as a device that lost its network does."""

        async def nowhere(data: bytes) -> None:
            return None

        transport = self.transport()
        transport._send = nowhere
        transport._connection.check_incoming = lambda *_: None
        for protocol in transport._connection._protocols:
            protocol.send_stun = lambda *_: None

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
        await self.connection.close()

    def _listen(self, track: MediaStreamTrack) -> None:
        async def listen() -> None:
            try:
                while True:
                    frame = await track.recv()
                    assert isinstance(frame, AudioFrame)
                    self.heard.append(frame)
            except MediaStreamError:
                return

        self._listener = asyncio.create_task(listen())


class ProbeCall:
    """What a peer needs of a call, noting all that the peer does with it. It speaks a tone of 1 kHz for ever."""

    def __init__(self) -> None:
        self.call_id = "probe"
        self.microphone = SimpleNamespace(push=lambda pcm, rate, pts: self.audio.append((pcm, rate, pts)))
        self.output = SimpleNamespace(pull=self._pull)
        self.audio: list[tuple[NDArray[np.int16], int, int]] = []
        self.pictures: list[bytes] = []
        self.received: list[str] = []
        self.warnings: list[str] = []
        self.figures: list[Mapping[str, Any]] = []
        self.pauses = 0
        self.send: Callable[[str], None] | None = None
        self._phase = 0

    def _pull(self, count: int) -> NDArray[np.int16]:
        angle = 2 * np.pi * 1_000 * (self._phase + np.arange(count)) / 24_000
        self._phase += count
        return (10_000 * np.sin(angle)).astype(np.int16)

    def push_frame(self, jpeg: bytes) -> None:
        self.pictures.append(jpeg)

    def receive(self, raw: str) -> None:
        self.received.append(raw)

    def warn(self, code: str, message: str) -> None:
        self.warnings.append(code)

    def attach(self, send: Callable[[str], None]) -> None:
        self.send = send

    def microphone_paused(self) -> None:
        self.pauses += 1

    def metrics(self, figures: Mapping[str, Any]) -> None:
        self.figures.append(figures)
