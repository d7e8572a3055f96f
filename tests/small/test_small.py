"""A call with small itself, where this machine has assembled it (``make run MODEL=small`` does)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from engine.client import UNIT_SAMPLES, Chunk, Prefilled, SessionOptions, Unit
from engine.serving.live_engine import LiveEngine
from engine.spec import EngineSpec, small_cache

FOLDER = small_cache() / "small"
SPEECH = Path(__file__).parents[1] / "data" / "speech"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (FOLDER / "assembled.json").is_file(), reason=f"small is not assembled in {FOLDER}"),
]


@pytest.fixture
async def small() -> AsyncIterator[LiveEngine]:
    engine = LiveEngine(EngineSpec(model=str(FOLDER), max_sessions=2, context=1_024))
    await engine.start()
    yield engine
    await engine.stop()


async def test_small_answers_what_is_typed_and_speaks(small: LiveEngine) -> None:
    info = small.info
    assert info is not None
    assert info.trained
    assert not info.sees
    assert info.voices == ("default", "man", "woman")
    answers = {}
    for voice in ("woman", "man"):
        session = await small.open(SessionOptions(voice=voice))
        await session.prefill(Unit(np.zeros(0, np.int16), text="What is the capital of France?"))
        answers[voice] = [chunk async for chunk in session.generate(1)]
        await session.close()
    for chunks in answers.values():
        assert "Paris" in "".join(chunk.text for chunk in chunks)
        sound = wave(chunks)
        assert len(sound) > 12_000
        assert np.sqrt(np.mean(sound.astype(np.float64) ** 2)) > 300
    assert not np.array_equal(wave(answers["woman"]), wave(answers["man"]))


async def test_small_reads_what_is_said_and_leaves_its_end_to_others(small: LiveEngine) -> None:
    sound, _ = soundfile.read(SPEECH / "digits-woman.flac", dtype="int16")
    session = await small.open(SessionOptions(speak=False))
    said, last = "", Prefilled(0, 0, 0)
    for begin in range(0, len(sound), UNIT_SAMPLES):
        last = await session.prefill(Unit(sound[begin : begin + UNIT_SAMPLES], ask_end=True))
        said += last.words
        assert last.end_probability is None  # it was not trained to tell
    await session.close()
    assert any(map(str.isdigit, said + last.rest))


def wave(chunks: list[Chunk]) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    return np.concatenate([chunk.pcm for chunk in chunks])
