"""The shipped model is killed in the middle of an answer, and remembers what it was told."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from engine.client import Chunk, SessionOptions, Unit
from engine.serving.pending import SAME_WITHIN
from engine.serving.process import ProcessEngine
from engine.serving.process_session import ProcessSession
from engine.spec import EngineSpec
from tests.engine_runtime.conftest import picture

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[ProcessEngine]:
    engine = ProcessEngine(EngineSpec(threads=1))
    await engine.start()
    yield engine
    await engine.stop()


async def rest(stream: AsyncIterator[Chunk]) -> list[Chunk]:
    async with asyncio.timeout(60):
        return [chunk async for chunk in stream]


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def sound(chunks: list[Chunk]) -> NDArray[np.int32]:
    return np.concatenate([chunk.pcm for chunk in chunks]).astype(np.int32)


async def ask(session: ProcessSession, epoch: int, question: str) -> list[Chunk]:
    """A question with a picture, and its answer, which is heard."""
    await session.prefill(Unit(text=question, frame=picture()))
    chunks = await rest(session.generate(epoch))
    await session.heard(epoch, sum(len(chunk.pcm) for chunk in chunks))
    return chunks


async def test_the_model_goes_on_with_its_answer_and_remembers(engine: ProcessEngine) -> None:
    """Each answer is the one, to the sample, of a session whose worker lived."""
    talk = ("my name is anna", "count from one to seven", "what is my name")
    unharmed = await engine.open(SessionOptions(seed=1))
    expected = [await ask(unharmed, epoch, question) for epoch, question in enumerate(talk, 1)]

    session = await engine.open(SessionOptions(seed=1))
    given = [await ask(session, 1, talk[0])]
    await session.prefill(Unit(text=talk[1], frame=picture()))
    stream = session.generate(2)
    chunks = [await anext(stream) for _ in range(2)]
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    begun = time.monotonic()
    async with asyncio.timeout(120):
        chunks.append(await anext(stream))
    print(f"\nthe answer goes on {time.monotonic() - begun:.2f} s after the kill")
    chunks += await rest(stream)
    await session.heard(2, sum(len(chunk.pcm) for chunk in chunks))
    given += [chunks, await ask(session, 3, talk[2])]

    for ours, theirs in zip(given, expected, strict=True):
        assert text(ours) == text(theirs)
        assert [chunk.starts for chunk in ours] == [chunk.starts for chunk in theirs]
        assert np.allclose(sound(ours), sound(theirs), atol=SAME_WITHIN)
    assert text(given[2]) == "Your name is Anna."
