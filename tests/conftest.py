"""Marks for whole files: what takes long, so that `make test-fast` can leave it out, and why. And Hypothesis without
deadlines: the machine that runs the tests may be busy. And Triton in its interpreter, where there is no card."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

pytest.register_assert_rewrite("tests.replay.recorded")  # before anybody imports it

if not Path("/proc/driver/nvidia").exists():  # Triton reads it as it is imported, whoever does so first
    os.environ.setdefault("TRITON_INTERPRET", "1")

TESTS = Path(__file__).parent

MARKS = {
    "train": (
        "mini/test_training.py",
        "mini/test_voice_choice.py",
    ),
    "slow": (
        "engine_chat/test_chat_cli.py",
        "engine_runtime/test_bench.py",
        "engine_runtime/test_conformance.py",
        "engine_runtime/test_faults.py",
        "engine_runtime/test_live.py",
        "engine_runtime/test_process.py",
        "engine_stream/test_batch.py",
        "engine_stream/test_live.py",
        "engine_stream/test_parity_scenarios.py",
        "engine_stream/test_window.py",
        "http/test_calls.py",
        "http/test_process.py",
        "http/test_siege.py",
        "mini/test_senses.py",
        "mini/test_shipped.py",
        "mini/test_voices.py",
        "replay/test_live.py",
        "webrtc/test_fuzz.py",
        "webrtc/test_peer.py",
    ),
}
"""``train``: trains a stage for some steps. ``slow``: runs a model, a process or a connection for many seconds."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name = item.path.relative_to(TESTS).as_posix()
        for mark, files in MARKS.items():
            if name in files:
                item.add_marker(mark)
