"""Chat completions as another program asks for them: with OpenAI's own client."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import BaseTestServer, TestServer
from openai import APIStatusError, AsyncOpenAI, AuthenticationError, BadRequestError, NotFoundError, RateLimitError
from PIL import Image, ImageDraw

from app.openai import routes
from engine.client import ChatMessage, ChatPart, ChatRequest
from engine.serving.chat_queue import MAX_WAITING_CHATS
from engine.spec import MAX_CHATS
from tests.browser.server import write_script
from tests.http.conftest import Site, StartServer
from tests.webrtc.caller import until

SPEECH = Path(__file__).parents[1] / "data" / "speech" / "digits-woman.flac"
HELLO: list[Any] = [{"role": "user", "content": "Hello there"}]


def client_of(site: Site, key: str = "none") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"http://127.0.0.1:{site.server.port}/v1", api_key=key, max_retries=0)


@pytest.fixture
async def client(site: Site) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(site) as client:
        yield client


@pytest.fixture
async def mini(start: StartServer) -> AsyncIterator[AsyncOpenAI]:
    """A client of mini, which answers in the test's own process."""
    site = await start("--engine", "mini", "--max-calls", "1")
    async with client_of(site) as client:
        yield client


def shape(color: str = "red", form: str = "PNG") -> str:
    image = Image.new("RGB", (448, 448), "white")
    ImageDraw.Draw(image).ellipse((120, 120, 330, 330), fill=color)
    data = io.BytesIO()
    image.save(data, form)
    return f"data:image/{form.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


