"""The public golden sets of the MiniCPM-V models, stage by stage; sets that keep less; sets that are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.chat.offline import Chat
from engine.config_language import Generation
from engine.parity.__main__ import compare_picture_set, main
from engine.parity.goldens import GoldenSet
from tests.family.conftest import GENERATIONS, SETS, copy_set, loaded_model, manifest

CASES = [
    (generation, f"{stage}.{name}")
    for generation in GENERATIONS
    for stage in ("image", "chat", "train")
    for name in manifest(generation)[stage]
]
SINGLE = [
    *((generation, "weights") for generation in GENERATIONS),
    ("v-2.6", "stream"),
    ("v-2.5", "stream"),
    ("v-2.0", "tokenizer"),
    ("v-2.0", "vpm"),
]


@pytest.mark.parametrize(("generation", "stage"), [*CASES, *SINGLE])
def test_the_public_sets_hold(generation: Generation, stage: str) -> None:
    (row,) = compare_picture_set(GoldenSet(SETS[generation]), Chat(loaded_model(generation)), stage)
    assert row.problems == []
    assert row.compared > 1
    assert row.holds


def test_the_command_says_that_a_whole_set_holds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["parity", str(SETS["v-2.0"])])
    assert main() == 0
    printed = capsys.readouterr().out
    assert "FAILS" not in printed
    cases = sum(len(manifest("v-2.0")[stage]) for stage in ("image", "chat", "train"))
    assert printed.count("holds") == cases + len(("weights", "tokenizer", "vpm"))


def without_training(folder: Path) -> None:
    """A set that keeps other cases only."""
    told = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del told["train"]
    (folder / "manifest.json").write_text(json.dumps(told), encoding="utf-8")


def test_a_set_may_keep_every_nth_row_or_only_some_cases(tmp_path: Path) -> None:
    folder = copy_set("v-2.5", tmp_path / "set")
    expected = load_file(folder / "expected.safetensors")
    thinned = {}
    for key, tensor in expected.items():
        if key.startswith("chat.sliced.embeds"):
            thinned["chat.sliced.embeds_every12"] = tensor[::3].contiguous()
        elif key == "image.sliced.resampler":
            thinned["image.sliced.resampler_every5th"] = tensor[:, ::5].contiguous()
        elif not key.startswith(("chat.beam", "image.tall", "train.")):
            thinned[key] = tensor
    save_file(thinned, folder / "expected.safetensors")
    without_training(folder)
    chat = Chat(loaded_model("v-2.5"))
    rows = compare_picture_set(GoldenSet(folder), chat)
    assert [row.problems for row in rows] == [[] for _ in rows]
    wrong = thinned | {"chat.sliced.embeds_every12": thinned["chat.sliced.embeds_every12"] + 3e-3}
    save_file(wrong, folder / "expected.safetensors")
    (row,) = compare_picture_set(GoldenSet(folder), chat, "chat.sliced")
    assert not row.holds


def test_a_set_may_keep_parts_of_parts_and_tell_more_than_is_known(tmp_path: Path) -> None:
    folder = copy_set("v-2.0", tmp_path / "set")
    expected = load_file(folder / "expected.safetensors")
    del expected["train.sample0.labels"]
    for key in [key for key in expected if key.startswith("vpm.")]:
        expected[key] = expected[key][::3].contiguous()
    for key in [key for key in expected if key.startswith("train.full.grad.")]:
        expected[f"{key}_every2nd"] = expected.pop(key)[::2].contiguous()
    save_file(expected, folder / "expected.safetensors")
    told = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    told["chat"]["text_only"]["mood"] = "good"
    (folder / "manifest.json").write_text(json.dumps(told), encoding="utf-8")
    goldens, chat = GoldenSet(folder), Chat(loaded_model("v-2.0"))
    rows = [compare_picture_set(goldens, chat, stage)[0] for stage in ("vpm", "train.sample0", "train.full")]
    assert [(row.problems, row.remarks) for row in rows] == [([], [])] * 3
    (row,) = compare_picture_set(goldens, chat, "chat.text_only")
    assert row.holds
    assert row.remarks == ["manifest.json tells mood, which nothing here knows"]


def test_what_is_wrong_or_unknown_fails(tmp_path: Path) -> None:
    folder = copy_set("v-2.6", tmp_path / "set")
    expected = {
        key: tensor
        for key, tensor in load_file(folder / "expected.safetensors").items()
        if not key.startswith("train.")
    }
    expected["chat.single.input_ids"][0, 5] += 1
    expected["audio.surprise"] = torch.zeros(1)
    save_file(expected, folder / "expected.safetensors")
    told = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    told["chat"]["text_only"]["text"] += "!"
    told["image"]["single"]["pixel_values_sha256"][0] = "0" * 64
    told["stream"]["pieces"][-1] = "else"
    (folder / "manifest.json").write_text(json.dumps(told), encoding="utf-8")
    without_training(folder)
    rows = compare_picture_set(GoldenSet(folder), Chat(loaded_model("v-2.6")))
    failing = {row.stage for row in rows if not row.holds}
    assert failing == {"chat.single", "chat.text_only", "image.single", "stream", "others"}
