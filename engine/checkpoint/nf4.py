"""Weights of four bits under an adapter that is trained (QLoRA, arXiv 2305.14314), through bitsandbytes (optional)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from engine.checkpoint.quantize import Quantizer
from engine.errors import LoadError
from engine.model.int4 import GroupedWeight

NF4 = "nf4"
"""Sixteen levels at the quantiles of a normal distribution; 64 weights share a scale, and scales are quantised too."""


class Nf4Quantizer(Quantizer):
    """Replaces the weights of the language model's layers, as the published script does, right after each was loaded.

    What is computed with them is computed in the model's dtype, and gradients pass through to what lies below.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        """Raises LoadError where bitsandbytes is not installed, or not for ``device``."""
        self.name, self._device, self._dtype = NF4, device, dtype
        try:
            import bitsandbytes
        except ImportError as error:
            problem = f"needs bitsandbytes, which cannot be imported ({error})"
            remedy = "install it with `pip install bitsandbytes`, or leave the weights as they are"
            raise LoadError(f"quantize={NF4}", problem, remedy) from error
        self._library: Any = bitsandbytes

    def covers(self, key: str) -> bool:
        return self.is_of_layers(key)

    def __call__(self, model: nn.Module, key: str, stored: GroupedWeight | None = None) -> None:
        assert stored is None, "groups are kept where int4 is wanted"
        path = key.rpartition(".")[0]
        plain = model.get_submodule(path)
        assert isinstance(plain, nn.Linear)
        try:
            layer = self._library.nn.Linear4bit(
                plain.in_features, plain.out_features, plain.bias is not None, self._dtype, True, NF4, device="meta"
            )
            layer.support_avx512bf16_for_cpu = False  # for answers only, and an evaluation would leave it behind
            small = self._library.nn.Params4bit(
                plain.weight.data, requires_grad=False, compress_statistics=True, quant_type=NF4, module=layer
            )
            layer.weight, layer.bias = small.to(self._device), plain.bias
        except Exception as error:  # bitsandbytes raises whatever its kernels raise
            problem = f"cannot quantise to {NF4} here ({type(error).__name__}: {error})"
            raise LoadError("bitsandbytes", problem, "leave the weights as they are", key=key) from error
        model.set_submodule(path, layer)
