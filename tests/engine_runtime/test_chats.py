"""What a chat may expect of any engine, whichever way it is reached."""

from __future__ import annotations

import asyncio
import io
import wave
from typing import Any

import numpy as np
import pytest

from engine.client import MAX_CHAT_BYTES, ChatMessage, ChatPart, ChatPiece, ChatRequest, Engine, EngineError
from engine.serving.chat_queue import MAX_WAITING_CHATS
from engine.spec import MAX_CHATS, EngineSpec
from tests.engine_runtime.conftest import Opener, picture, tone, unit

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHORT = 4


def text(words: str) -> ChatPart:
    return ChatPart("text", words)


def user(*parts: ChatPart | str) -> ChatMessage:
    return ChatMessage("user", tuple(text(part) if isinstance(part, str) else part for part in parts))


def question(*messages: ChatMessage, **options: Any) -> ChatRequest:
    chosen = {"messages": messages or (user("What is three plus four?"),), "max_new_tokens": SHORT, **options}
    return ChatRequest(**chosen)


def shown(form: str = "PNG", **options: Any) -> ChatPart:
    return ChatPart("picture", data=picture(form, **options))


def said(seconds: float = 1.0) -> ChatPart:
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(tone(seconds).tobytes())
    return ChatPart("sound", data=data.getvalue())


async def ask(engine: Engine, request: ChatRequest) -> list[ChatPiece]:
    async with asyncio.timeout(60):
        return [piece async for piece in engine.chat(request)]


async def refusal(engine: Engine, request: ChatRequest) -> EngineError:
    with pytest.raises(EngineError) as refused:
        await ask(engine, request)
    return refused.value


def whole(pieces: list[ChatPiece]) -> tuple[str, bytes, int, str | None]:
    """An answer's text, sound, tokens and end."""
    sound = b"".join(piece.pcm.tobytes() for piece in pieces)
    return "".join(piece.text for piece in pieces), sound, pieces[-1].tokens, pieces[-1].finish


async def test_the_first_piece_says_what_was_read_and_the_last_one_how_it_ended(engine: Engine) -> None:
    pieces = await ask(engine, question(user(shown(), "and", shown("JPEG"))))
    assert pieces[0].prompt_tokens > 2
    assert len(pieces[0].grids) == 2
    assert [piece.finish is not None for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].finish in ("stop", "length")
    assert 0 < pieces[-1].tokens <= SHORT


async def test_the_same_request_has_the_same_answer(engine: Engine) -> None:
    request = question(seed=3, temperature=0.9)
    assert whole(await ask(engine, request)) == whole(await ask(engine, request))


async def test_an_answer_can_be_spoken(engine: Engine) -> None:
    text, sound, _, _ = whole(await ask(engine, question(speak=True, max_new_tokens=2)))
    assert text.strip()
    assert len(sound) % 2 == 0
    assert np.frombuffer(sound, np.int16).any()
    assert not whole(await ask(engine, question()))[1]


async def test_a_sound_is_heard_or_refused(engine: Engine) -> None:
    assert engine.info is not None
    request = question(user("listen", said()))
    if engine.info.hears:
        assert (await ask(engine, request))[-1].finish is not None
    else:
        assert (await refusal(engine, request)).code == "bad_media"


@pytest.mark.parametrize(
    ("messages", "options", "code"),
    [
        ((), {"messages": ()}, "bad_chat"),
        ((ChatMessage("assistant", (text("I begin"),)),), {}, "bad_chat"),
        ((user("hello"), ChatMessage("system", (text("late"),)), user("hello")), {}, "bad_chat"),
        ((ChatMessage("user", ()),), {}, "bad_chat"),
        ((user(ChatPart("picture", data=b"GIF89a")),), {}, "bad_media"),
        ((user(ChatPart("picture", data=bytes(MAX_CHAT_BYTES + 1))),), {}, "bad_media"),
        ((user("word " * 90_000),), {}, "chat_too_long"),
        ((), {"max_new_tokens": 0}, "bad_chat"),
        ((), {"speak": True, "voice": "nobody"}, "bad_chat"),
        ((), {"speak": True, "stop": ("a",)}, "bad_chat"),
    ],
)
async def test_a_bad_request_is_one_sentence_and_leaves_no_trace(
    engine: Engine, messages: tuple[ChatMessage, ...], options: dict[str, Any], code: str
) -> None:
    before = whole(await ask(engine, question()))
    error = await refusal(engine, question(*messages, **options))
    assert error.code == code
    assert error.message.endswith(".")
    assert not error.retryable
    assert whole(await ask(engine, question())) == before


async def test_a_chat_that_is_left_makes_room(engine: Engine) -> None:
    for _ in range(MAX_CHATS + 1):
        async for _piece in engine.chat(question(max_new_tokens=64)):
            break
    assert (await ask(engine, question()))[-1].finish is not None


async def test_so_many_chats_wait_and_no_more(engine: Engine, spec: EngineSpec) -> None:
    """All are asked for before the first can come to its end."""
    if not spec.in_process:
        pytest.skip("the first may be over before the last one has reached the worker")
    running = [engine.chat(question()) for _ in range(MAX_CHATS)]
    waiting = [engine.chat(question()) for _ in range(MAX_WAITING_CHATS)]
    error = await refusal(engine, question())
    assert (error.code, error.retryable) == ("full", True)
    await waiting.pop().aclose()
    async with asyncio.timeout(60):
        ends = [[piece async for piece in stream][-1].finish for stream in (*running, *waiting)]
    assert set(ends) <= {"stop", "length"}


async def test_chats_do_not_change_a_calls_answer(engine: Engine, opened: Opener) -> None:
    """Nor does a call change what a chat is told: both are what they are alone."""

    async def call() -> list[tuple[str, bytes]]:
        session = await opened(max_new_tokens=2, seed=7)
        await session.prefill(unit())
        return [(chunk.text, chunk.pcm.tobytes()) async for chunk in session.generate(1)]

    requests = [question(user(f"What is three plus {n}?", *([shown()] if n % 2 else [])), seed=n) for n in range(5)]
    requests.append(question(speak=True, max_new_tokens=2))
    alone, chats = await call(), [whole(await ask(engine, request)) for request in requests]
    async with asyncio.timeout(120):
        together, *others = await asyncio.gather(call(), *(ask(engine, request) for request in requests))
    assert together == alone
    assert [whole(other) for other in others] == chats  # type: ignore[arg-type]
