"""Weight-only quantisation of the language model's layers through torchao (optional)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from engine.errors import LoadError

QUANTIZATIONS = ("none", "int8", "int4")
BYTES = {"int8": 1.0, "int4": 0.5625}
"""Bytes per weight, scales included."""
GROUPS = (128, 64, 32)
"""Weights that share a scale in int4: the largest number that divides the layer's width."""


class Quantizer:
    """Replaces the weight of a linear layer right after it was loaded, so that the full model is never in memory.

    Only ``llm.model.layers.*`` are quantised: they are most of the bytes that a decoding step reads. Embeddings, the
    head and the senses keep their precision.
    """

    def __init__(self, name: str, device: torch.device, dtype: torch.dtype) -> None:
        """``name`` is ``int8`` or ``int4``. Raises LoadError when torchao is not installed, or has no kernel."""
        if name not in BYTES:
            raise LoadError(f"quantize={name}", "is not a quantization", f"use one of {', '.join(QUANTIZATIONS)}")
        if name == "int4" and (device.type != "cuda" or dtype != torch.bfloat16):
            problem = f"needs bfloat16 on a CUDA device, not {str(dtype).removeprefix('torch.')} on {device.type}"
            raise LoadError("quantize=int4", problem, "use quantize=int8, or dtype=bfloat16 and device=cuda")
        try:
            import torchao.quantization as torchao
        except ImportError as error:
            remedy = "install it with `pip install -r engine/requirements-gpu.txt`, or use quantize=none"
            raise LoadError(f"quantize={name}", f"needs torchao, which cannot be imported ({error})", remedy) from error
        self.name = name
        self._torchao = torchao

    def covers(self, key: str) -> bool:
        """Whether the parameter ``key`` is a weight to quantise."""
        return key.startswith("llm.model.layers.") and key.endswith("_proj.weight")

    def __call__(self, linear: nn.Module, key: str) -> None:
        """Quantise one layer in place. Raises LoadError when torchao cannot."""
        try:
            self._torchao.quantize_(linear, self._config(linear))
        except Exception as error:  # torchao raises whatever its kernels raise
            problem = f"cannot be quantised to {self.name} ({type(error).__name__}: {error})"
            raise LoadError("torchao", problem, "use another quantize or none", key=key) from error

    def _config(self, linear: nn.Module) -> Any:
        if self.name == "int8":
            return self._torchao.Int8WeightOnlyConfig()
        assert isinstance(linear, nn.Linear)
        group = next((size for size in GROUPS if linear.in_features % size == 0), None)
        if group is None:
            raise ValueError(f"{linear.in_features} inputs do not split into groups of {GROUPS[-1]}")
        return self._torchao.Int4WeightOnlyConfig(
            group_size=group, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
        )
