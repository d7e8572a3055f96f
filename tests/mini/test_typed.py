"""What is typed to the shipped mini, in whatever case, is what it would have heard."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest

from engine.client import SessionOptions, Unit
from engine.serving.live_engine import LiveEngine
from engine.spec import EngineSpec

pytestmark = pytest.mark.slow


@pytest.fixture
async def mini() -> AsyncIterator[LiveEngine]:
    engine = LiveEngine(EngineSpec(max_sessions=1, context=1_024))
    await engine.start()
    yield engine
    await engine.stop()


async def test_capitals_make_no_other_words(mini: LiveEngine) -> None:
    for text, said in (
        ("My name is Anna.", "Your name is Anna."),
        ("MY NAME IS PETER", "Your name is Peter."),
        ("my name is maria", "Your name is Maria."),
        ("What is Two plus THREE?", "Two plus three is five."),
        ("hello", "Hello! How can I help you?"),
    ):
        session = await mini.open(SessionOptions(speak=False))
        await session.prefill(Unit(np.zeros(0, np.int16), text=text))
        assert "".join([chunk.text async for chunk in session.generate(1)]) == said
        await session.close()
