"""Damaged checkpoints: each is refused, in one sentence, with the file, the key and what to do."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import load_checkpoint
from engine.errors import CheckpointError, ConfigError, LoadError, TokenizerError
from tests.engine_inputs.conftest import PUBLIC
from tests.engine_inputs.test_loader import official_layout

Damage = Callable[[Path], object]
FIRST = "model-00001-of-00003.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return official_layout(tmp_path / "model", load_file(PUBLIC / "weights.safetensors"))


def edit_json(name: str, **changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        data = json.loads((folder / name).read_text())
        data.update(changes)
        (folder / name).write_text(json.dumps(data))

    return damage


def truncate(name: str, share: float) -> Damage:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return damage


def overwrite(name: str, data: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(data)


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def edit_shard(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / FIRST)
        change(tensors)
        save_file(tensors, folder / FIRST)
        index = json.loads((folder / INDEX).read_text())
        kept = {key: name for key, name in index["weight_map"].items() if name != FIRST}
        (folder / INDEX).write_text(json.dumps({"weight_map": kept | dict.fromkeys(tensors, FIRST)}))

    return damage


def edit_vocos(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = torch.load(folder / "assets/Vocos.pt", weights_only=True)
        change(tensors)
        torch.save(tensors, folder / "assets/Vocos.pt")

    return damage


def drop_from_index(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["llm.model.norm.bias"] = FIRST
    (folder / INDEX).write_text(json.dumps(index))


def remove_weights(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


CASES: list[tuple[str, Damage, type[LoadError], list[str]]] = [
    ("empty directory", empty, ConfigError, ["config.json", "is missing"]),
    ("no directory", shutil.rmtree, ConfigError, ["model", "does not exist"]),
    ("corrupt config", truncate("config.json", 0.5), ConfigError, ["config.json", "not valid JSON", "download"]),
    ("config is a list", overwrite("config.json", b"[1]"), ConfigError, ["config.json", "not an object"]),
    (
        "foreign architecture",
        edit_json("config.json", architectures=["LlamaForCausalLM"], model_type="llama"),
        ConfigError,
        ["config.json", "architectures", "LlamaForCausalLM", "MiniCPM-o 2.6"],
    ),
    (
        "sister model",
        edit_json("config.json", architectures=["MiniCPMV"], model_type="minicpmv"),
        ConfigError,
        ["architectures", "MiniCPM-Llama3-V 2.5", "neither hears nor speaks", "engine.chat"],
    ),
    (
        "quantised by another runtime",
        edit_json("config.json", quantization_config={"quant_method": "awq", "bits": 4}),
        ConfigError,
        ["model", "AWQ", "quantize=int4"],
    ),
    (
        "GPTQ by tensors",
        edit_shard(lambda t: t.update({"llm.model.layers.0.mlp.up_proj.qweight": torch.zeros(2, 2).int()})),
        CheckpointError,
        ["up_proj.qweight", "GPTQ"],
    ),
    (
        "quantised in a way of its own",
        edit_json("config.json", quantization_config=[1]),
        ConfigError,
        ["config.json", "quantization_config", "not an object"],
    ),
    ("no number", edit_json("config.json", rms_norm_eps=float("nan")), ConfigError, ["rms_norm_eps", "finite number"]),
    ("bottomless config", overwrite("config.json", b"[" * 200_000), ConfigError, ["config.json", "not valid JSON"]),
    ("broken preprocessor", overwrite("preprocessor_config.json", b"{"), ConfigError, ["preprocessor_config.json"]),
    (
        "weights that are not numbers",
        edit_shard(lambda t: next(iter(t.values())).fill_(float("nan"))),
        CheckpointError,
        [FIRST, "infinite", "download"],
    ),
    ("truncated shard", truncate(FIRST, 0.9), CheckpointError, [FIRST, "truncated", "download"]),
    ("shard cut in its header", truncate(FIRST, 0.001), CheckpointError, [FIRST, "truncated"]),
    ("empty shard", overwrite(FIRST, b""), CheckpointError, [FIRST, "truncated", "0 bytes"]),
    ("corrupt header", overwrite(FIRST, struct.pack("<Q", 4) + b"{{{{"), CheckpointError, [FIRST, "corrupt header"]),
    (
        "header of nonsense",
        overwrite(FIRST, struct.pack("<Q", 8) + b'{"a": 1}'),
        CheckpointError,
        [FIRST, "corrupt header"],
    ),
    (
        "web page for a shard",
        overwrite(FIRST, b"<!doctype html><html>" * 9),
        CheckpointError,
        [FIRST, "truncated or no"],
    ),
    (
        "Git LFS pointer",
        overwrite(FIRST, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"),
        CheckpointError,
        [FIRST, "Git LFS pointer", "git lfs pull"],
    ),
    ("missing shard", remove(FIRST), CheckpointError, [FIRST, "is missing", "download"]),
    ("missing index", remove(INDEX), CheckpointError, [INDEX, "is missing"]),
    ("corrupt index", truncate(INDEX, 0.5), LoadError, [INDEX, "not valid JSON"]),
    (
        "index that points elsewhere",
        overwrite(INDEX, json.dumps({"weight_map": {"llm.model.norm.weight": "../" + FIRST}}).encode()),
        CheckpointError,
        [INDEX, "weight_map", "beside it"],
    ),
    ("index of nothing", overwrite(INDEX, b"{}"), CheckpointError, [INDEX, "weight_map"]),
    ("index that promises too much", drop_from_index, CheckpointError, [FIRST, "llm.model.norm.bias", INDEX]),
    (
        "missing tensor",
        edit_shard(lambda t: t.pop("llm.lm_head.weight", None) if "llm.lm_head.weight" in t else t.pop(sorted(t)[0])),
        CheckpointError,
        ["is missing", "of the same checkpoint"],
    ),
    (
        "unexpected tensor",
        edit_shard(lambda t: t.update({"llm.model.layers.0.self_attn.q_norm.weight": torch.zeros(4)})),
        CheckpointError,
        [FIRST, "llm.model.layers.0.self_attn.q_norm.weight", "unexpected"],
    ),
    (
        "wrong size",
        edit_json("config.json", vocab_size=400),
        CheckpointError,
        ["safetensors", "llm.", "[368, 128]", "[400, 128]", "config.json"],
    ),
    (
        "integers for weights",
        edit_shard(lambda t: t.update({key: tensor.to(torch.int8) for key, tensor in t.items()})),
        CheckpointError,
        [FIRST, "I8"],
    ),
    ("no weights", remove_weights, CheckpointError, ["holds no weights", INDEX]),
    (
        "corrupt tokenizer settings",
        overwrite("tokenizer_config.json", b"{"),
        ConfigError,
        ["tokenizer_config.json", "not valid JSON"],
    ),
    ("no tokenizer", remove("tokenizer.json"), TokenizerError, ["tokenizer.json", "is missing"]),
    ("corrupt tokenizer", truncate("tokenizer.json", 0.5), TokenizerError, ["tokenizer.json", "cannot be read"]),
    (
        "no speech tokenizer",
        remove("assets/chattts_tokenizer/tokenizer.json"),
        TokenizerError,
        ["assets/chattts_tokenizer/tokenizer.json", "is missing"],
    ),
    (
        "tokenizers swapped",
        lambda folder: shutil.copy(folder / "assets/chattts_tokenizer/tokenizer.json", folder / "tokenizer.json"),
        TokenizerError,
        ["tokenizer.json", "<|im_start|>"],
    ),
    (
        "speech tokens elsewhere",
        edit_json(
            "config.json",
            tts_config=json.loads((PUBLIC / "config.json").read_text())["tts_config"] | {"audio_bos_token_id": 3},
        ),
        TokenizerError,
        ["chattts_tokenizer", "[Ptts]", "170", "3"],
    ),
    ("no vocoder", remove("assets/Vocos.pt"), CheckpointError, ["assets/Vocos.pt", "is missing"]),
    ("truncated vocoder", truncate("assets/Vocos.pt", 0.6), CheckpointError, ["assets/Vocos.pt", "truncated"]),
    ("empty vocoder", overwrite("assets/Vocos.pt", b""), CheckpointError, ["assets/Vocos.pt", "truncated"]),
    (
        "vocoder with code",
        lambda folder: torch.save({"head.out.bias": Path("/etc")}, folder / "assets/Vocos.pt"),
        CheckpointError,
        ["assets/Vocos.pt", "more than plain tensors"],
    ),
    (
        "vocoder with a hole",
        edit_vocos(lambda t: t.pop("backbone.norm.bias")),
        CheckpointError,
        ["Vocos.pt", "backbone.norm.bias", "is missing"],
    ),
    (
        "vocoder of another size",
        edit_vocos(lambda t: t.update({"backbone.norm.bias": torch.zeros(7)})),
        CheckpointError,
        ["Vocos.pt", "backbone.norm.bias", "[7]", "[48]"],
    ),
    (
        "vocoder of integers",
        edit_vocos(lambda t: t.update({"backbone.norm.bias": torch.zeros(48).int()})),
        CheckpointError,
        ["Vocos.pt", "backbone.norm.bias", "int32", "floating-point"],
    ),
    (
        "vocoder that is not numbers",
        edit_vocos(lambda t: t["backbone.norm.bias"].fill_(float("inf"))),
        CheckpointError,
        ["Vocos.pt", "backbone.norm.bias", "infinite"],
    ),
    (
        "vocoder with a surplus",
        edit_vocos(lambda t: t.update({"backbone.extra": torch.zeros(7)})),
        CheckpointError,
        ["Vocos.pt", "backbone.extra", "unexpected"],
    ),
]


@pytest.mark.parametrize(("damage", "error", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_damage_is_named(folder: Path, damage: Damage, error: type[LoadError], words: list[str]) -> None:
    damage(folder)
    with pytest.raises(error) as caught:
        load_checkpoint(folder, LoadOptions(device="cpu", progress=False))
    message = str(caught.value)
    assert "\n" not in message.removesuffix("\n")
    assert all(word in message for word in [*words, caught.value.remedy]), message