def asked(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": list(parts)}]


def picture(url: str, **more: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


async def test_the_models_are_listed(client: AsyncOpenAI) -> None:
    [model] = [model async for model in client.models.list()]
    assert (model.id, model.object, model.owned_by) == ("scripted", "model", "omni-call")
    assert (await client.models.retrieve("scripted")).created == model.created > 1_600_000_000
    with pytest.raises(NotFoundError) as missing:
        await client.models.retrieve("gpt/4")
    assert missing.value.code == "model_not_found"


async def test_an_answer_comes_whole(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="scripted", messages=HELLO)
    assert answer.object == "chat.completion"
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == 'You typed "Hello there".'
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens == 4


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_an_answer_has_a_longest_length(client: AsyncOpenAI, name: str) -> None:
    short = await client.chat.completions.create(model="scripted", messages=HELLO, **{name: 2})  # type: ignore[call-overload]
    assert short.choices[0].finish_reason == "length"
    assert short.choices[0].message.content == "You typed"


async def test_an_answer_is_streamed_with_its_usage_at_the_end(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="scripted", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    said = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert "".join(said) == 'You typed "Hello there".'
    assert sum(map(bool, said)) > 1
    assert [chunk.choices[0].finish_reason for chunk in chunks[-3:-1]] == [None, "stop"]
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4


async def test_the_stream_is_server_sent_events(site: Site) -> None:
    body = {"model": "scripted", "messages": HELLO, "stream": True}
    async with site.http.post("/v1/chat/completions", json=body) as response:
        assert response.content_type == "text/event-stream"
        events = (await response.text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk" for event in events[:-2])


async def test_turns_and_a_system_message_are_read(client: AsyncOpenAI) -> None:
    turns: list[Any] = [
        {"role": "developer", "content": "Be brief."}, *HELLO, {"role": "assistant", "content": "Hi."},
        *asked({"type": "text", "text": "And"}, {"type": "text", "text": "now?"}),
    ]  # fmt: skip
    answer = await client.chat.completions.create(model="scripted", messages=turns)
    assert answer.choices[0].message.content == 'You typed "And now?".'


async def test_as_many_wait_as_may_and_the_next_one_is_told_so(start: StartServer, tmp_path: Path) -> None:
    script = write_script(tmp_path / "script.json", "one two three", chunk_s=3_600.0)
    site = await start("--script", str(script))
    waiting = ChatRequest((ChatMessage("user", (ChatPart("text", "wait"),)),))
    streams = [site.server.engine.chat(waiting) for _ in range(MAX_CHATS + MAX_WAITING_CHATS)]
    async with client_of(site) as client:
        with pytest.raises(RateLimitError) as full:
            await client.chat.completions.create(model="scripted", messages=HELLO)
    assert full.value.code == "engine_overloaded"
    assert full.value.response.headers["retry-after"] == "2"
    for stream in streams:
        await stream.aclose()


async def test_one_address_cannot_have_all_there_is(
    start: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "MOST_OF_ONE", 1)
    script = write_script(tmp_path / "script.json", "one two three", chunk_s=3_600.0)
    site = await start("--script", str(script))
    async with client_of(site) as client:
        first = await client.chat.completions.create(model="scripted", messages=HELLO, stream=True)
        with pytest.raises(RateLimitError) as refused:
            await client.chat.completions.create(model="scripted", messages=HELLO)
        assert refused.value.code == "rate_limit_exceeded"
        assert refused.value.response.headers["retry-after"] == "2"
        await first.close()


@pytest.mark.parametrize("streamed", [True, False])
async def test_an_answer_ends_when_its_client_goes(
    start: StartServer, tmp_path: Path, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place is free again, although the answer itself would have taken an hour more."""
    monkeypatch.setattr(routes, "LOOK_S", 0.01)
    script = write_script(tmp_path / "script.json", "one two three", chunk_s=3_600.0)
    site = await start("--script", str(script))
    running = site.server.engine._chats._queue.running  # type: ignore[attr-defined]
    body = {"model": "scripted", "messages": HELLO, "stream": streamed}
    async with ClientSession() as http:
        url = f"http://127.0.0.1:{site.server.port}/v1/chat/completions"
        if streamed:
            async with http.post(url, json=body) as response:
                assert b"one" in await response.content.readuntil(b"one")
                assert len(running) == 1
        else:
            request = asyncio.create_task(http.post(url, json=body).__aenter__())
            await until(lambda: len(running) == 1, "a chat that is answered")
            request.cancel()
    await until(lambda: not running, "nobody who is answered")


async def test_with_a_key_programs_show_it_as_a_token(start: StartServer) -> None:
    site = await start("--key", "for people", "--api-key", "sk-for-programs")
    async with client_of(site, "sk-for-programs") as client:
        assert (await client.chat.completions.create(model="scripted", messages=HELLO)).choices
    for wrong in ("sk-other-programs", "for people"):
        async with client_of(site, wrong) as client:
            with pytest.raises(AuthenticationError) as refused:
                await client.models.list()
        assert refused.value.code == "invalid_api_key"
    async with site.http.get("/v1/models") as response:
        assert response.status == 401
    async with site.http.get("/ready", headers={"Authorization": "Bearer sk-for-programs"}) as response:
        assert response.status == 401
    async with site.http.post("/api/key", json={"key": "for people"}) as entered:
        cookie = entered.headers["Set-Cookie"].split(";")[0]
    async with site.http.get("/v1/models", headers={"Cookie": cookie}) as response:
        assert response.status == 200


async def test_one_key_is_for_both(start: StartServer) -> None:
    for name in ("--key", "--api-key"):
        site = await start(name, "one-for-all")
        async with client_of(site, "one-for-all") as client:
            assert [model.id async for model in client.models.list()] == ["scripted"]
        async with site.http.get("/") as response:
            assert response.status == 401


@pytest.fixture
async def web_server() -> AsyncIterator[BaseTestServer]:
    """A place on the web, as far as a test can have one: on the loopback."""
    data = base64.b64decode(shape().partition(",")[2])

    async def send(request: web.Request) -> web.Response:
        return web.Response(body=data, content_type="image/png")

    app = web.Application()
    app.router.add_get("/red.png", send)
    async with TestServer(app) as server:
        yield server


async def test_nothing_is_fetched_unless_allowed_and_then_from_public_addresses_only(
    start: StartServer, web_server: BaseTestServer
) -> None:
    linked = asked(picture(str(web_server.make_url("/red.png"))))
    for flags, expected in (((), "REMOTE_URLS=on"), (("--remote-urls", "on"), "is no public address")):
        site = await start(*flags)
        async with client_of(site) as client:
            with pytest.raises(BadRequestError) as refused:
                await client.chat.completions.create(model="scripted", messages=linked)
        assert refused.value.param == "messages[0].content[0].image_url.url"
        assert expected in refused.value.message


async def test_a_lost_engine_is_no_fault_of_the_request(start: StartServer) -> None:
    site = await start(ready=False)
    async with client_of(site) as client:
        with pytest.raises(APIStatusError) as refused:
            await client.chat.completions.create(model="scripted", messages=HELLO)
    assert (refused.value.status_code, refused.value.code) == (503, "engine_not_ready")


@pytest.mark.slow
async def test_mini_answers_about_text_pictures_and_sound(mini: AsyncOpenAI) -> None:
    async def ask(*parts: Any, **more: Any) -> str:
        answer = await mini.chat.completions.create(model="mini", messages=asked(*parts), **more)
        return answer.choices[0].message.content or ""

    plus = {"type": "text", "text": "What is three plus four?"}
    assert await ask(plus) == "Three plus four is seven."
    assert await ask(plus, stop=["four is", "x"]) == "Three plus "
    what = {"type": "text", "text": "What do you see?"}
    assert await ask(picture(shape("red")), what) == "I see a red circle."
    assert await ask(picture(shape("blue", "JPEG"), detail="low"), what) == "I see a blue circle."
    sound = {"data": base64.b64encode(SPEECH.read_bytes()).decode(), "format": "flac"}
    assert (await ask({"type": "input_audio", "input_audio": sound})).startswith("You said ")
    drawn = [await ask(plus, seed=seed, temperature=1.5, top_p=1.0) for seed in (1, 1)]
    assert drawn[0] == drawn[1]


@pytest.mark.slow
async def test_mini_speaks_its_answer(mini: AsyncOpenAI) -> None:
    messages: Any = [{"role": "user", "content": "What is three plus four?"}]
    how: Any = {"model": "mini", "messages": messages, "modalities": ["text", "audio"], "seed": 1}
    whole = await mini.chat.completions.create(**how, audio={"voice": "woman", "format": "wav"})
    spoken = whole.choices[0].message.audio
    assert spoken is not None
    assert spoken.transcript == "Three plus four is seven."
    with wave.open(io.BytesIO(base64.b64decode(spoken.data))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        samples = file.readframes(file.getnframes())
    assert 1 < len(samples) / 48_000 < 5
    assert np.abs(np.frombuffer(samples, "<i2")).max() > 1_000
    stream = await mini.chat.completions.create(**how, stream=True, audio={"voice": "woman", "format": "pcm16"})
    parts = [chunk.choices[0].delta.audio async for chunk in stream]
    assert "".join(part.transcript or "" for part in parts if part) == spoken.transcript
    assert b"".join(base64.b64decode(part.data or "") for part in parts if part) == samples
