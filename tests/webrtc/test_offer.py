"""Offers of many shapes: what is used of them, what is answered, and that calls made so connect."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiortc import RTCBundlePolicy
from hypothesis import given
from hypothesis import strategies as st

from app.errors import RequestError
from app.webrtc.offer import read_offer
from app.webrtc.patches import host_addresses
from tests.webrtc.caller import Caller, Camera, Microphone, until
from tests.webrtc.conftest import Connect
from tests.webrtc.offers import (
    AIORTC,
    AUDIO,
    CAMERA,
    CANDIDATES,
    CHROMIUM,
    DATA,
    DTLS,
    FIREFOX,
    ICE,
    LIBDATACHANNEL,
    OFFER,
    PION,
    SAFARI,
    Case,
    Part,
    Stack,
    bundle_of,
    check_answer,
    outcome,
    sections,
)

Answer = Callable[[str], Awaitable[str]]

STACKS = {
    "Chromium": CHROMIUM,
    "Firefox": FIREFOX,
    "Safari": SAFARI,
    "Pion": PION,
    "libdatachannel": LIBDATACHANNEL,
    "aiortc": AIORTC,
}
UNSPOKEN = (45, 46, 98, 116, 118)
"""Of Chromium's video codecs those that aiortc does not speak, with what repairs them."""

BUNDLE_ONLY: dict[str, Any] = {"port": 0, "transport": False, "lines": ("a=bundle-only",), "without": "a=rtcp-mux"}
UNTOLD: dict[str, Any] = {"transport": False}


def video(answer: str, direction: str = "sendonly", **more: Any) -> Part:
    return Part("video", answer, direction, **more)


def stopped(kind: str, **more: Any) -> Part:
    return Part(kind, "rejected", "inactive", port=0, **more)


