"""A LoRA adapter in peft's layout, put into the weights while they are loaded.

::

    adapter_config.json                 r, lora_alpha, target_modules, …
    adapter_model.safetensors           base_model.model.KEY.lora_A.weight [r, in], .lora_B.weight [out, r],
                                        and whole tensors base_model.model.KEY in the place of the model's own

A weight with an adapter is W + lora_alpha / r · B · A (arXiv 2106.09685). Needs no peft.
"""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from engine.checkpoint.weights import AGAIN, read_header
from engine.config_reader import read_json
from engine.errors import CheckpointError, ConfigError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
UNKNOWN = {"use_dora": False, "bias": "none", "fan_in_fan_out": False, "alpha_pattern": {}, "rank_pattern": {}}
"""Settings of peft that change what the weights mean, and the only value that is understood here."""


@dataclass(slots=True)
class Adapter:
    """The tensors of one adapter by the keys of the checkpoint."""

    path: Path
    scale: float = 1.0
    pairs: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """A [r, in] and B [out, r] of each weight that is changed."""
    whole: dict[str, Tensor] = field(default_factory=dict)
    """Tensors that take the place of the model's own."""

    @classmethod
    def read(cls, folder: Path) -> Adapter:
        """Raises LoadError (ConfigError, CheckpointError) with file, key and remedy."""
        config = read_json(folder / CONFIG)
        if config.get("peft_type") != "LORA":
            kind = config.get("peft_type")
            raise ConfigError(
                folder / CONFIG, f"is {kind!r}; only LORA is understood", "train it anew", key="peft_type"
            )
        for key, value in UNKNOWN.items():
            if config.get(key) not in (None, value):
                problem = f"is {config[key]!r}, which is not understood"
                raise ConfigError(folder / CONFIG, problem, f"train the adapter with {value!r}", key=key)
        rank, alpha = config.get("r"), config.get("lora_alpha")
        if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
            raise ConfigError(folder / CONFIG, "needs r and lora_alpha, numbers", AGAIN, key="r")
        adapter = cls(folder / WEIGHTS, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
        adapter._sort(adapter._tensors(), rank)
        return adapter

    def _tensors(self) -> dict[str, Tensor]:
        read_header(self.path)
        try:
            tensors: dict[str, Tensor] = load_file(self.path)
            return tensors
        except (SafetensorError, OSError) as error:
            raise CheckpointError(self.path, f"cannot be read ({error})", AGAIN) from error

    def _sort(self, tensors: dict[str, Tensor], rank: int) -> None:
        halves: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if not name.startswith(PREFIX):
                raise CheckpointError(self.path, "is no tensor of peft's layout", "save it with peft", key=name)
            if not tensor.isfinite().all():
                raise CheckpointError(self.path, "holds numbers that are infinite or none at all", AGAIN, key=name)
            key = name.removeprefix(PREFIX)
            for half in ("A", "B"):
                if key.endswith(f".lora_{half}.weight"):
                    halves.setdefault(f"{key.removesuffix(f'.lora_{half}.weight')}.weight", {})[half] = tensor
                    break
            else:
                self.whole[key] = tensor
        for key, pair in halves.items():
            if len(pair) < 2 or pair["A"].shape[0] != rank or pair["B"].shape[-1] != rank:
                raise CheckpointError(self.path, f"needs lora_A and lora_B of rank {rank}", AGAIN, key=key)
            self.pairs[key] = pair["A"], pair["B"]

    def changes(self, key: str) -> bool:
        """Whether the adapter has something for this weight."""
        return key in self.pairs or key in self.whole

    def __call__(self, key: str, weight: Tensor) -> Tensor:
        """The weight of the model with the adapter in it, on its device and in its dtype. Raises CheckpointError for
        one that the adapter does not fit."""
        result = weight
        if (whole := self.whole.get(key)) is not None:
            result = self._fitting(key, whole, weight).to(weight)
        if (pair := self.pairs.get(key)) is not None:
            a, b = (half.to(weight.device, torch.float32) for half in pair)
            if (b.shape[0], a.shape[1]) != tuple(weight.shape):
                raise self._misfit(key, (b.shape[0], a.shape[1]), weight)
            result = (weight.float() + self.scale * (b @ a)).to(weight.dtype)
        return result

    def check_keys(self, keys: Container[str]) -> None:
        """Raises CheckpointError for a tensor of the adapter that is for no weight of a model with these ``keys``."""
        if left := sorted(key for key in {*self.pairs, *self.whole} if key not in keys):
            remedy = "use the model that the adapter was trained on"
            raise CheckpointError(self.path, "is of no weight of the model", remedy, key=left[0])

    def _fitting(self, key: str, tensor: Tensor, weight: Tensor) -> Tensor:
        if tensor.shape != weight.shape:
            raise self._misfit(key, tuple(tensor.shape), weight)
        return tensor

    def _misfit(self, key: str, found: tuple[int, ...], weight: Tensor) -> CheckpointError:
        problem = f"is for the size {list(found)} where the model has {list(weight.shape)}"
        return CheckpointError(self.path, problem, "use the model that the adapter was trained on", key=key)
