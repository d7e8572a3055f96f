"""The answer to every kind of bad request, and that a call beside it goes on."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from aiohttp import ClientSession
from aiortc import RTCIceCandidate

from app.errors import STATUS, RequestError
from app.server.api import CANDIDATES_PER_MINUTE
from app.webrtc.peer import Peer
from tests.http.conftest import Site, StartServer
from tests.webrtc.caller import Caller
from tests.webrtc.offers import CAMERA_ALONE, OFFER

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
HALF = "half of a pair: \ud83d"
UNKNOWN = "/api/calls/there-is-no-such-call"


def offer(**changed: Any) -> str:
    return json.dumps({"type": "offer", "sdp": OFFER, **changed})


class Row(NamedTuple):
    """A request, and the status and code that it is answered with."""

    name: str
    method: str
    path: str
    body: bytes | str
    content_type: str
    status: int
    code: str


TABLE = [
    Row("no JSON", "POST", "/api/calls", "{oh no", JSON, 400, "bad_json"),
    Row("empty body", "POST", "/api/calls", "", JSON, 400, "bad_json"),
    Row("wrong encoding", "POST", "/api/calls", b"\xff\xfe{", JSON, 400, "bad_json"),
    Row("nested too deep", "POST", "/api/calls", "[" * 30_000, JSON, 400, "bad_json"),
    Row("NaN", "POST", "/api/calls", '{"type": "offer", "sdp": NaN}', JSON, 400, "bad_json"),
    Row("infinite", "POST", "/api/calls", offer(options={"seed": 0}).replace("0", "1e999"), JSON, 400, "bad_json"),
    Row("half a pair: sdp", "POST", "/api/calls", offer(sdp=OFFER + HALF), JSON, 400, "bad_json"),
    Row("half a pair: option", "POST", "/api/calls", offer(options={"prompt": HALF}), JSON, 400, "bad_json"),
    Row("half a pair: option's name", "POST", "/api/calls", offer(options={HALF: 1}), JSON, 400, "bad_json"),
    Row("half a pair: ticket", "POST", "/api/calls", offer(ticket=HALF), JSON, 400, "bad_json"),
    Row("half a pair: token", "POST", UNKNOWN + "/restart", offer(resume_token=HALF), JSON, 400, "bad_json"),
    Row("half a pair: candidate", "PATCH", UNKNOWN, json.dumps({"candidate": HALF}), JSON, 400, "bad_json"),
    Row("half a pair, as bytes", "POST", "/api/calls", b'{"sdp": "\xed\xa0\x80"}', JSON, 400, "bad_json"),
    Row("a list", "POST", "/api/calls", "[]", JSON, 400, "bad_request"),
    Row("no type", "POST", "/api/calls", json.dumps({"sdp": OFFER}), JSON, 400, "bad_request"),
    Row("an answer", "POST", "/api/calls", offer(type="answer"), JSON, 400, "bad_request"),
    Row("no sdp", "POST", "/api/calls", json.dumps({"type": "offer"}), JSON, 400, "bad_sdp"),
    Row("sdp is a number", "POST", "/api/calls", offer(sdp=7), JSON, 400, "bad_sdp"),
    Row("sdp is no SDP", "POST", "/api/calls", offer(sdp="hello"), JSON, 400, "bad_sdp"),
    Row("no ICE", "POST", "/api/calls", offer(sdp=OFFER.replace("ice-ufrag", "x")), JSON, 400, "bad_sdp"),
    Row("video only", "POST", "/api/calls", offer(sdp=CAMERA_ALONE), JSON, 422, "no_audio"),
    Row("audio one way", "POST", "/api/calls", offer(sdp=OFFER.replace("sendrecv", "recvonly")), JSON, 422, "no_audio"),
    Row("options no object", "POST", "/api/calls", offer(options=[]), JSON, 400, "bad_options"),
    Row("unknown option", "POST", "/api/calls", offer(options={"volume": 11}), JSON, 400, "bad_options"),
    Row("wrong option", "POST", "/api/calls", offer(options={"preset": "opera"}), JSON, 400, "bad_options"),
    Row("unknown voice", "POST", "/api/calls", offer(options={"voice": "Callas"}), JSON, 400, "bad_options"),
    Row("ticket no text", "POST", "/api/calls", offer(ticket=1), JSON, 400, "bad_request"),
    Row("line, ticket no text", "POST", "/api/line", '{"ticket": 1}', JSON, 400, "bad_request"),
    Row("too large", "POST", "/api/calls", offer(sdp="v=0" + "x" * 70_000), JSON, 413, "too_large"),
    Row("a form", "POST", "/api/calls", "sdp=1", FORM, 415, "wrong_content_type"),
    Row("plain text", "POST", "/api/calls", offer(), "text/plain", 415, "wrong_content_type"),
    Row("no content type", "POST", "/api/calls", b"{}", "", 415, "wrong_content_type"),
    Row("restart of no call", "POST", UNKNOWN + "/restart", offer(resume_token="x"), JSON, 404, "unknown_call"),
    Row("restart, token no text", "POST", UNKNOWN + "/restart", offer(resume_token=1), JSON, 400, "bad_request"),
    Row("candidate of no call", "PATCH", UNKNOWN, '{"candidate": ""}', JSON, 404, "unknown_call"),
    Row("hang-up of no call", "DELETE", UNKNOWN, "", "", 404, "unknown_call"),
    Row("no candidate", "PATCH", UNKNOWN, "{}", JSON, 400, "bad_candidate"),
    Row("candidates no list", "PATCH", UNKNOWN, '{"candidates": 1}', JSON, 400, "bad_candidate"),
    Row("GET of calls", "GET", "/api/calls", "", "", 405, "method_not_allowed"),
    Row("PUT of a call", "PUT", UNKNOWN, "{}", JSON, 405, "method_not_allowed"),
    Row("unknown path", "GET", "/api/nothing", "", "", 404, "not_found"),
]


@pytest.fixture
async def beside(site: Site) -> Caller:
    """A call that all this must not disturb."""
    caller, _ = await site.call()
    return caller


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
async def test_bad_requests_are_answered_and_disturb_nobody(site: Site, beside: Caller, row: Row) -> None:
    headers = {"Content-Type": row.content_type}
    async with site.http.request(row.method, row.path, data=row.body, headers=headers) as response:
        answer = await response.json()
        assert (response.status, answer["error"]["code"]) == (row.status, row.code), answer
        assert len(answer["error"]["message"]) > 20
        assert ("Allow" in response.headers) == (row.status == 405)
    assert len(site.server.registry) == 1
    beside.send("ping", nonce=row.name)
    assert (await beside.receive("pong"))["data"]["nonce"] == row.name


async def test_a_call_s_own_addresses_check_what_they_get(site: Site) -> None:
    _, answer = await site.call()
    path = f"/api/calls/{answer['call_id']}"
    fine = {"candidate": "candidate:1 1 udp 2122260223 127.0.0.1 9 typ host", "sdpMid": "0", "sdpMLineIndex": 0}
    for body, status in (
        (fine, 204),
        ({"candidates": [fine, {"candidate": ""}]}, 204),
        ({"candidate": "candidate:nonsense"}, 400),
        ({"candidate": "candidate:1 1 udp 2122260223 192.0.2.4 99999 typ host"}, 400),
        ({"candidate": "candidate:1 1 udp 2122260223 999.1.1.1 5000 typ host"}, 400),
        ({"candidates": [fine] * 100}, 400),
    ):
        async with site.http.patch(path, json=body) as response:
            assert response.status == status, body


async def test_only_candidates_of_the_caller_are_tried(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    caller, tried = Caller(), []
    site.callers.append(caller)

    async def add(_: Peer, candidate: RTCIceCandidate) -> None:
        tried.append(candidate.ip)

    monkeypatch.setattr(Peer, "add_candidate", add)
    _, answer, _ = await site.offer(await caller.offer())
    path = f"/api/calls/{answer['call_id']}"
    for ip in ("8.8.8.8", "127.0.0.1", "169.254.169.254", "10.255.255.1"):
        body = {"candidate": f"candidate:1 1 udp 2122260223 {ip} 53 typ host"}
        async with site.http.patch(path, json=body) as response:
            assert response.status == 204
    assert tried == ["127.0.0.1"]
    await caller.accept(answer["sdp"])
    await caller.connected()


async def test_too_many_candidates_are_put_off(site: Site) -> None:
    statuses = set()
    for _ in range(CANDIDATES_PER_MINUTE):
        async with site.http.patch(UNKNOWN, json={"candidate": ""}) as response:
            statuses.add(response.status)
    assert statuses == {404, 429}


async def test_too_many_offers_are_put_off(start: StartServer) -> None:
    site = await start("--offers-per-minute", "4")
    answers = [await site.offer("hello") for _ in range(3)]
    assert [status for status, _, _ in answers] == [400, 400, 429]
    _, body, response = answers[-1]
    assert body["error"]["code"] == "rate_limited"
    assert 1 <= int(response.headers["Retry-After"]) <= 15


async def test_before_the_engine_is_ready_calls_are_put_off(start: StartServer) -> None:
    site = await start(ready=False)
    status, body, response = await site.offer(OFFER)
    assert (status, body["error"]["code"]) == (503, "not_ready")
    assert int(response.headers["Retry-After"]) >= 1
    async with site.http.get("/ready") as answer:
        ready = await answer.json()
        assert (answer.status, ready["ready"], ready["error"]["code"]) == (503, False, "not_ready")
    async with site.http.get("/health") as answer:
        assert answer.status == 200
    await site.server.start_engine()
    async with site.http.get("/ready") as answer:
        ready = await answer.json()
        assert (answer.status, ready["ready"], ready["name"], ready["trained"]) == (200, True, "scripted", False)


async def test_a_body_that_is_larger_than_it_says_is_refused(site: Site) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b"x" * 1024

    async with ClientSession() as http:
        url = f"http://127.0.0.1:{site.server.port}/api/calls"
        async with http.post(url, data=endless(), headers={"Content-Type": JSON}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (413, "too_large")


def test_every_code_has_a_status_of_an_error() -> None:
    assert all(RequestError(code, "why").status >= 400 for code in STATUS)
