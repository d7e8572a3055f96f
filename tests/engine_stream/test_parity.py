"""The public golden set, stage by stage, and what the command says about sets that are broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.checkpoint.loader import LoadedModel
from engine.conversation.streaming import StreamingModel
from engine.parity.__main__ import OPTIONAL, STAGES, compare_set, main
from engine.parity.goldens import GoldenSet
from engine.parity.ledger import EXACT, StageRow, Tolerance, table
from tests.engine_stream.conftest import PUBLIC


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in OPTIONAL])
def test_the_public_set_holds(loaded: LoadedModel, stage: str) -> None:
    rows = compare_set(GoldenSet(PUBLIC), StreamingModel(loaded, sessions=2), stage)
    assert rows
    assert [row.problems for row in rows] == [[] for _ in rows]
    assert all(row.holds and row.compared for row in rows)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    shutil.copytree(PUBLIC, folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr("sys.argv", ["parity", str(folder), *options])
    return main()


def test_exit_status_says_whether_all_rows_hold(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(copy, monkeypatch, "--stage", "xfade") == 0
    expected = load_file(copy / "expected.safetensors")
    expected["xfade.out1"][7] += 3e-4
    save_file(expected, copy / "expected.safetensors")
    assert run(copy, monkeypatch, "--stage", "xfade") == 1
    assert "FAILS" in capsys.readouterr().out


def test_a_tensor_that_nobody_compares_fails_its_row(copy: Path, loaded: LoadedModel) -> None:
    expected = load_file(copy / "expected.safetensors")
    save_file(expected | {"dvae.surprise": torch.zeros(1)}, copy / "expected.safetensors")
    (row,) = compare_set(GoldenSet(copy), StreamingModel(loaded), "dvae")
    assert row.problems == ["dvae.surprise was not compared"]


def test_an_integer_off_by_one_fails_its_row(copy: Path, loaded: LoadedModel) -> None:
    expected = load_file(copy / "expected.safetensors")
    expected["tts.early_eos.audio_codes_segment0"][3, 2] += 1
    save_file(expected, copy / "expected.safetensors")
    (row,) = compare_set(GoldenSet(copy), StreamingModel(loaded), "tts.early_eos")
    assert len(row.problems) == 1
    assert "audio_codes_segment0 is different at 3" in row.problems[0]


def test_a_stage_that_the_set_lacks_does_not_hold(copy: Path, loaded: LoadedModel) -> None:
    expected = load_file(copy / "expected.safetensors")
    kept = {key: tensor for key, tensor in expected.items() if not key.startswith("vocos.")}
    save_file(kept, copy / "expected.safetensors")
    (row,) = compare_set(GoldenSet(copy), StreamingModel(loaded), "vocos")
    assert not row.holds


@pytest.mark.parametrize("name", ["expected.safetensors", "manifest.json", "inputs.safetensors", "weights.safetensors"])
def test_a_damaged_or_missing_file_gets_a_sentence(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = copy / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert run(copy, monkeypatch, "--stage", "batch_audio") != 0
    printed = capsys.readouterr()
    assert name in printed.err + printed.out
    path.unlink()
    assert run(copy, monkeypatch) == 2
    assert name in capsys.readouterr().err


def test_no_folder_gets_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "nothing", monkeypatch) == 2
    assert "is not a directory" in capsys.readouterr().err


def test_steps_that_fit_no_order_are_named(copy: Path, loaded: LoadedModel) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["llm_cache_len_after"]["stream.unit3"] += 1
    (copy / "manifest.json").write_text(json.dumps(manifest))
    (row,) = compare_set(GoldenSet(copy), StreamingModel(loaded), "stream")
    assert any("no order of the steps" in problem for problem in row.problems)


def test_deviations_are_weighed_against_the_tolerance() -> None:
    row = StageRow("x")
    row.close("a", torch.tensor([1.0, 10.0]), torch.tensor([1.0, 10.001]), Tolerance("t", 1e-3, 1e-3))
    assert row.holds
    assert row.share == pytest.approx(0.001 / 0.011001, rel=1e-2)
    row.close("b", torch.tensor([1.0]), torch.tensor([1.1]), EXACT)
    assert not row.holds
    row.close("c", torch.tensor([float("nan")]), torch.tensor([1.0]))
    assert len(row.problems) == 2
    assert "FAILS" in table([row])
