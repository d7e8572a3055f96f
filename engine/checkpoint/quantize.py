"""Quantisation of the language model while it is loaded: in whole numbers of our own on a CPU, through torchao
(optional) on a card."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from engine.errors import LoadError
from engine.model.int8 import Int8Embedding, Int8Linear
from engine.model.vision_language import VisionLanguageModel
from engine.spec import QUANTIZATIONS

BYTES = {"int8": 1.0, "int4": 0.5625}
"""Bytes per weight, scales included."""
GROUPS = (128, 64, 32)
"""Weights that share a scale in int4: the largest number that divides the layer's width."""
LARGE = 100_000_000
"""From so many weights on, a language model on a CPU is quantised unless told otherwise: every token reads them all."""
TABLES = ("llm.model.embed_tokens.weight", "llm.lm_head.weight")


def choose(name: str, device: torch.device, weights: int) -> str:
    """The quantization that ``auto`` means for a language model of so many ``weights``; any other name is itself."""
    if name != "auto":
        return name
    return "int8" if device.type == "cpu" and weights > LARGE else "none"


class Quantizer:
    """Replaces a weight of the language model right after it was loaded, so that the full model is never in memory.

    Its layers are quantised, which are most of the bytes that a decoding step reads; on a CPU its table of words and
    its head are, too. The senses and the voice keep their precision.
    """

    def __init__(self, name: str, device: torch.device, dtype: torch.dtype) -> None:
        """``name`` is ``int8`` or ``int4``. Raises LoadError where that does not go with the device or the dtype, or
        needs a torchao that is not installed."""
        if name not in BYTES:
            raise LoadError(f"quantize={name}", "is not a quantization", f"use one of {', '.join(QUANTIZATIONS)}")
        if name == "int4" and (device.type != "cuda" or dtype != torch.bfloat16):
            problem = f"needs bfloat16 on a CUDA device, not {str(dtype).removeprefix('torch.')} on {device.type}"
            raise LoadError("quantize=int4", problem, "use quantize=int8, or dtype=bfloat16 and device=cuda")
        self.name = name
        self._on_cpu = device.type == "cpu"
        if self._on_cpu:
            if dtype != torch.float32:
                problem = f"computes in float32 on a CPU, not in {str(dtype).removeprefix('torch.')}"
                raise LoadError("quantize=int8", problem, "leave dtype at auto, or use quantize=none")
            return
        try:
            import torchao.quantization as torchao
        except ImportError as error:
            remedy = "install it with `pip install -r engine/requirements-gpu.txt`, or use quantize=none"
            raise LoadError(f"quantize={name}", f"needs torchao, which cannot be imported ({error})", remedy) from error
        self._torchao = torchao

    def covers(self, key: str) -> bool:
        """Whether the parameter ``key`` is a weight to quantise."""
        return (key.startswith("llm.model.layers.") and key.endswith("_proj.weight")) or (
            self._on_cpu and key in TABLES
        )

    def __call__(self, model: VisionLanguageModel, key: str) -> None:
        """Quantise the weight ``key`` of ``model``. Raises LoadError when torchao cannot."""
        path = key.rpartition(".")[0]
        module: Any = model.get_submodule(path)
        if not self._on_cpu:
            self._by_torchao(module, key)
        elif isinstance(module, nn.Embedding):
            model.set_submodule(path, Int8Embedding(module.weight))
            if model.llm.tied:  # from here on each has a form of its own
                model.llm.tied = False
                model.set_submodule("llm.lm_head", Int8Linear(module.weight))
        else:
            model.set_submodule(path, Int8Linear(module.weight, module.bias))

    def _by_torchao(self, linear: nn.Linear, key: str) -> None:
        try:
            self._torchao.quantize_(linear, self._config(linear))
        except Exception as error:  # torchao raises whatever its kernels raise
            problem = f"cannot be quantised to {self.name} ({type(error).__name__}: {error})"
            raise LoadError("torchao", problem, "use another quantize or none", key=key) from error

    def _config(self, linear: nn.Linear) -> Any:
        if self.name == "int8":
            return self._torchao.Int8WeightOnlyConfig()
        group = next((size for size in GROUPS if linear.in_features % size == 0), None)
        if group is None:
            raise ValueError(f"{linear.in_features} inputs do not split into groups of {GROUPS[-1]}")
        return self._torchao.Int4WeightOnlyConfig(
            group_size=group, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
        )
