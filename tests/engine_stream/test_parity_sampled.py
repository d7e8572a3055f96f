"""Sets that keep a part: every n-th row, some units only; and sound until the encoder's cache is full."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoint.loader import LoadedModel
from engine.conversation.streaming import StreamingModel
from engine.conversation.work import Hear
from engine.parity.__main__ import compare_set
from engine.parity.goldens import GoldenSet
from engine.parity.probe import Probe
from engine.parity.sampled import sampled
from engine.processing.prompts import Message, get_sys_prompt
from tests.engine_stream.conftest import PUBLIC

PIECES = 31
"""Seconds of 50 frames each: the 30th would be frame 1,500, the end of the table, and begins anew."""
KEPT = (0, 28, 29, 30)


class Copy:
    """The public set, to be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(PUBLIC, folder)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        self.tensors: dict[str, Tensor] = load_file(folder / "expected.safetensors")
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())

    def sample(self, key: str, step: int, ending: str = "") -> None:
        self.tensors[key + ending] = self.tensors.pop(key)[::step].clone()

    def write(self) -> GoldenSet:
        save_file(
            {key: tensor.contiguous() for key, tensor in self.tensors.items()}, self.folder / "expected.safetensors"
        )
        (self.folder / "manifest.json").write_text(json.dumps(self.manifest))
        return GoldenSet(self.folder)


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "set")


def problems(copy: Copy, loaded: LoadedModel, stage: str | None) -> dict[str, list[str]]:
    rows = compare_set(copy.write(), StreamingModel(loaded, sessions=2), stage)
    return {row.stage: row.problems for row in rows if not row.holds}


def test_every_nth_row_is_compared(copy: Copy, loaded: LoadedModel) -> None:
    copy.sample("stream.unit0.merged_embeds", 4, "_every4th")
    copy.sample("stream.unit1.merged_embeds", 7)
    copy.sample("stream.unit1.apm_last_hidden", 5, "_every5th")
    copy.sample("stream.unit2.audio_projection", 3)
    copy.sample("stream.gen1.tts_prefill0_hidden", 5, "_every5th")
    copy.tensors["stream.sys.mel"] = copy.tensors["stream.sys.mel"][:, :, :100].clone()
    copy.tensors["stream.unit3.logits_last"] = copy.tensors["stream.unit3.logits_last"][::8].clone()
    assert problems(copy, loaded, "stream") == {}


def test_some_units_only_are_compared(copy: Copy, loaded: LoadedModel) -> None:
    for key in [key for key in copy.tensors if key.startswith(("stream.unit2.", "stream.turn2_unit0."))]:
        del copy.tensors[key]
    for key in ("mel", "apm_last_hidden", "audio_projection", "merged_embeds"):
        del copy.tensors[f"stream.unit1.{key}"]
    assert problems(copy, loaded, "stream") == {}


@pytest.mark.parametrize("key", ["stream.unit1.merged_embeds", "stream.unit3.apm_last_hidden"])
def test_a_wrong_row_among_those_that_are_kept_is_told(copy: Copy, loaded: LoadedModel, key: str) -> None:
    copy.sample(key, 4)
    copy.tensors[key][2, 3] += 2e-3
    assert any(key in problem for problem in problems(copy, loaded, "stream")["stream"])


def test_a_part_of_every_stage(copy: Copy, loaded: LoadedModel) -> None:
    copy.sample("image.single.slice0.vpm", 3)
    copy.sample("dvae.vq_feats", 1, "_every1st")
    copy.tensors["dvae.mel"] = copy.tensors["dvae.mel"][:, :, ::2].clone()
    copy.tensors["image.sliced.resampler"] = copy.tensors["image.sliced.resampler"][:, ::9].clone()
    copy.tensors["chat.audio_codes"] = copy.tensors["chat.audio_codes"][::6].clone()
    for key in ("image.sliced.slice1.vpm", "tts.border.wav_tail", "chat.wav_head", "batch_audio.mel_lens"):
        del copy.tensors[key]
    assert problems(copy, loaded, None) == {}


def test_a_tensor_of_no_stage_makes_the_run_fail(copy: Copy, loaded: LoadedModel) -> None:
    copy.tensors["surprise.unit0"] = torch.zeros(3)
    told = problems(copy, loaded, None)
    assert told == {"others": ["surprise.unit0 was not compared: no stage knows it"]}


