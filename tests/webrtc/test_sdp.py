"""What is taken out of offers, added to answers and refused, on offers of Chromium's and Safari's shape."""

from __future__ import annotations

import contextlib

import pytest
from aiortc import RTCPeerConnection
from aiortc.sdp import SessionDescription
from hypothesis import given
from hypothesis import strategies as st

from app.errors import RequestError
from app.webrtc.sdp import OPUS_PARAMETERS, VIDEO_PARAMETERS, check_offer, finish_answer

SESSION = """v=0
o=- 4611731400430051336 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0 1 2
a=msid-semantic: WMS stream
"""
TRANSPORT = """c=IN IP4 0.0.0.0
a=candidate:1467250027 1 udp 2122260223 8ce5a2a3-0b7e-4f34-8f5f-4d3f5b0c7a11.local 46243 typ host generation 0
a=candidate:1467250028 1 udp 2122260222 192.168.0.4 46244 typ host generation 0
a=end-of-candidates
a=ice-ufrag:OyNc
a=ice-pwd:ffhJrVQ2uE2sHJ3ZJ6bKzGJ6
a=ice-options:trickle
a=fingerprint:sha-256 D2:B9:31:8F:DF:24:D8:0E:ED:D2:EF:25:9E:AF:6F:B8:34:AE:53:9C:E6:F3:8F:F2:64:15:FA:E8:7F:53:2D:38
a=setup:actpass
"""
AUDIO = (
    "m=audio 9 UDP/TLS/RTP/SAVPF 111 0\n"
    + TRANSPORT
    + """a=mid:0
a=sendrecv
a=rtcp-mux
a=rtpmap:111 opus/48000/2
a=fmtp:111 minptime=10;useinbandfec=1
a=rtpmap:0 PCMU/8000
"""
)
VIDEO = (
    "m=video 9 UDP/TLS/RTP/SAVPF 96 97 106\n"
    + TRANSPORT
    + """a=mid:1
a=sendonly
a=rtcp-mux
a=rtpmap:96 VP8/90000
a=rtpmap:97 rtx/90000
a=fmtp:97 apt=96
a=rtpmap:106 H264/90000
a=fmtp:106 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f
"""
)
DATA = (
    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\n"
    + TRANSPORT
    + "a=mid:2\na=sctp-port:5000\na=max-message-size:262144\n"
)
OFFER = (SESSION + AUDIO + VIDEO + DATA).replace("\n", "\r\n")


def refused(offer: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        check_offer(offer)
    return caught.value


@pytest.mark.parametrize(
    ("line", "instead"), [("a=mid:1", "a=mid:0"), ("a=mid:0\r\n", ""), ("BUNDLE 0 1 2", "BUNDLE 0 1 2 3")]
)
def test_sections_must_be_told_apart(line: str, instead: str) -> None:
    """aiortc finds no transport for a bundled section that is not there, and cannot even be closed then."""
    assert refused(OFFER.replace(line, instead)).code == "bad_sdp"


def test_candidates_are_taken_out_and_the_rest_is_kept() -> None:
    clean = check_offer(OFFER)
    kept = [line for line in OFFER.splitlines() if not line.startswith(("a=candidate", "a=end-of"))]
    assert clean.splitlines() == kept


def test_behind_a_turn_server_candidates_with_addresses_stay() -> None:
    clean = check_offer(OFFER, keep_candidates=True)
    assert clean.count("a=candidate") == 3
    assert ".local" not in clean
    assert "end-of-candidates" not in clean


def test_line_ends_of_one_byte_are_accepted() -> None:
    assert check_offer(OFFER.replace("\r\n", "\n")) == check_offer(OFFER)


@pytest.mark.parametrize(
    ("offer", "code", "word"),
    [
        ("", "bad_sdp", "v=0"),
        ("hello", "bad_sdp", "v=0"),
        ("v=0\r\n", "no_audio", "audio"),
        (SESSION + VIDEO + DATA, "no_audio", "audio"),
        (SESSION + DATA, "no_audio", "audio"),
        (OFFER.replace("a=sendrecv", "a=recvonly"), "no_audio", "sendrecv"),
        (OFFER.replace("a=sendrecv", "a=inactive"), "no_audio", "sendrecv"),
        (OFFER.replace("m=audio 9 ", "m=audio 0 "), "no_audio", "active"),
        (OFFER.replace("opus/48000/2", "speex/16000"), "no_audio", "Opus"),
        (OFFER.replace("VP8/", "VP9/").replace("H264/", "AV1/"), "bad_sdp", "VP8"),
        (OFFER.replace("a=ice-ufrag:OyNc\r\n", ""), "bad_sdp", "ice-ufrag"),
        (OFFER.replace("a=fingerprint", "a=x-fingerprint"), "bad_sdp", "fingerprint"),
        (OFFER.replace("a=rtcp-mux\r\n", ""), "bad_sdp", "rtcp-mux"),
        (OFFER.replace("m=audio 9 UDP", "m=audio nine UDP"), "bad_sdp", "read"),
        (OFFER.replace("a=setup:actpass", "a=setup:maybe"), "bad_sdp", "read"),
        (OFFER + "m=image 9 UDP/TLS/RTP/SAVPF 5\r\n", "bad_sdp", "m=image"),
        (SESSION + AUDIO * 9, "bad_sdp", "media sections"),
    ],
)
def test_an_offer_that_cannot_be_a_call_is_refused_with_a_reason(offer: str, code: str, word: str) -> None:
    error = refused(offer)
    assert (error.code, word in error.message) == (code, True), error.message


@given(st.text(max_size=300) | st.text(max_size=60).map(lambda text: OFFER[:700] + text + OFFER[700:]))
def test_no_text_whatever_gets_further_than_a_request_error(text: str) -> None:
    with contextlib.suppress(RequestError):
        assert check_offer(text).startswith("v=0")


async def test_the_answer_tells_the_browser_how_to_encode() -> None:
    connection = RTCPeerConnection()
    try:
        for kind in ("audio", "video"):
            connection.addTransceiver(kind, "sendonly")
        text = finish_answer((await connection.createOffer()).sdp)
    finally:
        await connection.close()
    parsed = SessionDescription.parse(text)
    for media in parsed.media:
        for codec in media.rtp.codecs:
            given_ = ";".join(f"{k}={v}" for k, v in codec.parameters.items())
            if codec.mimeType == "audio/opus":
                assert given_ == OPUS_PARAMETERS
            elif codec.mimeType in ("video/VP8", "video/H264"):
                assert given_.endswith(VIDEO_PARAMETERS)
                assert ("profile-level-id" in given_) == (codec.mimeType == "video/H264")
            else:
                assert "x-google" not in given_
    fmtp = [line.split()[0] for line in text.splitlines() if line.startswith("a=fmtp:")]
    assert len(fmtp) == len(set(fmtp))
