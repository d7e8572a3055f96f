"""Weights of four bits: as AutoGPTQ and bitsandbytes store them, as kernels multiply them, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import LoadedVisionLanguage, load_model
from engine.checkpoint.quantize import Quantizer, bytes_of, choose
from engine.checkpoint.stored import Gptq, Nf4
from engine.client import EngineError
from engine.errors import LoadError
from engine.foreign import foreign_format
from engine.model.int4 import GroupedWeight, Int4Linear, grouped
from engine.spec import EngineSpec
from tests.engine_inputs.conftest import PUBLIC
from tests.engine_inputs.packing import gptq, nf4, pack_words

GOLDENS = PUBLIC.parent
LAYOUTS = Path(__file__).parents[1] / "data" / "int4_layouts.safetensors"
"""Layers packed by gptqmodel 7.7.0 (format gptq_v2) and bitsandbytes 0.50.2, with what these dequantise them to."""

Weights = dict[str, Tensor]


def layer(name: str) -> tuple[Weights, Tensor]:
    parts = {
        key.removeprefix(f"{name}."): part for key, part in load_file(LAYOUTS).items() if key.startswith(f"{name}.")
    }
    return parts, parts.pop("expected")


def restored_layer(name: str) -> tuple[GroupedWeight, Tensor]:
    parts, expected = layer(name)
    weight = Gptq(8 if name == "eight" else 4, 0).restore("x.weight", parts)
    assert isinstance(weight, GroupedWeight)
    return weight, expected


@pytest.mark.parametrize("name", ["sym", "asym", "act", "eight"])
def test_layers_that_gptqmodel_packed(name: str) -> None:
    weight, expected = restored_layer(name)
    assert torch.equal(weight.floats(), expected)
    if name != "eight":  # AutoGPTQ stores zeros less one
        parts, _ = layer(name)
        parts["qzeros"] = pack_words((weight.zeros - 1) % 16, 4)
        older = Gptq(4, 1).restore("x.weight", parts)
        assert isinstance(older, GroupedWeight)
        assert torch.equal(older.whole, weight.whole)
        assert torch.equal(older.zeros % 16, weight.zeros % 16)


@pytest.mark.parametrize("name", ["nf4", "plain"])
def test_layers_that_bitsandbytes_packed(name: str) -> None:
    parts, expected = layer(name)
    named = {key.removeprefix("weight").removeprefix("."): part for key, part in parts.items()}
    found = Nf4().restore("x.weight", named)
    assert isinstance(found, Tensor)
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("name", ["sym", "asym", "act"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_groups_are_multiplied_as_they_are(name: str, dtype: torch.dtype) -> None:
    weight, expected = restored_layer(name)
    linear = Int4Linear(weight, nn.Parameter(torch.ones(len(expected), dtype=dtype)))
    x = torch.randn(3, 5, expected.shape[1], generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.inference_mode():
        out = linear(x)
    exact = x.double() @ expected.double().t() + 1
    assert out.dtype == dtype
    assert out.shape == (3, 5, len(expected))
    assert (out.double() - exact).abs().max() < 1e-2 * exact.abs().max()
    assert linear.packed.nbytes + linear.steps.nbytes == expected.numel() // 2 + 4 * expected.numel() // 32


def test_rounding_to_the_nearest_of_sixteen() -> None:
    weight = torch.randn(32, 128, generator=torch.Generator().manual_seed(2))
    weight[0] = 0.25  # a group without a span
    groups = grouped(weight, 64)
    steps = groups.scales.t().repeat_interleave(64, 1)
    assert ((groups.floats() - weight).abs() <= steps / 2 * 1.001 + 1e-6).all()
    assert torch.equal(groups.whole[1].unflatten(0, (2, 64)).amax(1), torch.tensor([15, 15], dtype=torch.uint8))


# ------------------------------------------------------------------------------------------------ whole checkpoints
def is_of_layer(key: str) -> bool:
    return key.startswith("llm.model.layers.") and key.endswith("_proj.weight")


def write(folder: Path, golden: str, weights: Mapping[str, Tensor], quantization: Any, shards: int = 2) -> Path:
    """A golden model with these weights, in as many files."""
    shutil.copytree(
        GOLDENS / golden, folder, ignore=shutil.ignore_patterns("weights.safetensors", "*expected*", "images")
    )
    keys = sorted(weights)
    names = [f"model-{index}.safetensors" for index in range(shards)]
    for index, name in enumerate(names):
        save_file({key: weights[key] for key in keys[index::shards]}, folder / name)
    found = {key: names[index % shards] for index, key in enumerate(keys)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": found}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    return folder


def packed_checkpoint(
    golden: str, pack: Callable[[Tensor], tuple[Weights, Tensor]], *, vision: bool
) -> tuple[Weights, Weights]:
    """The tensors of a golden model with the language model's linears packed, and the towers' on request; and what the
    packed ones stand for."""
    stored: Weights = {}
    meant: Weights = {}
    for key, weight in load_file(GOLDENS / golden / "weights.safetensors").items():
        of_tower = vision and key.startswith("vpm.") and weight.dim() == 2 and "_proj.weight" in key
        if not (is_of_layer(key) or of_tower):
            stored[key] = weight
            continue
        parts, meant[key] = pack(weight)
        base = key if "" in parts else key.removesuffix(".weight")
        stored |= {f"{base}.{part}" if part else base: tensor for part, tensor in parts.items()}
    return stored, meant


def as_nf4(weight: Tensor) -> tuple[Weights, Tensor]:
    parts, _ = layer("nf4")
    return nf4(weight, parts["weight.quant_map"], parts["weight.nested_quant_map"])


def load(folder: Path, quantize: str, dtype: str = "float32") -> LoadedVisionLanguage:
    return load_model(folder, LoadOptions("cpu", dtype, quantize, progress=False))


@pytest.fixture(scope="module")
def gptq_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Weights]:
    stored, meant = packed_checkpoint("o26-public", gptq, vision=False)
    stored["llm.model.layers.0.mlp.up_proj.bias"] = torch.zeros(160)  # as some versions of AutoGPTQ write
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}
    return write(tmp_path_factory.mktemp("gptq") / "m", "o26-public", stored, settings), meant


@torch.inference_mode()
def states(loaded: LoadedVisionLanguage) -> Tensor:
    ids = torch.arange(40) * 7 % loaded.config.llm.vocab_size
    out: Tensor = loaded.model.llm(loaded.model.llm.embed(ids)[None])
    return out


@torch.inference_mode()
def distance(exact: LoadedVisionLanguage, close: LoadedVisionLanguage) -> float:
    """How far apart the first layer's products are, the largest relative to its size."""
    x = torch.randn(8, exact.config.llm.hidden_size, generator=torch.Generator().manual_seed(3))
    found = []
    for part in ("self_attn.q_proj", "mlp.up_proj"):
        wide, narrow = (loaded.model.llm.model.layers[0].get_submodule(part)(x) for loaded in (exact, close))
        found.append(float((narrow - wide).norm() / wide.norm()))
    return max(found)