def heard(loaded: LoadedModel, names: list[str], copy: Copy) -> list[dict[str, Any]]:
    """What becomes of inputs that one session hears, second by second, behind a system prompt."""
    stream = StreamingModel(loaded)
    probe, state = Probe(stream), stream.open()
    sounds = GoldenSet(copy.folder).sounds
    probe.run(stream.feed(state, stream.prepare(state, get_sys_prompt(None, "omni", "en"))))
    pieces = []
    for name in names:
        run = probe.run(stream.feed(state, stream.prepare(state, Message("user", [sounds[name]]))))
        (record,) = run.of(Hear)
        pieces.append(
            {
                "mel": record.work.mel[None],
                "apm_last_hidden": record.outputs["ears"][0][0],
                "audio_projection": record.outputs["audio_projection"][0][0],
                "merged_embeds": run.outputs[0].embeds,
                "cached": record.count,
            }
        )
    return pieces


@pytest.fixture(scope="module")
def pieces(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    copy = Copy(tmp_path_factory.mktemp("heard") / "set")
    return heard(loaded, [f"unit{index % 3}_audio" for index in range(PIECES)], copy)


def add_reset(copy: Copy, pieces: list[dict[str, Any]], pattern: str) -> None:
    for piece in KEPT:
        for what, step in (("mel", 1), ("apm_last_hidden", 5), ("audio_projection", 10), ("merged_embeds", 9)):
            tensor = pieces[piece][what]
            copy.tensors["apm_reset." + pattern.format(piece=piece, what=what, step=step)] = tensor[::step].clone()


@pytest.mark.parametrize("pattern", ["unit{piece}.{what}", "{what}_unit{piece}_every{step}th", "chunk{piece}_{what}"])
@pytest.mark.parametrize("told", ["list", "steps", "not"])
def test_the_cache_of_the_encoder_begins_anew_when_it_is_full(
    copy: Copy, loaded: LoadedModel, pieces: list[dict[str, Any]], pattern: str, told: str
) -> None:
    lengths = [piece["cached"] for piece in pieces]
    assert lengths[28:] == [1450, 50, 100]
    add_reset(copy, pieces, pattern)
    if told == "list":
        copy.manifest["apm_reset"] = {"cache_len_after": lengths}
    if told == "steps":
        copy.manifest["apm_cache_len_after"] |= {f"apm_reset.unit{at}": length for at, length in enumerate(lengths)}
    assert problems(copy, loaded, "apm_reset") == {}


def test_a_wrong_reset_is_told(copy: Copy, loaded: LoadedModel, pieces: list[dict[str, Any]]) -> None:
    add_reset(copy, pieces, "unit{piece}.{what}")
    copy.tensors["apm_reset.unit30.apm_last_hidden"] += 1e-2
    lengths = [piece["cached"] for piece in pieces]
    copy.manifest["apm_reset"] = {"cache_len_after": [*lengths[:29], 1500, 1550]}
    (told,) = problems(copy, loaded, "apm_reset").values()
    assert any("unit30.apm_last_hidden deviates" in problem for problem in told)
    assert any("frames in the cache after piece 29" in problem for problem in told)


def test_a_tensor_of_the_reset_that_nobody_understands_is_told(
    copy: Copy, loaded: LoadedModel, pieces: list[dict[str, Any]]
) -> None:
    add_reset(copy, pieces, "unit{piece}.{what}")
    copy.tensors["apm_reset.riddle"] = torch.zeros(2)
    assert problems(copy, loaded, None)["apm_reset"] == ["apm_reset.riddle was not compared"]


def test_parts_are_found_by_shape_and_values() -> None:
    own = torch.arange(200.0).view(20, 10)
    for part in (own, own[::4], own[:7], own[-3:], own[[1, 5, 6, 17]], own[:, ::3], own[::6, :4]):
        assert torch.equal(sampled(own, part), part)
        assert torch.equal(sampled(own[None], part), part)
    assert not torch.equal(sampled(own, own[[6, 5]]), own[[6, 5]])
    assert sampled(own, torch.zeros(30, 10)).shape == own.shape
