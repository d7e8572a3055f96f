"""Directories that load: layouts, devices, dtypes, quantisation."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoint import devices
from engine.checkpoint.devices import (
    DeviceMap,
    DistantCache,
    connect,
    free_memory,
    plan_devices,
    resolve_devices,
    resolve_dtype,
)
from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import LoadedModel, build_untrained, has_weights, load_checkpoint
from engine.checkpoint.quantize import Quantizer, choose
from engine.conversation.rows import ROWS, exact_rows
from engine.errors import LoadError
from engine.model import int8
from engine.model.decoder import Decoder
from engine.model.int8 import Int8Linear
from tests.engine_inputs.conftest import PUBLIC

CPU, META = torch.device("cpu"), torch.device("meta")
GB = 10**9


def official_layout(folder: Path, weights: dict[str, Tensor], shards: int = 3) -> Path:
    """The golden model as the official checkpoint is laid out, in shards."""
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(PUBLIC / name, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(PUBLIC / "llm_tokenizer" / name, folder)
    shutil.copytree(PUBLIC / "tts_tokenizer", folder / "assets" / "chattts_tokenizer")
    vocos = load_file(PUBLIC / "vocos.safetensors")
    vocos |= {"feature_extractor.mel_spec.mel_scale.fb": torch.zeros(4), "head.istft.window": torch.hann_window(1024)}
    torch.save(vocos, folder / "assets" / "Vocos.pt")
    keys = sorted(weights)
    names = [f"model-{index + 1:05}-of-{shards:05}.safetensors" for index in range(shards)]
    for index, name in enumerate(names):
        save_file({key: weights[key] for key in keys[index::shards]}, folder / name)
    weight_map = {key: names[position % shards] for position, key in enumerate(keys)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    out: dict[str, Tensor] = load_file(PUBLIC / "weights.safetensors")
    return out


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, Tensor]) -> Path:
    return official_layout(tmp_path_factory.mktemp("models") / "official", weights)


def load(folder: Path, **options: Any) -> LoadedModel:
    return load_checkpoint(folder, replace(LoadOptions(device="cpu", dtype="float32", progress=False), **options))


def test_every_weight_is_the_files(loaded: LoadedModel, weights: dict[str, Tensor]) -> None:
    state = loaded.model.state_dict()
    assert set(state) - set(weights) == {"tts.model.embed_tokens.weight"}
    assert all(torch.equal(state[key], tensor.float()) for key, tensor in weights.items())
    assert loaded.trained
    assert loaded.parameters == sum(t.numel() for t in [*weights.values(), *loaded.vocos.state_dict().values()])
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert not loaded.model.training


def test_shards_and_a_pickled_vocoder_load_alike(loaded: LoadedModel, official: Path) -> None:
    other = load(official)
    for part in ("model", "vocos"):
        mine, theirs = getattr(loaded, part).state_dict(), getattr(other, part).state_dict()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert other.tokenizer.get_vocab() == loaded.tokenizer.get_vocab()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtypes(dtype: str, loaded: LoadedModel) -> None:
    other = load(PUBLIC, dtype=dtype)
    wanted = getattr(torch, dtype)
    assert {weight.dtype for weight in other.model.parameters()} == {wanted}
    assert {weight.dtype for weight in other.vocos.parameters()} == {torch.float32}
    weight = "llm.model.layers.0.mlp.up_proj.weight"
    assert torch.equal(other.model.state_dict()[weight], loaded.model.state_dict()[weight].to(wanted))


def test_loading_leaves_the_files_alone(official: Path) -> None:
    """A loaded model is no view of its files: writing to it, or losing them, changes nothing."""
    model = load(official, dtype="bfloat16").model
    before = (official / "model-00001-of-00003.safetensors").read_bytes()
    for weight in model.parameters():
        if weight is not model.tts.model.embed_tokens.weight:
            weight.zero_()
    assert (official / "model-00001-of-00003.safetensors").read_bytes() == before


def test_a_progress_bar_shows_the_bytes(capfd: pytest.CaptureFixture[str]) -> None:
    load_checkpoint(PUBLIC, LoadOptions(device="cpu", progress=True))
    assert "Loading weights: 100%" in capfd.readouterr().err


def test_surplus_that_is_known_to_be_harmless(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    """A vocoder saved along, the unread table, and the vision layer that the configuration drops."""
    last = {
        key.replace("vpm.encoder.layers.1.", "vpm.encoder.layers.2."): tensor
        for key, tensor in weights.items()
        if key.startswith("vpm.encoder.layers.1.")
    }
    table = {"tts.model.embed_tokens.weight": torch.ones(32000, 64, dtype=torch.bfloat16)}
    folder = official_layout(tmp_path / "m", {**weights, **last, **table, "vocos.head.out.bias": torch.zeros(3)})
    loaded = load(folder)
    assert len(loaded.model.vpm.encoder.layers) == 2
    assert loaded.model.tts.model.embed_tokens.weight[5, 5] == 1


@pytest.mark.parametrize("layers", [2, 3])
def test_vision_layers_are_counted_when_the_configuration_is_silent(
    tmp_path: Path, weights: dict[str, Tensor], layers: int
) -> None:
    extra = {
        key.replace("vpm.encoder.layers.1.", "vpm.encoder.layers.2."): tensor
        for key, tensor in weights.items()
        if key.startswith("vpm.encoder.layers.1.") and layers == 3
    }
    folder = official_layout(tmp_path / "m", {**weights, **extra})
    config = json.loads((folder / "config.json").read_text())
    del config["drop_vision_last_layer"]
    (folder / "config.json").write_text(json.dumps(config))
    loaded = load(folder)
    assert len(loaded.model.vpm.encoder.layers) == loaded.config.vision.num_layers == layers


def test_tied_embeddings_need_no_head(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    folder = official_layout(tmp_path / "m", {k: t for k, t in weights.items() if k != "llm.lm_head.weight"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    llm = load(folder).model.llm
    assert llm.lm_head.weight is llm.model.embed_tokens.weight
    assert not llm.lm_head.weight.is_meta


def test_untrained_models_follow_their_seed(tmp_path: Path, loaded: LoadedModel) -> None:
    first, again, other = (build_untrained(PUBLIC, seed, device="cpu") for seed in (1, 1, 2))
    assert not first.trained
    assert first.parameters == loaded.parameters
    state, same, different = (model.model.state_dict() for model in (first, again, other))
    assert all(torch.equal(state[key], same[key]) for key in state)
    assert not torch.equal(state["llm.lm_head.weight"], different["llm.lm_head.weight"])
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    assert has_weights(PUBLIC)
    assert not has_weights(tmp_path)


def test_int8_stays_close(loaded: LoadedModel) -> None:
    """In whole numbers on the CPU: layers, table and head, and each row for itself."""
    quantized = load(PUBLIC, quantize="int8")
    assert quantized.parameters == loaded.parameters
    ids = torch.arange(0, loaded.config.llm.vocab_size, 7)
    x = torch.randn(6, loaded.config.llm.hidden_size, generator=torch.Generator().manual_seed(0))
    x[2] *= 1_000
    with torch.inference_mode():
        for part in ("model.layers.0.mlp", "model.layers.0.self_attn.q_proj", "lm_head", "model.embed_tokens"):
            given = ids if part.endswith("tokens") else x
            exact, close = (model.llm.get_submodule(part)(given) for model in (loaded.model, quantized.model))
            error = (close - exact).norm(dim=-1) / exact.norm(dim=-1)
            assert 0 < error.max() < 0.04, part
    assert exact_rows(quantized.model) == ROWS


@pytest.mark.parametrize("library", ["_by_fbgemm", "_by_onednn"])
def test_whole_numbers_are_multiplied_exactly(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the largest numbers do not overflow, a row of zeros gives the bias, one that is no number stays none."""
    monkeypatch.setattr(int8, "_product", getattr(int8, library))
    weight = torch.ones(16, 64)
    weight[1::2] = -1
    linear = Int8Linear(weight, torch.nn.Parameter(torch.full((16,), 0.5)))
    x = torch.stack([torch.full((64,), 3e4), torch.full((64,), -3e4), torch.zeros(64), torch.full((64,), torch.nan)])
    with torch.inference_mode():
        out = linear(x)
        assert torch.equal(linear(x[0]), out[0])
    assert torch.allclose(out[0], 0.5 + 64 * 3e4 * weight[:, 0])
    assert torch.allclose(out[1], 0.5 - 64 * 3e4 * weight[:, 0])
    assert torch.equal(out[2], torch.full((16,), 0.5))
    assert out[3].isnan().all()


