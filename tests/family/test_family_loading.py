"""Weight files of every layout; refusal of damaged ones; what the eyes of each model see."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import LoadedVisionLanguage, has_weights, load_checkpoint, load_model
from engine.config_language import Generation
from engine.errors import CheckpointError, ConfigError, LoadError, TokenizerError
from engine.model.timm_vision import TimmVisionTower
from tests.family.conftest import SETS, copy_set, expected, loaded_model


def load(folder: Path) -> LoadedVisionLanguage:
    return load_model(folder, LoadOptions(device="cpu", dtype="float32", progress=False))


def weights_of(generation: Generation) -> dict[str, Tensor]:
    out: dict[str, Tensor] = load_file(SETS[generation] / "weights.safetensors")
    return out


def as_shards(folder: Path, weights: dict[str, Tensor]) -> None:
    keys, names = sorted(weights), ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for index, name in enumerate(names):
        save_file({key: weights[key] for key in keys[index::2]}, folder / name)
    weight_map = {key: names[place % 2] for place, key in enumerate(keys)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def as_pickled_shards(folder: Path, weights: dict[str, Tensor]) -> None:
    keys, names = sorted(weights), ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    for index, name in enumerate(names):
        torch.save({key: weights[key] for key in keys[index::2]}, folder / name)
    weight_map = {key: names[place % 2] for place, key in enumerate(keys)}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def as_one_pickle(folder: Path, weights: dict[str, Tensor]) -> None:
    torch.save(weights, folder / "pytorch_model.bin")


def as_old_pickle(folder: Path, weights: dict[str, Tensor]) -> None:
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("layout", [as_shards, as_pickled_shards, as_one_pickle, as_old_pickle])
def test_every_layout_of_weights_loads_alike(
    generation: Generation, layout: Callable[[Path, dict[str, Tensor]], None], tmp_path: Path
) -> None:
    folder, weights = copy_set(generation, tmp_path / "model"), weights_of(generation)
    (folder / "weights.safetensors").unlink()
    assert not has_weights(folder)
    layout(folder, weights)
    assert has_weights(folder)
    state = load(folder).model.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[key], tensor.float()) for key, tensor in weights.items())


class Poison:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (Path("poisoned"),)  # type: ignore[return-value]


def test_no_pickle_runs_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = copy_set("v-2.0", tmp_path / "model")
    (folder / "weights.safetensors").unlink()
    torch.save({"llm.lm_head.weight": Poison()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds more than plain tensors"):
        load(folder)
    assert not (tmp_path / "poisoned").exists()


def test_damage_is_named(generation: Generation, tmp_path: Path) -> None:
    folder, weights = copy_set(generation, tmp_path / "model"), weights_of(generation)
    path = folder / "weights.safetensors"
    key = "resampler.kv_proj.weight"
    changes: list[tuple[dict[str, Tensor], str]] = [
        ({name: tensor for name, tensor in weights.items() if name != key}, f"{key}: is missing"),
        (weights | {"vpm.head.probe": torch.zeros(1)}, "vpm.head.probe: is unexpected"),
        (weights | {key: torch.zeros(3, 3)}, f"{key}: has the size [3, 3]"),
        (weights | {key: torch.full_like(weights[key], float("nan"))}, f"{key}: holds numbers that are infinite"),
    ]
    for changed, sentence in changes:
        save_file(changed, path)
        with pytest.raises(CheckpointError) as caught:
            load(folder)
        assert sentence in str(caught.value)
    as_one_pickle(folder, weights)
    path.unlink()
    pickled = folder / "pytorch_model.bin"
    pickled.write_bytes(pickled.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: is truncated or no torch file"):
        load(folder)


def test_a_call_asks_for_a_model_that_hears_and_speaks(generation: Generation) -> None:
    with pytest.raises(ConfigError, match=r"neither hears nor speaks; .*engine\.chat"):
        load_checkpoint(SETS[generation], LoadOptions(device="cpu", progress=False))


@pytest.mark.parametrize("generation", ["v-2.6", "v-2.0"])
def test_a_tokenizer_without_a_mark_is_refused(generation: Generation, tmp_path: Path) -> None:
    folder = copy_set(generation, tmp_path / "model")
    name = "tokenizer.model" if generation == "v-2.0" else "tokenizer.json"
    path = folder / "llm_tokenizer" / name
    path.write_bytes(path.read_bytes().replace(b"</slice>", b"<\\slice>" if name.endswith("model") else b"</slits>"))
    settings = folder / "llm_tokenizer" / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace("</slice>", "</slits>"))
    with pytest.raises(TokenizerError, match="</slice>: is not in the vocabulary"):
        load(folder)
    path.write_bytes(b"nothing")
    with pytest.raises(LoadError, match=name):
        load(folder)


def test_the_vision_layer_that_is_dropped_is_told_by_the_files(generation: Generation, tmp_path: Path) -> None:
    folder = copy_set(generation, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["drop_vision_last_layer"]
    (folder / "config.json").write_text(json.dumps(config))
    assert load(folder).config.vision.num_layers == loaded_model(generation).config.vision.num_layers


def test_positions_of_v20_are_stretched_as_published() -> None:
    tower = loaded_model("v-2.0").model.vpm
    assert isinstance(tower, TimmVisionTower)
    compared = 0
    for key, kept in expected("v-2.0").items():
        if key.startswith("vpm.pos_embed_"):
            rows, columns = map(int, key.rpartition("_")[2].split("x"))
            torch.testing.assert_close(tower.positions((rows, columns))[::16], kept, rtol=0, atol=1e-6)
            compared += 1
    assert compared == 2
    side = tower.side
    assert torch.equal(tower.positions((side, side)), tower.pos_embed[0])


@torch.inference_mode()
def test_a_shorter_slice_of_v25_sees_its_padding_and_no_other_models_does(generation: Generation) -> None:
    """V 2.5 was trained with slices that attend to the padding behind them; its features change with the neighbours."""
    model = loaded_model(generation).model
    patches = torch.randn(2, 12, 3 * 14 * 14, generator=torch.Generator().manual_seed(0))
    patches[0, 6:] = 0
    alone, beside = model.see(patches[:1, :6], [(2, 3)])[0], model.see(patches, [(2, 3), (3, 4)])[0]
    same = torch.allclose(alone, beside, atol=1e-5)
    assert same != model.config.vision.mixes_slices
    assert model.config.vision.mixes_slices == (generation == "v-2.5")
