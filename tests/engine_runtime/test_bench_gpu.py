"""``make bench-gpu`` where there is no GPU: everything runs small on a CPU, and in full size without numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.bench.full import OFFICIAL, random_model
from engine.bench.gpu import GpuBench, Line, Report, main, measure
from engine.bench.plan import passes, plan
from engine.checkpoint.loader import build_untrained
from engine.config import OmniConfig
from engine.errors import LoadError
from engine.model.int4 import Int4Linear
from engine.serving.live_engine import MINI


@pytest.mark.slow
def test_every_section_gives_figures_in_small(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    assert main(["--smoke", "--device", "cpu", "--out", str(tmp_path), "--seconds", "1000"]) == 0
    rows = json.loads((tmp_path / "bench-gpu.json").read_text())["rows"]
    sections = {row["section"] for row in rows}
    assert sections == {
        "ceilings", "memory", "turn", "text", "decode", "speech", "calls", "prefill", "feed", "senses", "wave",
    }  # fmt: skip
    assert all(row["ours"] > 0 for row in rows if row["section"] != "calls")
    assert all(
        row["reference"] > 0 for row in rows if row["section"] in ("turn", "text", "speech") and row["sessions"] == 1
    )
    assert any(row["what"] == "language works" and row["ours"] > 0 for row in rows)


def test_weights_of_four_bits_are_measured_too(tmp_path: Path) -> None:
    """In mini's size: what they change, without the reference pattern."""
    loaded = random_model(torch.device("cpu"), OmniConfig.from_dir(MINI), "int4")
    assert any(isinstance(module, Int4Linear) for module in loaded.model.modules())
    bench, report = GpuBench(loaded, smoke=True, quantize="int4"), Report(tmp_path, {"line": "here"})
    sections = dict(bench.sections())
    assert set(sections) == {"memory", "decode", "calls", "feed"}
    measure(iter([(name, sections[name]) for name in ("memory", "decode", "feed")]), report, 100.0)
    assert not report.failed
    assert {line.section for line in report.lines} == {"memory", "decode", "feed"}
    assert all(line.ours > 0 and line.reference is None for line in report.lines)


def broken() -> Iterator[Line]:
    yield Line("wrong", "before", 1, "ms", 1.0)
    raise RuntimeError("no kernel")


def test_what_fails_stops_nothing_else_and_is_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ceilings = GpuBench(build_untrained(MINI, device="cpu"), smoke=True).ceilings
    report = Report(tmp_path, {"line": "here"})
    measure(iter([("ceilings", ceilings), ("wrong", broken), ("again", ceilings)]), report, 100.0)
    assert report.failed == ["wrong"]
    assert "no kernel" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "bench-gpu.json").read_text())["rows"]) == len(report.lines) == 5


def test_it_ends_when_its_time_is_up(tmp_path: Path) -> None:
    report = Report(tmp_path, {"line": "here"})
    measure(GpuBench(build_untrained(MINI, device="cpu"), smoke=True).sections(), report, 0.0)
    assert len(report.lines) == 1


def test_sizes_and_shapes_of_the_official_model() -> None:
    config = OmniConfig.from_dicts(OFFICIAL)
    sizes = plan(config, torch.bfloat16)
    assert sizes.session_bytes["language"] == pytest.approx(57_344 * 8_192, rel=0.001)
    assert 17.0e9 < sum(sizes.weights.values()) < 17.6e9
    assert str(sizes.room(139 << 30)) == "96 calls of 8,192 tokens, and 4 chats beside"
    assert sizes.room(80 << 30).calls >= 48
    with pytest.raises(LoadError, match="use quantize=int4 or int8, or a larger device"):
        sizes.room(17 << 30)
    assert dict(passes(config, torch.bfloat16)) == {
        "10 slices of a picture": (10, 64, 3584), "a second of sound, two sessions": (2, 50, 3584),
        "a unit, two sessions": (2, 95, 3584), "logits": (2, 151_700), "a wave, two sessions": (2, 77 * 512),
    }  # fmt: skip


def test_a_plan_needs_no_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--plan"]) == 0
    assert "token of text" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--device", "cpu"], []])
def test_it_says_what_it_needs(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a card here")
    with pytest.raises(SystemExit):
        main(arguments)
    assert "--smoke" in capsys.readouterr().err
