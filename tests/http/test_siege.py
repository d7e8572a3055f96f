"""A short siege; ``python -m tests.http.siege`` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.http.siege import siege
from tests.webrtc import caller


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its figures from Linux's /proc")
async def test_a_siege_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller, "PATIENCE_S", caller.PATIENCE_S)  # which the siege raises
    assert await siege(offers=150, cycle_count=26, seed=7, warm_up=8) == []
