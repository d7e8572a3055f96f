"""Every kind of bad request to ``/v1/``: status, code and field, in OpenAI's form."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer

from app.openai import fetch as fetching
from app.openai.errors import ApiError
from app.openai.fetch import MAX_REDIRECTS, fetch, is_public
from app.openai.media import RemotePart
from app.openai.read import MAX_TOKENS, read_request
from app.openai.routes import MAX_BODY_BYTES
from tests.http.conftest import Site

URL = "/v1/chat/completions"
JSON = "application/json"
DOT = base64.b64encode(b"no picture").decode()


def body(**changed: Any) -> str:
    return json.dumps({"model": "scripted", "messages": [{"role": "user", "content": "Hi"}], **changed})


def content(*parts: Any, role: str = "user") -> str:
    return body(messages=[{"role": role, "content": list(parts)}])


def picture(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


class Row(NamedTuple):
    """A body, and the status, code and field of the error that it is answered with."""

    name: str
    body: str | bytes
    status: int
    code: str
    param: str | None = None
    content_type: str = JSON


FIRST = "messages[0].content[0]"
SPOKEN = {"modalities": ["text", "audio"]}
TABLE = [
    Row("no JSON", "{", 400, "invalid_json"),
    Row("NaN", body(seed=0).replace("0}", "NaN}"), 400, "invalid_json"),
    Row("a list", "[]", 400, "invalid_type"),
    Row("a form", "model=x", 415, "wrong_content_type", None, "application/x-www-form-urlencoded"),
    Row("no model", body(model=None), 400, "missing_required_parameter", "model"),
    Row("other model", body(model="gpt-9"), 404, "model_not_found", "model"),
    Row("unknown field", body(colour="red"), 400, "unknown_parameter", "colour"),
    Row("two answers", body(n=2), 400, "unsupported_parameter", "n"),
    Row("tools", body(tools=[{"type": "function"}]), 400, "unsupported_parameter", "tools"),
    Row("JSON wanted", body(response_format={"type": "json_object"}), 400, "unsupported_parameter", "response_format"),
    Row("biased", body(logit_bias={"50": 10}), 400, "unsupported_parameter", "logit_bias"),
    Row("penalty", body(presence_penalty=1), 400, "unsupported_parameter", "presence_penalty"),
    Row("no messages", body(messages=[]), 400, "invalid_type", "messages"),
    Row("messages a text", body(messages="hi"), 400, "invalid_type", "messages"),
    Row("message a text", body(messages=["hi"]), 400, "invalid_type", "messages[0]"),
    Row("no role", body(messages=[{"content": "x"}]), 400, "missing_required_parameter", "messages[0].role"),
    Row("odd role", body(messages=[{"role": "tool", "content": "x"}]), 400, "invalid_value", "messages[0].role"),
    Row("no content", body(messages=[{"role": "user"}]), 400, "invalid_type", "messages[0].content"),
    Row("assistant last", body(messages=[{"role": "assistant", "content": "x"}]), 400, "invalid_value"),
    Row("odd part", content({"type": "smell"}), 400, "invalid_value", f"{FIRST}.type"),
    Row("part a text", content("x"), 400, "invalid_type", FIRST),
    Row("text no text", content({"type": "text", "text": 1}), 400, "invalid_type", f"{FIRST}.text"),
    Row("picture of the system's", content(picture(f"data:image/png;base64,{DOT}"), role="system"), 400,
        "invalid_value", "messages[0].content"),
    Row("no base64", content(picture("data:image/png;base64,%%%")), 400, "invalid_base64", f"{FIRST}.image_url.url"),
    Row("no picture", content(picture(f"data:image/png;base64,{DOT}")), 400, "invalid_media", "messages"),
    Row("a sound for a picture", content(picture(f"data:audio/wav;base64,{DOT}")), 400, "invalid_media",
        f"{FIRST}.image_url.url"),
    Row("a file's path", content(picture("file:///etc/passwd")), 400, "invalid_value", f"{FIRST}.image_url.url"),
    Row("on the web", content(picture("https://a.example/b.png")), 400, "invalid_value", f"{FIRST}.image_url.url"),
    Row("sound, no format", content({"type": "input_audio", "input_audio": {"data": DOT}}), 400,
        "missing_required_parameter", f"{FIRST}.input_audio.format"),
    Row("a model without ears", content({"type": "input_audio", "input_audio": {"data": DOT, "format": "wav"}}), 400,
        "invalid_media", "messages"),
    Row("hot", body(temperature=3), 400, "invalid_value", "temperature"),
    Row("temperature a text", body(temperature="1"), 400, "invalid_type", "temperature"),
    Row("top_p", body(top_p=-0.1), 400, "invalid_value", "top_p"),
    Row("no token", body(max_tokens=0), 400, "invalid_value", "max_tokens"),
    Row("half a token", body(max_completion_tokens=1.5), 400, "invalid_type", "max_completion_tokens"),
    Row("stop", body(stop=[1]), 400, "invalid_value", "stop"),
    Row("five stops", body(stop=list("abcde")), 400, "invalid_value", "stop"),
    Row("seed", body(seed=True), 400, "invalid_type", "seed"),
    Row("stream", body(stream="yes"), 400, "invalid_type", "stream"),
    Row("usage of no stream", body(stream_options={"include_usage": True}), 400, "invalid_value", "stream_options"),
    Row("smelling answer", body(modalities=["smell"]), 400, "invalid_value", "modalities"),
    Row("sound, but which", body(**SPOKEN), 400, "invalid_type", "audio"),
    Row("sound as MP3", body(**SPOKEN, audio={"voice": "default", "format": "mp3"}), 400, "invalid_value",
        "audio.format"),
    Row("unknown voice", body(**SPOKEN, audio={"voice": "Callas", "format": "wav"}), 400, "invalid_value"),
    Row("streamed WAV", body(**SPOKEN, audio={"voice": "default", "format": "wav"}, stream=True), 400,
        "unsupported_value", "audio.format"),
    Row("too long", content({"type": "text", "text": "x" * 500_000}), 400, "context_length_exceeded", "messages"),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
async def test_a_bad_request_is_told_in_openais_form(site: Site, row: Row) -> None:
    async with site.http.post(URL, data=row.body, headers={"Content-Type": row.content_type}) as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"], error["param"]) == (row.status, row.code, row.param), error
        assert error["type"] == "invalid_request_error"
        assert error["message"].endswith(".")
    async with site.http.post(URL, data=body(), headers={"Content-Type": JSON}) as response:
        assert response.status == 200


async def test_what_is_not_there_is_told_in_the_same_form(site: Site) -> None:
    async with site.http.get("/v1/embeddings") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "unknown_url")
    async with site.http.get(URL) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (405, "method_not_allowed")
        assert response.headers["Allow"] == "POST"


async def test_a_body_has_a_largest_size(site: Site) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // (1 << 20) + 2):
            yield b" " * (1 << 20)

    async with site.http.post(URL, data=endless(), headers={"Content-Type": JSON}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (413, "too_large")


async def test_a_fault_in_the_middle_of_a_stream_is_its_last_event(site: Site) -> None:
    """The scripted engine's end comes while an answer is streamed."""
    request = {"model": "scripted", "messages": [{"role": "user", "content": "word " * 2_000}], "stream": True}
    async with site.http.post(URL, json=request) as response:
        await response.content.readuntil(b"word")
        assert response.status == 200
        site.server.engine._chats.close()  # type: ignore[attr-defined]
        rest = (await response.text()).split("\n\n")
    assert rest[-1] == ""
    error = json.loads(rest[-2].removeprefix("data: "))["error"]
    assert (error["code"], error["type"]) == ("engine_not_ready", "server_error")