def test_a_gptq_checkpoint_is_read_exactly_and_kept_in_four_bits(gptq_folder: tuple[Path, Weights]) -> None:
    folder, meant = gptq_folder
    plain, kept = load(folder, "auto"), load(folder, "int4")
    weights = dict(plain.model.named_parameters())
    assert len(meant) == 3 * 7
    assert all(torch.equal(weights[key], weight) for key, weight in meant.items())
    layers = [module for module in kept.model.modules() if isinstance(module, Int4Linear)]
    assert len(layers) == len(meant)
    assert all(type(kept.model.llm.lm_head) is nn.Linear for _ in layers)
    assert kept.parameters == plain.parameters
    assert distance(plain, kept) < 0.01, "but for what bfloat16 rounds"


def test_a_gptq_checkpoint_may_be_rounded_once_more(gptq_folder: tuple[Path, Weights]) -> None:
    assert 0 < distance(*(load(gptq_folder[0], quantize) for quantize in ("none", "int8"))) < 0.04


@pytest.mark.parametrize("golden", ["v26-public", "llama3v25-public"])
def test_bitsandbytes_checkpoints_of_the_v_models(golden: str, tmp_path: Path) -> None:
    """The tower's linears are packed in them, too."""
    stored, meant = packed_checkpoint(golden, as_nf4, vision=True)
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    loaded = load(write(tmp_path / "m", golden, stored, settings), "auto")
    weights = dict(loaded.model.named_parameters())
    assert any(key.startswith("vpm.") for key in meant)
    assert all((weights[key] - weight).abs().max() <= 1e-5 for key, weight in meant.items())