@pytest.mark.parametrize(
    ("name", "device", "weights", "chosen"),
    [
        ("auto", "cpu", 500_000_000, "int8"),
        ("auto", "cpu", 20_000_000, "none"),
        ("auto", "cuda", 500_000_000, "none"),
        ("none", "cpu", 500_000_000, "none"),
    ],
)
def test_a_large_model_is_quantised_on_a_cpu(name: str, device: str, weights: int, chosen: str) -> None:
    assert choose(name, torch.device(device), torch.float32, weights) == chosen


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantize": "int3"}, "quantize=int3: is not a quantization; use one of auto, none, int8, int4, fp8"),
        ({"quantize": "fp8"}, "needs bfloat16 on a CUDA device"),
        ({"device": "quantum"}, "is not a device"),
        ({"device": "cuda:63"}, "cuda:63: is not there"),
        ({"dtype": "float8"}, "is not a supported dtype"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(LoadError, match=words):
        load(PUBLIC, **options)


def test_missing_torchao_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)
    with pytest.raises(LoadError, match=r"needs torchao.*pip install"):
        Quantizer("int8", torch.device("cuda"), torch.bfloat16)


def test_defaults_of_device_and_dtype() -> None:
    assert resolve_devices("cpu, meta") == [CPU, META]
    assert resolve_dtype("auto", CPU) == torch.float32
    assert resolve_dtype("auto", torch.device("mps")) == torch.bfloat16
    assert resolve_devices("auto")