def test_more_tokens_than_there_can_be_are_as_many_as_there_can_be() -> None:
    asked = read_request(body(max_tokens=10**9).encode(), remote=False)
    assert asked.request().max_new_tokens == MAX_TOKENS


def test_a_picture_that_asks_for_little_detail_stays_whole_and_others_do_not() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": url, "detail": detail}}
        for url in (f"data:;base64,{DOT}", "https://a.example/b.png")
        for detail in ("low", "high", "auto")
    ]
    asked = read_request(content(*parts).encode(), remote=True).request([b"x"] * 3)
    assert [part.max_slices for part in asked.messages[0].parts] == [1, None, None] * 2
    assert asked.max_slices is None


def test_an_answer_is_drawn_anew_unless_a_seed_is_given() -> None:
    asked = [read_request(body(**seed).encode(), remote=False).request().seed for seed in ({}, {}, {"seed": 7})]
    assert asked[0] != asked[1]
    assert asked[2] == 7


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1::1", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("192.168.0.1", False), ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False),
        ("224.0.0.1", False), ("::1", False), ("fe80::1", False), ("fd00::1", False), ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False), ("64:ff9b::5db8:d822", True), ("2002:a00:1::", False), ("::", False),
    ],
)  # fmt: skip
def test_addresses_of_the_internet_are_told_from_others(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) == public


@pytest.fixture
async def place() -> AsyncIterator[BaseTestServer]:
    """A web server on the loopback that has good and bad things."""

    async def small(request: web.Request) -> web.Response:
        return web.Response(body=b"small")

    async def large(request: web.Request) -> web.Response:
        return web.Response(body=bytes(2_000))

    async def packed(request: web.Request) -> web.Response:
        return web.Response(body=b"x", headers={"Content-Encoding": "gzip"})

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(3_600)
        return web.Response()

    async def moved(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": request.query["to"]})

    app = web.Application()
    for name, handler in (("small", small), ("large", large), ("packed", packed), ("slow", slow), ("moved", moved)):
        app.router.add_get(f"/{name}", handler)
    async with TestServer(app) as server:
        yield server


def part(url: str) -> RemotePart:
    return RemotePart("picture", url, "here")


async def test_what_is_allowed_is_fetched_over_redirects(place: BaseTestServer) -> None:
    urls = [str(place.make_url(path)) for path in ("/small", "/moved?to=/small")]
    assert await fetch([part(url) for url in urls], allowed=lambda _: True) == [b"small", b"small"]


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("/nothing", "status 404"),
        ("/large", "has more than"),
        ("/packed", "in a compressed form"),
        ("/slow", "did not answer within"),
        ("/moved?to=/moved%3Fto=/moved%253Fto=/moved%25253Fto=/small", f"more than {MAX_REDIRECTS} times"),
        ("/moved?to=ftp://127.0.0.1/x", "not plain http or https"),
        ("/moved?to=http://127.0.0.2:9/", "is no public address"),
        ("/moved?to=http://localhost:9/", "is no public address"),
    ],
)
async def test_what_cannot_be_fetched_is_one_sentence(
    place: BaseTestServer, path: str, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's own address counts as public, the one that it leads to by http does not."""
    monkeypatch.setattr(fetching, "MAX_BYTES", 1_000)
    monkeypatch.setattr(fetching, "TIMEOUT_S", 10.0 if "slow" not in path else 0.2)
    known = iter([True])
    with pytest.raises(ApiError) as refused:
        await fetch(
            [part(str(place.make_url("/")).rstrip("/") + path)], allowed=lambda _: next(known, "http:" not in path)
        )
    assert cause in refused.value.message
    assert refused.value.param == "here"