def test_any_model_of_the_family_in_four_bits_of_our_own(tmp_path: Path) -> None:
    for golden in ("o26-public", "v26-public", "llama3v25-public", "v20-public"):
        exact, close = (load(GOLDENS / golden, quantize) for quantize in ("none", "int4"))
        assert 0 < distance(exact, close) < 0.15, golden
        for key, weight in exact.model.named_parameters():
            if is_of_layer(key):
                linear = close.model.get_submodule(key.removesuffix(".weight"))
                assert isinstance(linear, Int4Linear)
                assert linear.packed.nbytes + linear.steps.nbytes == bytes_of("int4", weight.shape, torch.float32)


def test_autogptq_says_it_in_a_file_of_its_own(gptq_folder: tuple[Path, Weights], tmp_path: Path) -> None:
    folder = shutil.copytree(gptq_folder[0], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    settings = config.pop("quantization_config")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LoadError, match=r"belongs to a GPTQ checkpoint, of which config\.json says nothing"):
        load(folder, "none")
    del settings["quant_method"]
    (folder / "quantize_config.json").write_text(json.dumps(settings))
    (folder / "model.safetensors.index.json").unlink()
    shards = sorted(folder.glob("model-*.safetensors"))
    tensors = {key: part for file in shards for key, part in load_file(file).items()}
    save_file(tensors, folder / "gptq_model-4bit-32g.safetensors")
    for file in shards:
        file.unlink()
    assert torch.equal(states(load(folder, "none")), states(load(gptq_folder[0], "none")))


Damage = Callable[[Weights, dict[str, Any]], object]
UP = "llm.model.layers.0.mlp.up_proj"
SMALL, _ = gptq(torch.ones(32, 64))
DAMAGES: list[tuple[str, Damage, str]] = [
    ("no zeros", lambda t, c: t.pop(f"{UP}.qzeros"), r"up_proj\.weight: is quantised, and its parts \(.*\) are not"),
    ("short scales", lambda t, c: t.update({f"{UP}.scales": torch.ones(4, 8).half()}), "do not fit each other"),
    ("a group too far", lambda t, c: t[f"{UP}.g_idx"].fill_(9), r"cannot be put together .*names a group that is not"),
    ("a layer too many", lambda t, c: t.update({"llm.extra.qweight": torch.zeros(1, 8).int()}), r"llm\.extra\.weight"),
    ("a bias too many", lambda t, c: t.update({f"{UP}.bias": torch.ones(160)}), "is a bias where the model has none"),
    ("another size", lambda t, c: t.update({f"{UP}.{k}": v for k, v in SMALL.items()}), "has the size"),
    ("three bits", lambda t, c: c.update(bits=3), "is 3; GPTQ with 2, 4 or 8 bits is understood"),
    ("awq", lambda t, c: c.update(quant_method="awq"), "quantised for another runtime, AWQ; use the official"),
    ("fbgemm", lambda t, c: c.update(quant_method="fbgemm_fp8"), "with fbgemm_fp8, which is not understood; use"),
    ("eight bits", lambda t, c: c.update(quant_method="bitsandbytes"), "with bitsandbytes, which is not understood"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "said"), [case[1:] for case in DAMAGES], ids=[case[0] for case in DAMAGES])
def test_what_is_wrong_with_a_checkpoint_is_named(
    damage: Damage, said: str, gptq_folder: tuple[Path, Weights], tmp_path: Path
) -> None:
    tensors: Weights = {}
    for file in sorted(gptq_folder[0].glob("model-*.safetensors")):
        tensors |= load_file(file)
    settings = json.loads((gptq_folder[0] / "config.json").read_text())["quantization_config"]
    damage(tensors, settings)
    with pytest.raises(LoadError, match=said):
        load(write(tmp_path / "m", "o26-public", tensors, settings, shards=1), "none")