def test_one_device_is_used_where_all_fits() -> None:
    cards = [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert not plan_devices(cards, [80 * GB, 80 * GB], [GB] * 10, 5 * GB).is_spread


def test_layers_are_spread_by_free_memory() -> None:
    cards = [torch.device("cuda", index) for index in range(3)]
    plan = plan_devices(cards, [12 * GB, 12 * GB, 6 * GB], [GB] * 14, 4 * GB)
    assert plan.is_spread
    assert plan.device_of("tts.emb_text.weight") == plan.device_of("llm.model.norm.weight") == cards[0]
    assert [plan.layers.count(card) for card in cards] == [4, 7, 3]
    assert list(plan.layers) == sorted(plan.layers, key=cards.index)
    assert plan.device_of("llm.model.layers.13.mlp.up_proj.weight") == cards[2]


@pytest.mark.parametrize("cards", [1, 2])
def test_too_little_memory_is_refused_before_loading(cards: int) -> None:
    devices = [torch.device("cuda", index) for index in range(cards)]
    with pytest.raises(LoadError, match="int8"):
        plan_devices(devices, [4 * GB] * cards, [GB] * 14, 2 * GB)


@torch.inference_mode()
def test_activations_follow_the_layers(loaded: LoadedModel) -> None:
    """Each layer gets its inputs where its weights are, and so does the norm behind the last one."""
    decoder = Decoder(loaded.model.llm.model.sizes)
    devices = (CPU, *[META] * (len(decoder.layers) - 1))
    seen: list[torch.device] = []
    for layer, device in zip(decoder.layers, devices, strict=True):
        layer.to(device)
        layer.register_forward_hook(lambda module, args, output: seen.append(output.device))
    decoder.norm.to(META)
    connect(decoder.layers, decoder.norm, DeviceMap(META, devices))
    assert decoder(torch.randn(1, 3, decoder.sizes.hidden_size)).device == META
    assert seen == list(devices)


@torch.inference_mode()
def test_keys_and_values_stay_at_home(loaded: LoadedModel) -> None:
    decoder = Decoder(loaded.model.llm.model.sizes)
    x = torch.randn(1, 5, decoder.sizes.hidden_size)
    near = decoder.arena(capacity=8).place([0], [0], [5])
    far = DistantCache(decoder.arena(capacity=8).place([0], [0], [5]))
    mix = [torch.randn(1, heads, 5, decoder.sizes.head_dim) for heads in (4, 2, 2)]
    assert torch.equal(far.attend(1, *mix), near.attend(1, *mix))
    assert torch.equal(far.batch.arena.keys[1], near.arena.keys[1])
    plain = decoder(x, cache=near)
    connect(decoder.layers, decoder.norm, DeviceMap(CPU, (CPU,) * len(decoder.layers)))
    assert torch.equal(decoder(x, cache=near), plain)


def test_a_model_larger_than_memory_is_refused_before_it_is_built(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("memory.max", "memory.current"):
        (tmp_path / name).write_text("2000000\n" if name == "memory.max" else "1000000\n")
    monkeypatch.setattr(devices, "CGROUP", tmp_path)
    assert free_memory(CPU) == 1_000_000
    for build in (load, lambda folder: build_untrained(folder, device="cpu")):
        with pytest.raises(LoadError, match=r"cpu: has 0\.0 GB free where the weights take"):
            build(official)
    (tmp_path / "memory.max").write_text("max\n")
    assert (free_memory(CPU) or 0) > 1_000_000
