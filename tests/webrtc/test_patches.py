"""The changes to private names of aiortc and aioice still bite. (The jitter buffers' are seen in test_peer.py.)"""

from __future__ import annotations

import logging
import socket
import threading
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, rtcsctptransport
from aiortc.codecs import CODECS
from aiortc.codecs.opus import OpusDecoder, OpusEncoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcpeerconnection import find_common_codecs
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtcrtpreceiver import RTCRtpReceiver
from av import AudioFrame
from OpenSSL import SSL

from app.webrtc.patches import datagrams, host_addresses, jitter_buffers, opus_encoder
from tests.webrtc.caller import until
from tests.webrtc.conftest import Connect
from tests.webrtc.test_jitter import packet


async def addresses() -> set[str]:
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    try:
        connection.addTransceiver("audio")
        await connection.setLocalDescription(await connection.createOffer())
        lines = connection.localDescription.sdp.splitlines()
        return {line.split()[4] for line in lines if line.startswith("a=candidate:")}
    finally:
        await connection.close()


async def test_only_the_chosen_addresses_are_gathered() -> None:
    host_addresses.choose(["127.0.0.1", "127.0.0.2"])
    assert await addresses() == {"127.0.0.1", "127.0.0.2"}


async def test_a_machine_without_a_network_gathers_its_loopback(monkeypatch: Any) -> None:
    host_addresses.choose([])
    monkeypatch.setattr(host_addresses, "_gather", lambda use_ipv4, use_ipv6: [])
    assert await addresses() == {"127.0.0.1"}


