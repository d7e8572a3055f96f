"""The public golden set's model, and a chat with it."""

from __future__ import annotations

import pytest

from engine.chat.offline import Chat
from engine.checkpoint.loader import LoadedModel
from tests.engine_inputs.conftest import golden, loaded

__all__ = ["golden", "loaded", "talker"]


@pytest.fixture(scope="session")
def talker(loaded: LoadedModel) -> Chat:
    return Chat(loaded)
