"""Jitter buffers that put RTP packets in order and wait no longer than it is worth.

Both take one packet at a time and give the encoded frames that are complete now, in order. Neither knows a clock:
they decide by sequence numbers and RTP timestamps (RFC 3550 section 5.1) alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from aiortc.jitterbuffer import JitterFrame
from aiortc.rtp import RtpPacket

MAX_LATE = 100
"""Packets. One that is older than this is no latecomer: the stream began anew."""

AUDIO_MAX_JUMP = 200
"""Packets ahead (4 s of 20 ms each). A larger step is not a loss: the stream began anew."""

VIDEO_MAX_JUMP = 512
VIDEO_CLOCK_HZ = 90_000


@dataclass(frozen=True, slots=True)
class Frame:
    """One encoded frame and the RTP payload type that says how."""

    payload_type: int
    encoded: JitterFrame


def step(to: int, origin: int) -> int:
    """The distance from ``origin`` to ``to`` around the circle of 16-bit sequence numbers, -32768 to 32767."""
    return ((to - origin + 0x8000) & 0xFFFF) - 0x8000


class AudioJitterBuffer:
    """Releases a packet at once if nothing is missing before it; else waits for ``max_wait`` later packets.

    One audio packet is one frame (RFC 7587 section 4.2). What was waited for in vain is given up and everything
    behind it released together, so that a loss delays the frames behind it once and the stream not at all.
    """

    def __init__(self, max_wait: int = 2) -> None:
        self._max_wait = max_wait
        self._next: int | None = None
        self._ssrc: int | None = None
        self._waiting: dict[int, RtpPacket] = {}

    def add(self, packet: RtpPacket) -> list[Frame]:
        """Take one packet; return the frames to decode now (often one, none while waiting, several after a gap)."""
        released: list[Frame] = []
        number = packet.sequence_number
        if self._next is None or packet.ssrc != self._ssrc:
            released += self._begin(packet)
        ahead = step(number, self._next or 0)
        if -MAX_LATE < ahead < 0:
            return released
        if not 0 <= ahead <= AUDIO_MAX_JUMP:
            released += self._begin(packet)
        self._waiting[number] = packet
        return released + self._release(self._max_wait)

    def _begin(self, packet: RtpPacket) -> list[Frame]:
        """Let go of the stream so far and expect ``packet`` next."""
        left = self._release(0)
        self._next, self._ssrc = packet.sequence_number, packet.ssrc
        return left

    def _release(self, max_wait: int) -> list[Frame]:
        released = []
        while self._waiting and self._next is not None:
            packet = self._waiting.pop(self._next, None)
            if packet is None and len(self._waiting) <= max_wait:
                break
            self._next = (self._next + 1) & 0xFFFF
            if packet is not None and (data := _payload(packet)):
                released.append(Frame(packet.payload_type, JitterFrame(data, packet.timestamp)))
        return released


class VideoJitterBuffer:
    """Releases a picture as soon as its last packet is there, which the marker bit tells (RFC 3550 section 5.1).

    A picture whose packets were lost is given up when pictures ``max_wait_s`` younger (in RTP time) have arrived,
    by when retransmission had its chance; the caller then asks for a key frame.
    """

    def __init__(self, max_wait_s: float = 0.5) -> None:
        self._max_wait = int(max_wait_s * VIDEO_CLOCK_HZ)
        self._next: int | None = None
        self._ssrc: int | None = None
        self._waiting: dict[int, RtpPacket] = {}
        self._newest = 0

    def add(self, packet: RtpPacket) -> tuple[list[Frame], bool]:
        """Take one packet; return the pictures to decode now, and whether a picture was given up."""
        number, lost = packet.sequence_number, False
        if self._next is None or packet.ssrc != self._ssrc:
            self._begin(packet)
        ahead = step(number, self._next or 0)
        if -MAX_LATE < ahead < 0:
            return [], False
        if not 0 <= ahead <= VIDEO_MAX_JUMP:
            self._begin(packet)
            lost = True
        if not self._waiting or _newer(packet.timestamp, self._newest):
            self._newest = packet.timestamp
        self._waiting[number] = packet
        frames = self._release()
        while self._waiting and self._overdue():
            self._give_up()
            lost = True
            frames += self._release()
        return frames, lost

    def _begin(self, packet: RtpPacket) -> None:
        self._waiting.clear()
        self._next, self._ssrc = packet.sequence_number, packet.ssrc

    def _release(self) -> list[Frame]:
        frames = []
        while picture := self._complete_picture():
            data = b"".join(map(_payload, picture))
            frames.append(Frame(picture[0].payload_type, JitterFrame(data, picture[0].timestamp)))
            self._drop(picture)
        return frames

    def _complete_picture(self) -> list[RtpPacket]:
        """The packets of the next picture if all are there, else nothing."""
        assert self._next is not None
        picture: list[RtpPacket] = []
        number = self._next
        while (packet := self._waiting.get(number)) is not None:
            if picture and packet.timestamp != picture[0].timestamp:
                return picture  # a sender that sets no marker: the next picture's first packet ends this one
            picture.append(packet)
            if packet.marker:
                return picture
            number = (number + 1) & 0xFFFF
        return []

    def _overdue(self) -> bool:
        return ((self._newest - self._oldest().timestamp) & 0xFFFFFFFF) >= self._max_wait

    def _give_up(self) -> None:
        """Drop the incomplete picture in front, and the one behind the gap: its beginning may be what is missing."""
        assert self._next is not None
        front = self._waiting.get(self._next)
        if front is not None:
            self._drop([p for p in self._waiting.values() if p.timestamp == front.timestamp])
        if self._waiting and self._next not in self._waiting:
            behind = self._oldest()
            self._drop([p for p in self._waiting.values() if p.timestamp == behind.timestamp])

    def _oldest(self) -> RtpPacket:
        origin = self._next or 0
        return min(self._waiting.values(), key=lambda packet: step(packet.sequence_number, origin))

    def _drop(self, packets: list[RtpPacket]) -> None:
        """Forget these packets and expect what comes after the last of them."""
        assert self._next is not None
        origin = self._next
        last = max(step(packet.sequence_number, origin) for packet in packets)
        for packet in packets:
            del self._waiting[packet.sequence_number]
        self._next = (origin + last + 1) & 0xFFFF


def _newer(timestamp: int, than: int) -> bool:
    return 0 < ((timestamp - than) & 0xFFFFFFFF) < 0x80000000


def _payload(packet: RtpPacket) -> bytes:
    """The codec's bytes, which aiortc puts there without the payload header of RTP."""
    data: bytes = packet._data  # type: ignore[attr-defined]
    return data
