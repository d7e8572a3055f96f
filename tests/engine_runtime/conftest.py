"""Every engine that the conformance tests run against."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
import pytest
from PIL import Image

from engine.client import INPUT_RATE, Engine, EngineSession, SessionOptions, Unit
from engine.factory import EngineSpec, create_engine

Opener = Callable[..., Awaitable[EngineSession]]

SPECS = {
    "scripted": EngineSpec(kind="scripted", in_process=True),
    "scripted-worker": EngineSpec(kind="scripted", in_process=False),
}


@pytest.fixture(params=list(SPECS))
def spec(request: pytest.FixtureRequest) -> EngineSpec:
    return SPECS[request.param]


@pytest.fixture
async def engine(spec: EngineSpec) -> AsyncIterator[Engine]:
    engine = create_engine(spec)
    await engine.start()
    yield engine
    async with asyncio.timeout(5):
        await engine.stop()


@pytest.fixture
async def session(engine: Engine) -> AsyncIterator[EngineSession]:
    session = await engine.open(SessionOptions())
    yield session
    await session.close()


def tone(seconds: float = 1.0, hz: float = 300.0) -> np.ndarray:
    """A tone that counts as voiced, int16 at 16 kHz."""
    time = np.arange(int(INPUT_RATE * seconds)) / INPUT_RATE
    return (8_000 * np.sin(2 * np.pi * hz * time)).astype(np.int16)


def picture(form: str = "JPEG", size: tuple[int, int] = (64, 48), color: str = "red") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, color).save(data, form)
    return data.getvalue()


def unit(seconds: float = 1.0, hz: float = 300.0) -> Unit:
    return Unit(audio=tone(seconds, hz))
