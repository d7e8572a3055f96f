"""Candidates: what is read, what is refused, and which addresses a caller can have tried."""

from __future__ import annotations

import pytest
from aiortc import RTCIceCandidate
from hypothesis import given
from hypothesis import strategies as st

from app.errors import RequestError
from app.webrtc.candidates import Reachable, parse_candidate


def candidate(ip: str, kind: str = "host") -> RTCIceCandidate:
    found = parse_candidate(f"candidate:1 1 udp 2122260223 {ip} 5000 typ {kind}")
    assert found is not None
    return found


@pytest.mark.parametrize(
    "text",
    [
        "candidate:1 1 udp 2122260223 192.168.0.4 46243 typ host generation 0 ufrag OyNc network-id 1",
        "a=candidate:1 1 UDP 2122260223 2001:db8::7 46243 typ srflx raddr 10.0.0.1 rport 5",
        "candidate:842163049 1 udp 1677729535 192.0.2.9 46243 typ srflx raddr 0.0.0.0 rport 0 generation 0",
    ],
)
def test_candidates_are_read(text: str) -> None:
    found = parse_candidate(text)
    assert found is not None
    assert found.port == 46_243


@pytest.mark.parametrize(
    "text",
    [
        "",
        "end-of-candidates",
        "candidate:",
        "candidate:1 1 tcp 1518280447 192.168.0.4 9 typ host tcptype active",
        "candidate:1 1 tcp 1518280447 192.168.0.4 0 typ host tcptype active",
        "candidate:1 2 udp 2122260222 192.168.0.4 46244 typ host",
        "candidate:1 1 udp 2122260223 8ce5a2a3-0b7e-4f34-8f5f-4d3f5b0c7a11.local 46243 typ host",
        "candidate:1 1 udp 2122260223 intranet.example 80 typ host",
    ],
)
def test_candidates_that_lead_nowhere_are_passed_over(text: str) -> None:
    assert parse_candidate(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "x y",
        "candidate:1 1 udp",
        "candidate:1 one udp 1 10.0.0.1 5 typ host",
        "candidate:1 1 udp 2122260223 192.0.2.4 99999 typ host",
        "candidate:1 1 udp 2122260223 192.0.2.4 65536 typ host",
        "candidate:1 1 udp 2122260223 192.0.2.4 0 typ host",
        "candidate:1 1 udp 2122260223 192.0.2.4 -1 typ host",
        "candidate:1 1 udp 2122260223 192.0.2.4 \u0661\u0662 typ host",
        "candidate:1 1 tcp 2122260223 192.0.2.4 99999 typ host",
        "candidate:1 1 udp 2122260223 999.1.1.1 5000 typ host",
        "candidate:1 1 udp 2122260223 1.1.1 5000 typ host",
        "candidate:1 1 udp 2122260223 127.0.0.01 5000 typ host",
        "candidate:1 1 udp 2122260223 2001:::1 5000 typ host",
        "candidate:1 1 udp 2122260223 fe80::1%lo 5000 typ host",
        "candidate:1 1 udp 99999999999 192.0.2.4 5000 typ host",
        "candidate:1 1 udp 1 192.0.2.4 5000 typ srflx raddr 10.0.0.1 rport 99999",
        "candidate:1 1 udp 1 192.0.2.4 5000 typ srflx raddr 10.0.0.1 rport five",
        "candidate:1 1 udp 1 192.0.2.4 5000 typ host a",
    ],
)
def test_what_is_no_candidate_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_candidate(text)
    assert caught.value.code == "bad_candidate"


@given(
    st.text(st.characters(codec="utf-8"), max_size=80)
    | st.from_regex(r"1 1 udp 1 [0-9a-f.:]{1,20} [0-9]{1,6} typ [a-z ]+")
)
def test_any_text_is_a_usable_candidate_nothing_or_refused(text: str) -> None:
    try:
        found = parse_candidate(text)
    except RequestError:
        return
    assert found is None or (found.protocol.lower() == "udp" and 1 <= found.port <= 65_535 and found.component == 1)


@pytest.mark.parametrize(
    ("caller", "ip", "kind", "tried"),
    [
        ("203.0.113.5", "203.0.113.5", "srflx", True),
        ("93.184.215.14", "93.184.215.15", "srflx", False),  # a neighbour on the internet
        ("203.0.113.5", "192.168.0.1", "host", False),  # what may be the server's own router
        ("192.168.0.7", "192.168.0.7", "host", True),
        ("192.168.0.7", "192.168.0.9", "host", True),  # its other interface
        ("192.168.0.7", "192.168.1.9", "host", False),
        ("192.168.0.7", "8.8.8.8", "srflx", False),
        ("::ffff:192.168.0.7", "192.168.0.9", "host", True),
        ("fd00:1::7", "fd00:1::9", "host", True),
        ("fd00:1::7", "fd00:2::9", "host", False),
        ("2001:4860::7", "2001:4860::8", "host", False),
        ("127.0.0.1", "10.0.0.2", "host", True),  # the browser on the server's machine
        ("127.0.0.1", "10.0.0.3", "host", False),
        ("10.0.0.2", "10.0.0.2", "host", True),
        ("192.168.0.7", "224.0.0.251", "host", False),
        ("192.168.0.7", "255.255.255.255", "host", False),
        ("192.168.0.7", "0.0.0.0", "host", False),
        ("", "192.168.0.7", "host", False),
        ("203.0.113.5", "198.51.100.1", "relay", False),
    ],
)
def test_an_address_is_tried_if_it_can_be_the_callers_own(caller: str, ip: str, kind: str, tried: bool) -> None:
    assert Reachable(caller, frozenset({"10.0.0.2"})).includes(candidate(ip, kind)) == tried


def test_with_a_turn_server_a_relay_is_tried_but_no_door_of_this_machine() -> None:
    reachable = Reachable("203.0.113.5", relays=True)
    assert reachable.includes(candidate("198.51.100.1", "relay"))
    assert not reachable.includes(candidate("127.0.0.1", "relay"))
    assert not reachable.includes(candidate("169.254.169.254", "relay"))


def test_an_offer_keeps_the_candidates_that_are_tried() -> None:
    lines = ["v=0", "a=candidate:1 1 udp 1 203.0.113.5 5 typ srflx", "a=candidate:1 1 udp 1 10.0.0.1 5 typ host", "a=x"]
    assert Reachable("203.0.113.5").filter("\r\n".join(lines)).split("\n") == [*lines[:2], "a=x"]
