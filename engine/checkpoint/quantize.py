"""Quantisation of the language model while it is loaded.

``int8`` is in whole numbers of our own on a CPU, and weight-only through torchao (optional) on a card; ``int4`` is in
groups (:mod:`engine.model.int4`), rounded here or as a GPTQ checkpoint has them; ``fp8``, through torchao, has weights
and what they are multiplied with in eight bits of floating point, which tensor cores take from Ada and Hopper on.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import LoadError
from engine.model.int4 import GROUPS, GroupedWeight, Int4Linear, grouped
from engine.model.int8 import Int8Embedding, Int8Linear, is_available
from engine.model.vision_language import VisionLanguageModel
from engine.model.word_decoder import WordDecoder
from engine.spec import QUANTIZATIONS

LARGE = 100_000_000
"""From so many weights on, a language model on a CPU is quantised unless told otherwise: every token reads them all."""
TABLES = ("llm.model.embed_tokens.weight", "llm.lm_head.weight")
READER_TABLE = "reader.embed_tokens.weight"
EARS = re.compile(r"(apm|reader)\.layers\..*(_proj|fc1|fc2)\.weight")
CAPABILITY = {"int4": (8, 0), "fp8": (8, 9)}
"""The least compute capability of a card."""


def choose(
    name: str, device: torch.device, dtype: torch.dtype, weights: int, *, in_groups: bool = False, large: int = LARGE
) -> str:
    """The quantization that ``auto`` means for a language model of so many ``weights``, which the checkpoint may have
    ``in_groups``, or for ears, of which fewer are ``large``; any other name is itself."""
    if name != "auto":
        return name
    if device.type == "cpu":
        return "int8" if dtype == torch.float32 and weights > large and is_available() else "none"
    return "int4" if in_groups and device.type == "cuda" and dtype == torch.bfloat16 else "none"


def bytes_of(name: str, shape: torch.Size, dtype: torch.dtype) -> int:
    """Bytes of a matrix [outputs, inputs] that is quantised as ``name`` says (``none``: not), scales included."""
    size = shape.numel()
    if name == "int4":
        return size // 2 + 2 * torch.bfloat16.itemsize * size // _group(shape[1])
    if name == "nf4":
        return size * 33 // 64
    return size * dtype.itemsize if name == "none" else size + shape[0] * torch.float32.itemsize


def _group(inputs: int) -> int:
    """Inputs that share a scale. Raises ValueError."""
    group = next((size for size in GROUPS if inputs % size == 0), None)
    if group is None:
        raise ValueError(f"{inputs} inputs do not split into groups of {GROUPS[-1]}")
    return group


class Quantizer:
    """Replaces a weight of the language model right after it was loaded, so that the full model is never in memory."""

    def __init__(self, name: str, device: torch.device, dtype: torch.dtype, *, reads: bool = False) -> None:
        """``name`` is ``int8``, ``int4`` or ``fp8``; ``reads``: the model's ears read words. Raises LoadError where
        that does not go with the device or the dtype, or needs a torchao that is not installed."""
        if name not in QUANTIZATIONS or name in ("auto", "none"):
            raise LoadError(f"quantize={name}", "is not a quantization", f"use one of {', '.join(QUANTIZATIONS)}")
        self.name = name
        self._whole, self._reads = name == "int8" and device.type == "cpu", reads
        if problem := _obstacle(name, device, dtype):
            raise LoadError(f"quantize={name}", problem[0], problem[1])
        if name == "int4" or self._whole:
            return
        try:
            import torchao.quantization as torchao
        except ImportError as error:
            remedy = "install it with `pip install -r engine/requirements-gpu.txt`, or use quantize=none"
            raise LoadError(f"quantize={name}", f"needs torchao, which cannot be imported ({error})", remedy) from error
        self._torchao = torchao

    def covers(self, key: str) -> bool:
        """Whether the parameter ``key`` is a weight to quantise: those of the layers, which are most of the bytes that
        a decoding step reads; in whole numbers the table of words and the head, too, and ears that read. Other senses
        and the voice keep their precision."""
        return self.is_of_layers(key) or (self._whole and (key in TABLES or (self._reads and self.is_of_ears(key))))

    @staticmethod
    def is_of_ears(key: str) -> bool:
        """Whether this is a weight of the ears that a second of sound, or a word read of it, is multiplied with."""
        return key == READER_TABLE or bool(EARS.fullmatch(key))

    @staticmethod
    def is_of_layers(key: str) -> bool:
        """Whether this is a weight of the language model's layers, which are quantised on every device."""
        return key.startswith("llm.model.layers.") and key.endswith("_proj.weight")

    def __call__(self, model: nn.Module, key: str, stored: GroupedWeight | None = None) -> None:
        """Quantise the weight ``key`` of ``model``, which is ``stored`` in groups or has its place already. Raises
        LoadError where it cannot be."""
        path = key.rpartition(".")[0]
        module: Any = model.get_submodule(path)
        try:
            if self.name == "int4":
                weight = module.weight if stored is None else stored
                if isinstance(weight, Tensor):
                    weight = grouped(weight, _group(weight.shape[1]))
                model.set_submodule(path, Int4Linear(weight, module.bias))
            elif not self._whole:
                self._torchao.quantize_(module, self._config())
            elif isinstance(module, nn.Embedding):
                model.set_submodule(path, Int8Embedding(module.weight))
                # A head that shared its table has a form of its own from here on.
                reader = model.get_submodule(key.partition(".")[0])
                if isinstance(reader, WordDecoder):
                    reader.head = Int8Linear(module.weight)
                elif isinstance(model, VisionLanguageModel) and model.llm.tied:
                    model.llm.tied = False
                    model.set_submodule("llm.lm_head", Int8Linear(module.weight))
            else:
                model.set_submodule(path, Int8Linear(module.weight, module.bias))
        except Exception as error:  # torchao raises whatever its kernels raise
            problem = f"cannot be quantised to {self.name} ({type(error).__name__}: {error})"
            raise LoadError(f"quantize={self.name}", problem, "use another quantize or none", key=key) from error

    def _config(self) -> Any:
        if self.name == "int8":
            return self._torchao.Int8WeightOnlyConfig(set_inductor_config=False)
        return self._torchao.Float8DynamicActivationFloat8WeightConfig(
            granularity=self._torchao.PerRow(), set_inductor_config=False
        )


def _obstacle(name: str, device: torch.device, dtype: torch.dtype) -> tuple[str, str] | None:
    """Why a device or a dtype cannot have this quantization, and what to use instead."""
    said = str(dtype).removeprefix("torch.")
    if name == "int8" and device.type == "cpu" and dtype != torch.float32:
        return f"computes in float32 on a CPU, not in {said}", "leave dtype at auto, or use quantize=none"
    if (least := CAPABILITY.get(name)) is None or (name == "int4" and device.type == "cpu"):
        return None
    wanted = f"a CUDA device of compute capability {least[0]}.{least[1]} or later"
    if device.type != "cuda" or dtype != torch.bfloat16:
        return f"needs bfloat16 on {wanted}, not {said} on {device.type}", "use quantize=int8 or none"
    found = torch.cuda.get_device_capability(device)
    if found < least:
        return f"needs {wanted}; this one has {found[0]}.{found[1]}", "use quantize=int8 or none"
    return None
