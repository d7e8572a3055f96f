"""The MiniCPM-V models' small golden checkpoints, asked by OpenAI's client: they answer as published."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from openai import BadRequestError

from engine.config_language import Generation
from tests.family.conftest import GENERATIONS, SETS, manifest
from tests.http.conftest import StartServer
from tests.http.test_openai import client_of, picture

AS_PUBLISHED: dict[str, Any] = {"temperature": 0, "extra_body": {"repetition_penalty": 1.05}, "max_tokens": 16}


def golden(generation: Generation, name: str, **more: str) -> dict[str, Any]:
    """One of the set's pictures as a part of a message."""
    data = base64.b64encode((SETS[generation] / "images" / f"{name}.png").read_bytes()).decode()
    return picture(f"data:image/png;base64,{data}", **more)


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


@pytest.mark.parametrize("generation", GENERATIONS)
async def test_a_v_model_answers_as_published(start: StartServer, generation: Generation) -> None:
    folder = SETS[generation]
    site = await start("--engine", "mini", "--model", str(folder), "--device", "cpu")
    how: dict[str, Any] = {"model": folder.name, **AS_PUBLISHED}
    told = manifest(generation)["chat"]["single"]
    question: Any = [{"role": "user", "content": [golden(generation, "single"), text("What is in the image?")]}]
    async with client_of(site) as client:
        [model] = [model async for model in client.models.list()]
        assert model.id == folder.name
        assert (model.model_extra or {})["speaks"] is False
        assert (model.model_extra or {})["one_picture"] is (generation == "v-2.0")
        answer = await client.chat.completions.create(messages=question, **how)
        assert (answer.choices[0].message.content or "").strip().replace("!", "") == told["text"]
        assert answer.usage is not None
        assert answer.usage.completion_tokens == len(told["generated_ids"][0])
        stream = await client.chat.completions.create(messages=question, stream=True, **how)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(pieces) == answer.choices[0].message.content
        asked_closely = [golden(generation, "sliced"), text("Describe it.")]
        grids = await grids_of(client, how, asked_closely)
        assert grids == [{"columns": 2, "rows": 1}]
        assert await grids_of(client, how, [golden(generation, "sliced", detail="low"), text("Describe it.")]) == [
            {"columns": 1, "rows": 1}
        ]
        if generation == "v-2.0":  # one picture, with the first message
            with pytest.raises(BadRequestError, match="takes one picture"):
                await grids_of(client, how, [golden(generation, "single"), *asked_closely])
            film: Any = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}
            with pytest.raises(BadRequestError, match="one picture, not at a video"):
                await grids_of(client, how, [film, *asked_closely])
        else:
            both = [golden(generation, "sliced", detail="low"), *asked_closely]
            assert await grids_of(client, how, both) == [{"columns": 1, "rows": 1}, {"columns": 2, "rows": 1}]
        with pytest.raises(BadRequestError, match="has no voice"):
            await client.chat.completions.create(
                messages=question, modalities=["text", "audio"], audio={"voice": "default", "format": "wav"}, **how
            )
        with pytest.raises(BadRequestError) as long:
            await client.chat.completions.create(messages=[{"role": "user", "content": "word " * 9_000}], **how)
        assert long.value.code == "context_length_exceeded"


async def grids_of(client: Any, how: dict[str, Any], parts: list[dict[str, Any]]) -> list[dict[str, int]]:
    """How the pictures of a question were cut."""
    answer = await client.chat.completions.create(messages=[{"role": "user", "content": parts}], **how)
    cut: list[dict[str, int]] = answer.model_extra["pictures"]
    return cut
