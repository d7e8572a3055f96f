"""The checkpoint that is shipped answers calls in each of its skills: spoken, typed, with a picture, and noise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CALLS = sorted((Path(__file__).parent.parent / "data" / "mini").iterdir())


@pytest.fixture(scope="module")
def replayed() -> dict[str, dict[str, object]]:
    command = [sys.executable, "-m", "app.replay", "--json", "--device", "cpu", *map(str, CALLS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return {Path(bundle["bundle"]).name: bundle for bundle in json.loads(done.stdout)["bundles"]}


@pytest.mark.parametrize("call", [path.name for path in CALLS])
def test_mini_answers_rightly(call: str, replayed: dict[str, dict[str, object]]) -> None:
    bundle = replayed[call]
    failed = [check for check in bundle["expectations"] if not check["passed"]]  # type: ignore[attr-defined]
    assert not failed, [turn["text"] for turn in bundle["turns"]]  # type: ignore[attr-defined]
    assert bundle["expectations"]


def test_there_is_a_call_for_every_skill() -> None:
    skills = {path.name.split("_")[1] for path in CALLS}
    assert {"dictation", "arithmetic", "counting", "smalltalk", "memory", "seeing", "noise"} <= skills
