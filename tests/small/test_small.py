"""A call with small itself, where this machine has assembled it (``make run MODEL=small`` does)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageDraw

from engine.client import UNIT_SAMPLES, Chunk, Prefilled, SessionOptions, Unit
from engine.serving.live_engine import LiveEngine
from engine.small.assemble import MANIFEST, RECIPE
from engine.spec import EngineSpec, small_cache

FOLDER, EARS = small_cache() / "small", small_cache() / "small-ears"
SPEECH = Path(__file__).parents[1] / "data" / "speech"


def skip_without(folder: Path) -> pytest.MarkDecorator:
    """For what needs a folder as this code assembles it."""
    made = folder / MANIFEST
    there = made.is_file() and json.loads(made.read_text(encoding="utf-8"))["recipe"]["recipe"] == RECIPE
    return pytest.mark.skipif(not there, reason=f"there is no {folder}, or it was assembled by other code")


pytestmark = pytest.mark.slow


@pytest.fixture
async def small() -> AsyncIterator[LiveEngine]:
    engine = LiveEngine(EngineSpec(model=str(FOLDER), max_sessions=2, context=1_024))
    await engine.start()
    yield engine
    await engine.stop()


@skip_without(FOLDER)
async def test_small_answers_what_is_typed_and_speaks(small: LiveEngine) -> None:
    info = small.info
    assert info is not None
    assert info.trained
    assert info.sees
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


@skip_without(FOLDER)
async def test_small_sees_what_is_drawn_on_a_sheet(small: LiveEngine) -> None:
    session = await small.open(SessionOptions(speak=False))
    fed = await session.prefill(Unit(frame=picture(), text="What do you see?"))
    assert fed.picture_tokens
    said = "".join([chunk.text async for chunk in session.generate(1)])
    await session.close()
    assert "red circle" in said.lower()


def picture() -> bytes:
    drawn = Image.new("RGB", (320, 240), (244, 244, 240))
    ImageDraw.Draw(drawn).ellipse((100, 60, 220, 180), (220, 30, 30))
    file = BytesIO()
    drawn.save(file, "JPEG")
    return file.getvalue()


@skip_without(FOLDER)
async def test_small_reads_what_is_said_and_tells_whether_that_is_all(small: LiveEngine) -> None:
    sound, _ = soundfile.read(SPEECH / "digits-woman.flac", dtype="int16")
    session = await small.open(SessionOptions(speak=False))
    said, last = "", Prefilled(0, 0, 0)
    for begin in range(0, len(sound), UNIT_SAMPLES):
        last = await session.prefill(Unit(sound[begin : begin + UNIT_SAMPLES], ask_end=True))
        said += last.words
    await session.close()
    assert last.end_probability is not None
    assert any(map(str.isdigit, said + last.rest))


def wave(chunks: list[Chunk]) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    return np.concatenate([chunk.pcm for chunk in chunks])


@skip_without(EARS)
async def test_smalls_ears_read_beside_mini() -> None:
    sound, _ = soundfile.read(SPEECH / "digits-woman.flac", dtype="int16")
    engine = LiveEngine(EngineSpec(max_sessions=1, context=1_024, transcriber=str(EARS)))
    await engine.start()
    session = await engine.open(SessionOptions(speak=False))
    said, last = "", Prefilled(0, 0, 0)
    for begin in range(0, len(sound), UNIT_SAMPLES):
        last = await session.prefill(Unit(sound[begin : begin + UNIT_SAMPLES]))
        said += last.words
    await engine.stop()
    assert any(map(str.isdigit, said + last.rest))