def test_the_voice_is_encoded_in_mono_at_a_third_of_the_rate() -> None:
    encoder, decoder = OpusEncoder(), OpusDecoder()
    noise = np.random.default_rng(0).normal(0, 3_000, 48_000)
    voice = np.convolve(noise, np.ones(8) / 8, "same") * (1 + np.sin(np.arange(48_000) / 2_000))
    payloads = []
    for k in range(50):
        piece = voice[960 * k : 960 * k + 960].astype(np.int16)
        frame = AudioFrame.from_ndarray(piece[np.newaxis], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 960 * k, Fraction(1, 48_000)
        made, _ = encoder.encode(frame)
        payloads += made
    assert len(payloads) == 50  # one packet for each frame: nothing is held back
    assert not any(payload[0] & 0x04 for payload in payloads)  # the stereo bit of RFC 6716 section 3.1
    bits_per_s = 8 * sum(map(len, payloads))
    assert opus_encoder.BIT_RATE / 2 < bits_per_s < opus_encoder.BIT_RATE * 1.3
    decoded = decoder.decode(JitterFrame(payloads[10], 0))[0]
    assert isinstance(decoded, AudioFrame)
    assert decoded.samples == 960


async def test_pictures_are_dropped_while_the_decoder_is_far_behind() -> None:
    receiver: Any = RTCRtpReceiver("video", SimpleNamespace(state="new"))  # type: ignore[arg-type]
    receiver._RTCRtpReceiver__codecs[96] = RTCRtpCodecParameters("video/VP8", 90_000, payloadType=96)
    receiver._RTCRtpReceiver__decoder_thread = threading.Thread()
    waiting = receiver._RTCRtpReceiver__decoder_queue
    asked: list[int] = []

    async def send_pli(ssrc: int) -> None:
        asked.append(waiting.qsize())

    receiver._send_rtcp_pli = send_pli

    async def feed(first: int, last: int) -> None:
        for number in range(first, last):
            made = packet(number, 9_000 * number, marker=1)
            made.payload = b"\x10" + b"picture"
            await receiver._handle_rtp_packet(made, 0)

    await feed(0, 100)
    assert waiting.qsize() == jitter_buffers.MAX_BACKLOG + 1
    assert asked == []
    while not waiting.empty():
        waiting.get()
    await feed(100, 102)
    assert asked == [0]  # a key frame, once, as soon as the decoder has caught up
    assert waiting.qsize() == 1


async def test_a_bad_message_on_a_data_channel_is_dropped_alone(connect: Connect) -> None:
    line = await connect()
    sctp, stream = line.caller.connection.sctp, line.caller.channel.id
    assert sctp is not None
    assert stream is not None
    opening = bytes.fromhex("03000000000000000001000078")
    for stream_id, kind, data in (
        (stream, rtcsctptransport.WEBRTC_STRING, b"\xff\xfe no UTF-8"),
        (stream, rtcsctptransport.WEBRTC_STRING, b'"\xed\xa0\xbd"'),
        (stream, rtcsctptransport.WEBRTC_DCEP, opening),
        (99, rtcsctptransport.WEBRTC_DCEP, b"\x02"),
        (101, rtcsctptransport.WEBRTC_DCEP, opening[:-1] + b"\xff"),
        (stream, rtcsctptransport.WEBRTC_DCEP, b"\x03"),
        (stream, 77, b"of a kind that there is not"),
    ):
        await sctp._send(stream_id, kind, data)
    line.caller.channel.send("after all this")
    await until(lambda: "after all this" in line.call.received, "the message after them")
    assert line.call.received[:-1] == ["\ufffd\ufffd no UTF-8", '"\ufffd\ufffd\ufffd"']
    assert not line.lost


def media_port(line: Any) -> tuple[str, int]:
    (pair,) = line.caller.transport()._connection._nominated.values()
    address: tuple[str, int] = pair.remote_addr
    return address


HOSTILE = [
    b"",
    b"\x80",
    b"\x80" * 1_501,
    b"\x80" * 9_000,
    b"\x80\xc8" + bytes(2_000),
    b"\x16" * 9_000,
    b"\x00" * 20,
    bytes.fromhex("0001000c2112a442") + bytes(12) + bytes.fromhex("0024000200000000") + bytes(4),  # a short PRIORITY
    bytes.fromhex("0001000821 12a442") + bytes(12) + bytes.fromhex("8028000100000000"),  # a short FINGERPRINT
]


@pytest.mark.parametrize("datagram", HOSTILE, ids=lambda datagram: f"{datagram[:4].hex()}, {len(datagram)} bytes")
@pytest.mark.parametrize("from_the_caller", [False, True], ids=["from a stranger", "from the caller's own address"])
async def test_no_single_datagram_ends_a_call(
    connect: Connect, caplog: pytest.LogCaptureFixture, datagram: bytes, from_the_caller: bool
) -> None:
    """aiortc alone ends the call at the empty one and at those of more than libsrtp's buffer."""
    line = await connect()
    address = media_port(line)
    with caplog.at_level(logging.WARNING):
        if from_the_caller:
            await line.caller.transport()._send(datagram)
        else:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.sendto(datagram, address)
        before, heard = len(line.call.audio), len(line.caller.heard)
        await until(lambda: len(line.call.audio) > before + 10 and len(line.caller.heard) > heard + 10, "more sound")
        line.caller.send("ping")
        await until(lambda: line.call.received, "the message")
    assert line.lost == []
    assert caplog.records == []


async def test_what_comes_from_somewhere_else_reaches_no_decoder(connect: Connect) -> None:
    line = await connect()
    transport: Any = line.peer._connection.getTransceivers()[0].receiver.transport
    taken: list[bytes] = []
    received = transport.transport._connection.data_received

    def note(data: bytes, component: int) -> None:
        taken.append(data)
        received(data, component)

    transport.transport._connection.data_received = note
    marks = [bytes([first]) * 40 for first in range(4, 256)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for mark in marks:
            stranger.sendto(mark, media_port(line))
    last = b"\xff" * datagrams.MAX_DATAGRAM_BYTES
    await line.caller.transport()._send(last)
    await until(lambda: last in taken, "the caller's own datagram")
    assert not set(taken) & set(marks)


def test_codecs_with_low_numbers_keep_them() -> None:
    offered = [RTCRtpCodecParameters("audio/opus", 48_000, 2, payloadType=63)]
    assert [codec.payloadType for codec in find_common_codecs(CODECS["audio"], offered)] == [63]


async def test_a_chunk_after_the_end_of_dtls_is_lost_without_a_word(connect: Connect) -> None:
    line = await connect()
    sctp: Any = line.peer._connection.sctp
    sctp.transport._ssl.shutdown()
    with pytest.raises(SSL.Error):
        await sctp.transport._send_data(b"late")
    await sctp._send_chunk(rtcsctptransport.AbortChunk())
    await line.peer.close()
    await sctp._send_chunk(rtcsctptransport.AbortChunk())
