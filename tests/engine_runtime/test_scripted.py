"""What only the scripted engine does: scripts, delays, tones."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from engine.client import EngineError, SessionOptions, Unit
from engine.serving.scripted import Script, ScriptedEngine, ScriptedSession
from tests.engine_runtime.conftest import tone, unit


async def opened(script: Script | None = None, options: SessionOptions | None = None) -> ScriptedSession:
    engine = ScriptedEngine(script)
    await engine.start()
    return await engine.open(options or SessionOptions())


async def text(session: ScriptedSession, epoch: int = 1) -> str:
    return "".join([chunk.text async for chunk in session.generate(epoch)])


async def test_it_tells_what_it_was_given() -> None:
    session = await opened()
    await session.prefill(unit(1.0))
    await session.prefill(Unit(audio=np.concatenate([tone(0.5), np.zeros(8_000, np.int16)]), text="good morning"))
    assert await text(session) == 'I heard 1.5 seconds of sound in 2 units. You typed "good morning".'
    await session.prefill(unit(0.5))
    assert await text(session) == "I heard 0.5 seconds of sound in 1 units."


async def test_a_script_is_followed_in_turn(tmp_path: Path) -> None:
    (path := tmp_path / "script.json").write_text('{"answers": ["turn {turn}", "you heard {heard}"]}')
    session = await opened(Script.load(path))
    assert await text(session) == "turn 1"
    await session.heard(1, 36_000)
    assert await text(session) == "you heard 1.5"
    assert await text(session) == "turn 3"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[]", "must be an object"),
        ("{", "cannot be read"),
        ('{"answer": []}', "unknown keys"),
        ('{"answers": ["{nothing}"]}', "wrong field"),
        ('{"chunk_s": -1}', "not negative"),
    ],
)
def test_a_wrong_script_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    (path := tmp_path / "script.json").write_text(content)
    with pytest.raises(EngineError, match=complaint) as caught:
        Script.load(path)
    assert caught.value.code == "load_failed"


async def test_a_cancel_cuts_a_delay_short() -> None:
    session = await opened(Script(first_chunk_s=3600, chunk_s=3600))
    stream = session.generate(1)
    await asyncio.sleep(0.01)
    await session.cancel(1)
    async with asyncio.timeout(5):
        assert [chunk.finish async for chunk in stream] == ["cancelled"]


async def test_its_speech_is_soft_and_never_silent_for_long() -> None:
    session = await opened()
    speech = np.concatenate([chunk.pcm async for chunk in session.generate(1)])
    assert 1_000 < np.abs(speech).max() < 8_000
    windows = np.abs(speech[: len(speech) // 4_800 * 4_800].reshape(-1, 4_800)).max(axis=1)
    assert (windows > 200).all()
