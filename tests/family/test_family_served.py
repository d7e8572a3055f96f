"""The MiniCPM-V models behind the engine's interface: they chat, by the calls' scheduler; nobody calls them."""

from __future__ import annotations

import asyncio

import pytest

from engine.client import ChatMessage, ChatPart, ChatPiece, ChatRequest, Engine, EngineError, SessionOptions
from engine.config_language import Generation
from engine.serving.factory import create_engine
from engine.spec import EngineSpec
from tests.family.conftest import SETS, manifest


def engine_of(generation: Generation) -> Engine:
    return create_engine(EngineSpec(model=str(SETS[generation]), device="cpu", dtype="float32", in_process=True))


def request_of(generation: Generation, case: str) -> ChatRequest:
    """A case of the golden set, asked as a client asks it."""
    told = manifest(generation)["chat"][case]
    messages: list[ChatMessage] = []
    for entry in told["msgs"]:
        content = entry["content"] if isinstance(entry["content"], list) else [entry["content"]]
        if not messages and told["kwargs"].get("image"):
            content = [told["kwargs"]["image"], *content]
        parts = [
            ChatPart("text", part)
            if isinstance(part, str)
            else ChatPart("picture", data=(SETS[generation] / part["image"]).read_bytes())
            for part in content
        ]
        messages.append(ChatMessage(entry["role"], tuple(parts)))
    return ChatRequest(tuple(messages), max_new_tokens=16, temperature=0, repetition_penalty=1.05)


async def ask(engine: Engine, request: ChatRequest) -> list[ChatPiece]:
    return [piece async for piece in engine.chat(request)]


@pytest.mark.asyncio
async def test_chats_are_answered_as_published_alone_or_together(generation: Generation) -> None:
    engine = engine_of(generation)
    info = await engine.start()
    try:
        assert (info.sees, info.hears, info.speaks) == (True, False, False)
        cases = ["single", "sliced", "multi_turn"]
        alone = [await ask(engine, request_of(generation, case)) for case in cases]
        together = await asyncio.gather(*(ask(engine, request_of(generation, case)) for case in cases))
        for case, first, second in zip(cases, alone, together, strict=True):
            told = manifest(generation)["chat"][case]
            assert "".join(piece.text for piece in first).strip().replace("!", "") == told["text"]
            assert "".join(piece.text for piece in first) == "".join(piece.text for piece in second)
            assert first[0].prompt_tokens == second[0].prompt_tokens > 2
            assert first[-1].tokens == len(told["generated_ids"][0])
        grids = [piece[0].grids for piece in alone]
        assert grids[0] == ((1, 1),)
        assert grids[1] == ((2, 1),)
        with pytest.raises(EngineError, match="neither hears nor speaks"):
            await engine.open(SessionOptions())
        spoken = ChatRequest((ChatMessage("user", (ChatPart("text", "hello"),)),), speak=True)
        with pytest.raises(EngineError, match="has no voice"):
            await ask(engine, spoken)
    finally:
        await engine.stop()