def test_checkpoints_of_other_runtimes_get_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "MiniCPM-o-2_6-Q4_K_M.gguf"
    file.write_bytes(b"GGUF")
    for path in (file, tmp_path):
        with pytest.raises(LoadError, match=r"GGUF, which is for another runtime; use the official .* quantize=int4"):
            load(path, "none")
        with pytest.raises(EngineError, match="GGUF, which is for another runtime; use the official"):
            EngineSpec(model=str(path))
    (tmp_path / "config.json").write_text(json.dumps({"quantization": {"group_size": 64, "bits": 4}}))
    assert foreign_format(tmp_path) == "holds weights quantised for another runtime, MLX"
    assert foreign_format(PUBLIC) is None
    assert foreign_format(tmp_path / "nowhere") is None


# ---------------------------------------------------------------------------------------------------- on a card
CUDA, BF16 = torch.device("cuda"), torch.bfloat16


@pytest.mark.parametrize(
    ("name", "device", "dtype", "said"),
    [
        (
            "fp8",
            "cpu",
            torch.float32,
            r"needs bfloat16 on a CUDA device of compute capability 8\.9 .*, not float32 on cpu",
        ),
        ("int4", "mps", torch.float16, r"needs bfloat16 on a CUDA device of compute capability 8\.0 .*float16 on mps"),
        ("int4", "cuda", BF16, r".*compute capability 8\.0 or later; this one has 7\.5; use quantize=int8 or none"),
        ("fp8", "cuda", BF16, r".*compute capability 8\.9 or later; this one has 7\.5; use quantize=int8 or none"),
    ],
)
def test_what_a_device_cannot_multiply_is_refused(
    name: str, device: str, dtype: torch.dtype, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(LoadError, match=f"quantize={name}: {said}"):
        Quantizer(name, torch.device(device), dtype)


def test_groups_are_kept_on_a_card_unless_told_otherwise() -> None:
    assert Gptq(4, 1).keeps_groups
    assert not any(form.keeps_groups for form in (Gptq(8, 1), Gptq(4, 1, 16), Gptq(4, 1, -1), Nf4()))
    assert choose("auto", CUDA, BF16, 10**10, in_groups=True) == "int4"
    assert choose("auto", CUDA, torch.float16, 10**10, in_groups=True) == "none"
    assert choose("none", CUDA, BF16, 10**10, in_groups=True) == "none"


def test_the_layout_for_tensor_cores_has_its_sizes() -> None:
    """On meta: the matrix of the official model's widest layer."""
    with torch.device("meta"):
        pairs = torch.empty(3_584, 18_944 // 2, dtype=torch.uint8)
        packed = torch.ops.aten._convert_weight_to_int4pack(pairs, 8)
    assert packed.nbytes == 3_584 * 18_944 // 2


@pytest.mark.parametrize(("name", "most"), [("int8", 0.01), ("fp8", 0.06)])
def test_layers_that_torchao_quantises(name: str, most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its arithmetic on a CPU; what it asks of a card is told that it is one."""
    pytest.importorskip("torchao", reason="torchao is for cards")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("torchao.quantization.quant_api._check_hardware_support", lambda granularity: None)
    exact, close = (load(GOLDENS / "v26-public", "none", "bfloat16") for _ in range(2))
    quantizer = Quantizer(name, CUDA, BF16)
    for key, weight in list(close.model.named_parameters()):
        if quantizer.covers(key):
            quantizer(close.model, key)
            kept = close.model.get_parameter(key).data
            parts = [getattr(kept, part) for part in kept.tensor_data_names]  # type: ignore[attr-defined]
            assert sum(part.nbytes for part in parts) == bytes_of(name, weight.shape, BF16)
    x = torch.randn(8, exact.config.llm.hidden_size, generator=torch.Generator().manual_seed(3)).to(BF16)
    with torch.inference_mode():
        wide, narrow = (loaded.model.llm.model.layers[0].get_submodule("mlp.up_proj")(x) for loaded in (exact, close))
    assert 0 < (narrow - wide).norm() / wide.norm() < most