ORDERS = [
    Case(f"{name}: {order}", parts, stack)
    for name, stack in STACKS.items()
    for order, parts in {
        "audio, video, data": (AUDIO, CAMERA, DATA),
        "video first": (CAMERA, AUDIO, DATA),
        "data first": (DATA, AUDIO, CAMERA),
        "data, video, audio": (DATA, CAMERA, AUDIO),
        "audio alone": (AUDIO,),
        "audio and data": (AUDIO, DATA),
    }.items()
]
CASES = [
    *ORDERS,
    Case("the bundle in another order", (AUDIO, CAMERA, DATA), bundle="2 0 1"),
    Case("names for mids", (video("recvonly", mid="video"), Part("audio", "sendrecv", mid="audio"), DATA)),
    Case(
        "odd mids",
        (
            Part("audio", "sendrecv", mid="{6F9619FF-8B86-D011-B42D-00C04FC964FF}"),
            video("recvonly", mid="a+b/c=~"),
            Part("application", "data", mid="0" * 60),
        ),
    ),
    Case("mids that look like other sections'", (Part("audio", "sendrecv", mid="1"), video("recvonly", mid="0"), DATA)),
    Case("video stopped", (AUDIO, stopped("video"), DATA), bundle="0 2"),
    Case("video stopped and still in the bundle", (AUDIO, stopped("video"), DATA)),
    Case("the first of the bundle stopped", (stopped("video"), AUDIO, DATA)),
    Case("the first audio stopped", (stopped("audio"), AUDIO, DATA), bundle="1 2"),
    Case("data stopped", (AUDIO, CAMERA, stopped("application")), bundle="0 1"),
    Case("another data section stopped", (AUDIO, stopped("application"), DATA), bundle="0 2"),
    Case("stopped without a transport", (AUDIO, stopped("video", transport=False), DATA), bundle="0 2"),
    Case("stopped without codecs", (AUDIO, stopped("video", codecs=(0,)), DATA), FIREFOX, bundle="0 2"),
    Case("stopped and nameless", (AUDIO, stopped("video", mid=None), DATA), bundle="0 2"),
    Case("many stopped ones", (AUDIO, DATA, *[stopped("video")] * 12), bundle="0 1"),
    Case("bundle-only", (AUDIO, video("recvonly", **BUNDLE_ONLY), Part("application", "data", **BUNDLE_ONLY))),
    Case("bundle-only audio behind data", (DATA, Part("audio", "sendrecv", **BUNDLE_ONLY))),
    Case("bundle-only audio behind video", (CAMERA, Part("audio", "sendrecv", **BUNDLE_ONLY)), SAFARI),
    Case("bundle-only in no bundle", (AUDIO, video("rejected", **BUNDLE_ONLY), DATA), bundle="0 2"),
    Case("bundle-only and no bundle at all", (AUDIO, video("rejected", **BUNDLE_ONLY)), bundle=None),
    Case("bundle-only and unspoken", (AUDIO, video("rejected", codecs=UNSPOKEN, **BUNDLE_ONLY), DATA)),
    Case("no bundle", (AUDIO, CAMERA, DATA), bundle=None),
    Case("no bundle, video first", (CAMERA, AUDIO, DATA), FIREFOX, bundle=None),
    Case(
        "no bundle and no names",
        (Part("audio", "sendrecv", mid=None), Part("application", "data", mid=None)),
        PION,
        None,
    ),
    Case("no bundle, unspoken video", (AUDIO, video("rejected", codecs=UNSPOKEN), DATA), bundle=None),
    Case("no bundle, two cameras", (AUDIO, CAMERA, video("rejected"), DATA), bundle=None),
    Case("no bundle, data without a transport", (AUDIO, Part("application", "rejected", **UNTOLD)), bundle=None),
    Case("a bundle of audio and video alone", (AUDIO, CAMERA, DATA), bundle="0 1"),
    Case("a bundle without the audio", (AUDIO, CAMERA, DATA), bundle="1 2"),
    Case("a second bundle", (AUDIO, CAMERA, DATA), bundle="0 1", lines=("a=group:BUNDLE 2",)),
    Case("other groups", (AUDIO, CAMERA, DATA), lines=("a=group:LS 0 1", "a=group:FID 0 1")),
    Case(
        "credentials in the first section alone",
        (AUDIO, video("recvonly", **UNTOLD), Part("application", "data", **UNTOLD)),
    ),
    Case("data without credentials", (AUDIO, CAMERA, Part("application", "data", **UNTOLD))),
    Case(
        "the session's own credentials", (AUDIO, CAMERA, DATA), Stack(CHROMIUM.audio, CHROMIUM.video, (*ICE, *DTLS), ())
    ),
    Case("own credentials everywhere, DTLS in the session", (CAMERA, AUDIO), PION),
    Case(
        "the offering side is the DTLS client",
        (AUDIO, DATA),
        Stack(CHROMIUM.audio, {}, (), (*ICE, DTLS[0], "a=setup:active")),
    ),
    Case(
        "the offering side is the DTLS server",
        (AUDIO, DATA),
        Stack(CHROMIUM.audio, {}, (), (*ICE, DTLS[0], "a=setup:passive")),
    ),
    Case("no setup", (AUDIO, DATA), Stack(CHROMIUM.audio, {}, (), (*ICE, DTLS[0]))),
    Case("unspoken video", (AUDIO, video("rejected", codecs=UNSPOKEN), DATA)),
    Case("unspoken video first", (video("rejected", codecs=UNSPOKEN), AUDIO, DATA)),
    Case("unspoken video behind data", (DATA, video("rejected", codecs=UNSPOKEN), AUDIO)),
    Case("H264 of unspoken profiles", (AUDIO, video("rejected", codecs=(39, 107)), DATA)),
    Case("H264 alone", (AUDIO, video("recvonly", codecs=(103, 104)), DATA)),
    Case("VP8 without retransmission", (AUDIO, video("recvonly", codecs=(96,)), DATA)),
    Case("no codec at all", (AUDIO, video("rejected", codecs=(99,)), DATA), LIBDATACHANNEL),
    Case("Opus alone", (Part("audio", "sendrecv", codecs=(111,)), DATA)),
    Case("the first audio without Opus", (Part("audio", "rejected", codecs=(9, 0)), AUDIO, DATA)),
    Case(
        "codecs with low numbers",
        (AUDIO, CAMERA),
        Stack({63: ("a=rtpmap:63 OPUS/48000/2",)}, {35: ("a=rtpmap:35 vp8/90000",)}),
    ),
    Case("audio without a direction", (Part("audio", "sendrecv", ""), CAMERA, DATA)),
    Case("no direction anywhere", (Part("audio", "sendrecv", ""), video("recvonly", ""), DATA)),
    Case("video both ways", (AUDIO, video("recvonly", "sendrecv"), DATA)),
    Case("video that only watches", (AUDIO, video("inactive", "recvonly"), DATA)),
    Case("video that is paused", (AUDIO, video("inactive", "inactive"), DATA), FIREFOX),
    Case("the session is sendonly, the audio is not", (AUDIO, video("recvonly", "")), lines=("a=sendonly",)),
    Case("two audio sections", (AUDIO, Part("audio", "inactive"), DATA)),
    Case("the second audio both ways", (Part("audio", "inactive", "recvonly"), AUDIO, DATA)),
    Case(
        "microphone and voice apart",
        (Part("audio", "recvonly", "sendonly"), Part("audio", "sendonly", "recvonly"), DATA),
    ),
    Case(
        "voice before microphone",
        (Part("audio", "sendonly", "recvonly"), CAMERA, Part("audio", "recvonly", "sendonly")),
    ),
    Case("two cameras", (AUDIO, CAMERA, video("inactive"), DATA)),
    Case("watching and a camera", (video("inactive", "recvonly"), AUDIO, CAMERA, DATA), PION),
    Case("an unspoken camera and a spoken one", (AUDIO, video("rejected", codecs=UNSPOKEN), CAMERA, DATA)),
    Case("a section of another kind", (AUDIO, Part("image", "rejected", codecs=(96,)), DATA)),
    Case("a stopped section of another kind", (AUDIO, stopped("text", codecs=(96,)), DATA), bundle="0 2"),
    Case("another application", (AUDIO, Part("application", "rejected", protocol="TCP/DTLS/BFCP"), DATA)),
    Case("two data sections", (AUDIO, DATA, Part("application", "rejected"))),
    Case("data over TCP's name", (AUDIO, Part("application", "data", protocol="TCP/DTLS/SCTP"))),
    Case(
        "older protocol names",
        (Part("audio", "sendrecv", protocol="RTP/SAVPF"), video("recvonly", protocol="TCP/TLS/RTP/SAVPF")),
    ),
    Case("no SCTP port", (AUDIO, Part("application", "data", without="a=sctp-port"))),
    Case("an SCTP port that is none", (AUDIO, Part("application", "rejected", lines=("a=sctp-port:0",)))),
    Case("messages that are too small", (AUDIO, Part("application", "rejected", lines=("a=max-message-size:100",)))),
    Case("messages of any size", (AUDIO, Part("application", "data", lines=("a=max-message-size:0",)))),
    Case(
        "lines that nobody knows",
        (Part("audio", "sendrecv", lines=("a=ssrc:x", "a=fmtp:99 a", "a=extmap:5 a b c", "b=AS:9", "a=")), DATA),
    ),
    Case("simulcast", (AUDIO, video("recvonly", lines=("a=rid:h send", "a=rid:l send", "a=simulcast:send h;l")), DATA)),
    Case("an unusual port", (Part("audio", "sendrecv", port=50_000), video("recvonly", port=1), DATA)),
    Case("candidates in the offer", (Part("audio", "sendrecv", lines=CANDIDATES), DATA)),
    Case("ICE lite", (AUDIO, DATA), lines=("a=ice-lite",)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_each_section_is_answered_on_its_own(case: Case, answer: Answer) -> None:
    text = await answer(case.text)
    check_answer(case.text, text)
    assert [outcome(section) for section in sections(text)] == [part.answer for part in case.parts]
    if case.bundle is None:
        assert bundle_of(text) is None


async def test_a_bundle_keeps_all_that_was_accepted_of_it(answer: Answer) -> None:
    case = Case("", (DATA, video("rejected", codecs=UNSPOKEN), stopped("audio"), AUDIO, CAMERA), bundle="4 0 1 2 3")
    assert bundle_of(await answer(case.text)) == ["4", "0", "3"]


async def test_sections_in_a_bundle_take_the_transport_of_its_first_one() -> None:
    other = ("a=ice-ufrag:else", "a=ice-pwd:elsewhereelsewhereelsewhere")
    case = Case("", (Part("audio", "sendrecv", transport=False, lines=(*other, *DTLS)), CAMERA), bundle="1 0")
    assert read_offer(case.text).sdp.count("a=ice-ufrag:OyNc") == 2


async def test_an_old_data_section_is_answered_in_its_own_form(answer: Answer) -> None:
    old = Case("", (AUDIO, DATA)).text.replace("UDP/DTLS/SCTP webrtc-datachannel", "DTLS/SCTP 5001")
    text = await answer(old.replace("a=sctp-port:5000", "a=sctpmap:5001 webrtc-datachannel 1024"))
    assert "DTLS/SCTP 5000" in text
    assert "a=sctpmap:5000 webrtc-datachannel" in text


def test_candidates_are_left_out() -> None:
    text = Case("", (Part("audio", "sendrecv", lines=CANDIDATES), DATA)).text
    assert "candidate" not in read_offer(text).sdp


def test_behind_a_turn_server_candidates_with_addresses_stay() -> None:
    text = Case("", (Part("audio", "sendrecv", lines=CANDIDATES), DATA)).text
    clean = read_offer(text, keep_candidates=True).sdp
    assert clean.count("a=candidate:1467250028 1 udp") == 2  # in both sections of the bundle
    assert clean.count("a=candidate:") == 2
    assert "end-of-candidates" not in clean  # more may come with PATCH


def test_line_ends_of_one_byte_are_accepted() -> None:
    text = Case("", (AUDIO, CAMERA, DATA)).text
    assert read_offer(text.replace("\r\n", "\n")).sdp == read_offer(text).sdp


def refused(offer: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read_offer(offer)
    return caught.value


@pytest.mark.parametrize(
    ("offer", "code", "word"),
    [
        ("", "bad_sdp", "v=0"),
        ("hello", "bad_sdp", "v=0"),
        ("v=0\r\n", "no_audio", "audio"),
        (Case("", (CAMERA, DATA)).text, "no_audio", "audio"),
        (Case("", (DATA,)).text, "no_audio", "audio"),
        (OFFER.replace("a=sendrecv", "a=recvonly"), "no_audio", "sendrecv"),
        (OFFER.replace("a=sendrecv", "a=sendonly"), "no_audio", "sendrecv"),
        (OFFER.replace("a=sendrecv", "a=inactive"), "no_audio", "sendrecv"),
        (OFFER.replace("m=audio 9 ", "m=audio 0 "), "no_audio", "active"),
        (OFFER.replace("opus/48000/2", "speex/16000"), "no_audio", "Opus"),
        (OFFER.replace("opus/48000/2", "opus"), "bad_sdp", "read"),
        (OFFER.replace("m=audio 9 UDP/TLS/RTP/SAVPF", "m=audio 9 SIP/SOAP"), "no_audio", "SAVPF"),
        (OFFER.replace("a=ice-ufrag:OyNc\r\n", ""), "bad_sdp", "ice-ufrag"),
        (OFFER.replace("a=ice-ufrag:OyNc", "a=ice-ufrag:O\ud800yNc"), "bad_sdp", "ice-ufrag"),
        (OFFER.replace("a=fingerprint", "a=x-fingerprint"), "bad_sdp", "fingerprint"),
        (OFFER.replace("a=rtcp-mux\r\n", ""), "bad_sdp", "rtcp-mux"),
        (OFFER.replace("m=audio 9 UDP", "m=audio nine UDP"), "bad_sdp", "read"),
        (OFFER.replace("a=setup:actpass", "a=setup:maybe"), "bad_sdp", "read"),
        (OFFER.replace("a=mid:1", "a=mid:0"), "bad_sdp", "a=mid"),
        (OFFER.replace("a=mid:0\r\n", ""), "bad_sdp", "a=mid"),
        (OFFER.replace("BUNDLE 0 1 2", "BUNDLE 0 1 2 3"), "bad_sdp", "a=mid"),
        (OFFER.replace("a=mid:0", "a=mid:\ud800").replace("BUNDLE 0", "BUNDLE \ud800"), "bad_sdp", "a=mid"),
        (Case("", (AUDIO, *[CAMERA] * 8)).text, "bad_sdp", "media sections"),
    ],
)
def test_an_offer_that_cannot_be_a_call_is_refused_with_a_reason(offer: str, code: str, word: str) -> None:
    error = refused(offer)
    assert (error.code, word in error.message) == (code, True), error.message


@given(st.text(max_size=300) | st.text(max_size=60).map(lambda text: OFFER[:700] + text + OFFER[700:]))
def test_no_text_whatever_gets_further_than_a_request_error(text: str) -> None:
    with contextlib.suppress(RequestError):
        assert read_offer(text).sdp.startswith("v=0")


async def test_a_server_without_an_address_refuses_instead_of_answering(answer: Answer) -> None:
    host_addresses.choose(["192.0.2.1"])  # of no machine (RFC 5737)
    with pytest.raises(RequestError) as caught:
        await answer(OFFER)
    assert (caught.value.code, caught.value.status) == ("no_address", 503)
    assert "--ice-hosts" in caught.value.message


@pytest.mark.parametrize(
    ("camera_first", "bundled"),
    [(False, True), (True, True), (False, False)],
    ids=["audio before video", "video before audio", "a transport each"],
)
async def test_calls_connect_whatever_the_order_of_their_sections(
    connect: Connect, camera_first: bool, bundled: bool
) -> None:
    """More orders are in tests/browser/test_offers.py: aiortc cannot offer them all."""
    caller = Caller(
        Microphone(np.zeros(0, np.int16)),
        Camera(3),
        "video/VP8",
        camera_first=camera_first,
        bundlePolicy=RTCBundlePolicy.BALANCED if bundled else RTCBundlePolicy.MAX_COMPAT,
    )
    line = await connect(caller, edit=lambda sdp: sdp if bundled else re.sub(r"a=group:.*\r\n", "", sdp))
    line.caller.send("ping")
    await until(lambda: line.call.received, "the message")
    await until(lambda: len(line.call.pictures) == 3, "the pictures")
    await until(lambda: len(line.call.audio) > 20 and len(line.caller.heard) > 20, "sound in both directions")
