"""A short run of each fuzz; ``python -m tests.webrtc.fuzz`` is the long one."""

from __future__ import annotations

import pytest

from tests.webrtc.fuzz import fuzz_datagrams, fuzz_messages

pytestmark = pytest.mark.slow


async def test_hostile_datagrams_disturb_nobody() -> None:
    outcome = await fuzz_datagrams(256 * 3)
    assert outcome.perfect, outcome
    assert outcome.attacked_lost == 0


async def test_hostile_messages_disturb_nobody_else() -> None:
    outcome = await fuzz_messages(400)
    assert outcome.perfect, outcome
