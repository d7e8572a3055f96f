"""Every engine that the conformance tests run against, started once for all of them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray
from PIL import Image

from engine.client import INPUT_RATE, Engine, EngineSession, SessionOptions, Unit
from engine.serving.factory import create_engine
from engine.spec import EngineSpec
from tests.reading_model import write_reading_model

Opener = Callable[..., Awaitable[EngineSession]]

SPECS = {
    "scripted": EngineSpec(kind="scripted", in_process=True),
    "scripted-worker": EngineSpec(kind="scripted", in_process=False),
    "model": EngineSpec(threads=1, untrained=True, in_process=True),
    "model-worker": EngineSpec(threads=1, untrained=True),
    "reader": EngineSpec(threads=1, in_process=True),
}

SHORT = 2
"""Tokens of an answer that a test hears to its end: an untrained model speaks long."""


@pytest.fixture(scope="module", params=list(SPECS))
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EngineSpec:
    spec = SPECS[request.param]
    if request.param != "reader":
        return spec
    return replace(spec, model=str(write_reading_model(tmp_path_factory.mktemp("reader") / "model")))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(spec: EngineSpec) -> AsyncIterator[Engine]:
    engine = create_engine(spec)
    await engine.start()
    yield engine
    async with asyncio.timeout(60):
        await engine.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def opened(engine: Engine) -> AsyncIterator[Opener]:
    """Opens sessions with the given options and closes them after the test."""
    sessions: list[EngineSession] = []

    async def opener(max_new_tokens: int = SHORT, seed: int = 0, speak: bool = True) -> EngineSession:
        options = SessionOptions(max_new_tokens=max_new_tokens, seed=seed, speak=speak)
        sessions.append(await engine.open(options))
        return sessions[-1]

    yield opener
    for session in sessions:
        await session.close()


@pytest_asyncio.fixture(loop_scope="module")
async def session(opened: Opener) -> EngineSession:
    return await opened()


def tone(seconds: float = 1.0, hz: float = 300.0) -> NDArray[np.int16]:
    """A tone that counts as voiced, int16 at 16 kHz."""
    time = np.arange(int(INPUT_RATE * seconds)) / INPUT_RATE
    return (8_000 * np.sin(2 * np.pi * hz * time)).astype(np.int16)


def picture(form: str = "JPEG", size: tuple[int, int] = (64, 48), color: str = "red") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, color).save(data, form)
    return data.getvalue()


def unit(seconds: float = 1.0, hz: float = 300.0) -> Unit:
    return Unit(audio=tone(seconds, hz))
