"""A peer and an aiortc client over the loopback: media both ways, events, losses, ends."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.webrtc import channel, peer, tracks
from tests.webrtc.caller import Caller, Camera, Microphone, until
from tests.webrtc.conftest import Connect


def tone(seconds: float) -> np.ndarray[Any, np.dtype[np.int16]]:
    return (8_000 * np.sin(2 * np.pi * 440 * np.arange(int(48_000 * seconds)) / 48_000)).astype(np.int16)


async def test_the_microphone_arrives_whole_and_in_order(connect: Connect) -> None:
    line = await connect(Caller(Microphone(tone(1.0), endless=False)))
    await until(lambda: len(line.call.audio) == 50, "50 frames")
    assert [pts for _, _, pts in line.call.audio] == [960 * k for k in range(50)]
    assert {rate for _, rate, _ in line.call.audio} == {48_000}
    heard = np.concatenate([pcm for pcm, _, _ in line.call.audio]).astype(float)
    spectrum = np.abs(np.fft.rfft(heard))
    assert np.fft.rfftfreq(len(heard), 1 / 48_000)[spectrum.argmax()] == 440


async def test_one_lost_packet_holds_nothing_back_and_is_repaired(connect: Connect) -> None:
    """aiortc's own buffer holds back four frames always, and fourteen after a loss, and leaves a gap."""
    caller = Caller(Microphone(tone(1.2), endless=False))
    line = await connect(caller)
    transport = caller.transport()
    send, rtp = transport._send, 0

    async def lossy(data: bytes) -> None:
        nonlocal rtp
        if 127 < data[0] < 192 and not 64 <= data[1] & 0x7F < 96:  # RTP and not RTCP (RFC 5761 section 4)
            rtp += 1
            if rtp == 20:
                return
        await send(data)

    transport._send = lossy
    await until(lambda: len(line.call.audio) >= 60, "all frames and the repaired one")
    stamps = np.array([pts for _, _, pts in line.call.audio])
    assert set(np.diff(stamps)) == {960}
    assert all(np.abs(pcm).max() > 1_000 for pcm, _, _ in line.call.audio[2:58])


@pytest.mark.parametrize("codec", ["video/VP8", "video/H264"])
async def test_a_picture_does_not_wait_for_the_next_one(connect: Connect, codec: str) -> None:
    """aiortc's own buffer would give the third picture when a fourth begins."""
    camera = Camera(0)
    line = await connect(Caller(camera=camera, codec=codec))
    for count in (1, 2, 3):
        camera.wanted.release()
        await until(lambda count=count: len(line.call.pictures) == count, f"picture {count}")  # type: ignore[misc]
    sizes = {Image.open(io.BytesIO(jpeg)).size for jpeg in line.call.pictures}
    assert sizes == {(320, 240)}


async def test_the_voice_arrives_as_it_was_spoken(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracks, "MAX_LATE_S", 60.0)  # nothing is left out where this machine stands still
    line = await connect()
    await until(lambda: len(line.caller.heard) >= 100, "two seconds of voice")
    frames = line.caller.heard[10:90]
    assert [frame.pts - frames[0].pts for frame in frames] == [960 * k for k in range(80)]
    heard = np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(float)
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    assert abs(np.fft.rfftfreq(len(heard), 1 / 48_000)[spectrum.argmax()] - 1_000) < 2
    assert np.sqrt((heard**2).mean()) > 4_000


async def test_messages_go_to_the_call_and_events_come_back(connect: Connect) -> None:
    line = await connect()
    line.caller.send("ping", nonce=1)
    await until(lambda: line.call.received, "the message")
    assert '"ping"' in line.call.received[0]
    assert line.call.send is not None
    for number in range(20):
        line.call.send(f'{{"type": "n", "seq": {number}}}')
    await until(lambda: len(line.caller.events) == 20, "the events")
    assert [event["seq"] for event in line.caller.events] == list(range(20))


async def test_figures_come_once_a_second(connect: Connect) -> None:
    line = await connect()
    await until(lambda: len(line.call.figures) >= 3, "figures")
    figures = line.call.figures[-1]
    assert figures["loss"] == 0
    assert 0 <= figures["jitter_ms"] < 1_000


async def test_what_no_page_sends_is_refused(connect: Connect) -> None:
    line = await connect()
    line.caller.channel.send(b"\x00" * 10)
    line.caller.channel.send("x" * (channel.MAX_MESSAGE_BYTES + 1))
    line.caller.channel.send("ä" * (channel.MAX_MESSAGE_BYTES // 2 + 1))
    line.caller.channel.send("x" * channel.MAX_MESSAGE_BYTES)
    await until(lambda: line.call.received, "the message that is allowed")
    assert line.call.warnings == ["binary_message", "message_too_large", "message_too_large"]
    assert len(line.call.received) == 1


async def test_a_flood_is_warned_of_then_ends_the_call(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MESSAGES_PER_S", 0.0)  # so that it is one however long the messages take
    line = await connect()
    burst = int(channel.MESSAGE_BURST)
    for _ in range(burst + channel.FLOOD_LIMIT - 1):
        line.caller.send("ping")
    await until(lambda: len(line.call.received) == burst and line.call.warnings, "all that is allowed, and the warning")
    assert line.flooded == []
    for _ in range(10):
        line.caller.send("ping")
    await until(lambda: line.flooded, "the end")
    assert line.call.warnings == ["message_flood"]
    assert len(line.flooded) == 1
    assert len(line.call.received) == burst


async def test_a_client_that_does_not_read_is_given_up(connect: Connect) -> None:
    line = await connect()
    line.caller.vanish()
    assert line.call.send is not None
    for _ in range(2 + channel.MAX_UNSENT_BYTES // 60_000):
        line.call.send("x" * 60_000)
    assert line.lost == []  # the call, which is just sending, is not told from within
    await until(lambda: line.lost, "the loss")
    assert line.lost == ["clogged"]


async def test_other_channels_and_a_second_one_are_closed(connect: Connect) -> None:
    line = await connect()
    others = [line.caller.connection.createDataChannel(label) for label in ("events", "files")]
    await until(lambda: all(other.readyState == "closed" for other in others), "the closing of the other channels")
    assert line.caller.channel.readyState == "open"


async def test_a_silent_microphone_is_a_pause_that_takes_no_media_time(connect: Connect) -> None:
    microphone = Microphone(tone(0.4), endless=False)
    line = await connect(Caller(microphone))
    await until(lambda: line.call.pauses, "the pause")
    assert line.call.audio[-1][2] == 960 * 19
    await asyncio.sleep(peer.MICROPHONE_PAUSE_S)
    assert line.call.pauses == 1
    microphone.again.set()
    await until(lambda: len(line.call.audio) > 30, "audio after the pause")
    assert [pts for _, _, pts in line.call.audio[:30]] == [960 * k for k in range(30)]


async def test_a_client_that_closes_is_lost_at_once(connect: Connect) -> None:
    line = await connect()
    await line.caller.close()
    await until(lambda: line.lost, "the loss")
    assert line.lost == ["closed"]


async def test_a_client_that_vanishes_is_lost_by_its_silence(connect: Connect) -> None:
    """Which is noticed before aiortc, half a minute later, finds the connection failed."""
    line = await connect()
    line.caller.vanish()
    await until(lambda: line.lost, "the loss")
    assert line.lost == ["silent"]


async def test_closing_twice_is_no_error_and_tells_no_loss(connect: Connect) -> None:
    line = await connect()
    await line.peer.close()
    await line.peer.close()
    await asyncio.sleep(0.1)
    assert line.lost == []
