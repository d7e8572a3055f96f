"""Several processes learn what one would from the same conversations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from engine.tune.cli import main
from tests.family.conftest import SETS

SET = SETS["v-2.0"]
HOW = ("--steps", "2", "--dropout", "0", "--rank", "4", "--learning-rate", "1e-2", "--device", "cpu")


@pytest.mark.slow
def test_two_processes_are_one_that_accumulates(tmp_path: Path) -> None:
    asked, said = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "It is red."}
    seen = {"image": str(SET / "images" / "single.png"), "conversations": [asked, said]}
    data = tmp_path / "data.json"  # one process has a picture in a step, and the other none
    data.write_text(json.dumps([seen, {"conversations": [asked, said]}]), encoding="utf-8")
    given = [str(SET), "--data", str(data), *HOW]
    assert main([*given, "--accumulate", "2", "--out", str(tmp_path / "one")]) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [*command, "-m", "engine.tune", *given, "--out", str(tmp_path / "two")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3_000:]
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key, weight in one.items():
        assert two[key].sub(weight).abs().max() < 1e-3, key
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "curve.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
