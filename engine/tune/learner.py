"""What is trained, and the loss of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from engine.errors import InputError
from engine.model.vision_language import VisionLanguageModel
from engine.tune.data import Batch
from engine.tune.markup import IGNORED

TARGETS = r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"
"""Linear layers that get an adapter: those of the published script."""
POSITIONS = "resampler.pos_embed"
"""Sines that MiniCPM-V 2.0 keeps among its weights. As published they are trained in an adapter's copy only."""
COPIED = ("llm.model.embed_tokens", "resampler")
"""Modules that an adapter holds whole."""


@dataclass(frozen=True, slots=True)
class LoraOptions:
    """An adapter (LoRA, arXiv 2106.09685); the defaults are the published ones."""

    rank: int = 64
    alpha: int = 64
    dropout: float = 0.05
    targets: str = TARGETS
    """Regular expression over module names."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise InputError("rank and alpha must be at least 1, and dropout in [0, 1)")


class Learner(nn.Module):
    """A model with what is trained of it; its forward pass is the loss of a batch."""

    def __init__(self, tuned: PeftModel | VisionLanguageModel) -> None:
        super().__init__()
        self.tuned = tuned

    @property
    def model(self) -> VisionLanguageModel:
        """The model inside of the adapter, if there is one."""
        return (
            cast(VisionLanguageModel, self.tuned.get_base_model()) if isinstance(self.tuned, PeftModel) else self.tuned
        )

    def forward(self, batch: Batch) -> Tensor:
        """The mean cross-entropy of all labelled tokens of the batch: float32 []."""
        model = self.model
        embeds = model.llm.embed(batch.ids)
        if batch.sizes:
            seen = model.see(batch.patches.to(model.dtype), batch.sizes).flatten(0, 1)
            embeds = embeds.index_put(tuple(batch.places), seen.to(embeds.dtype))
        states = model.llm(embeds)
        learned = batch.labels != IGNORED
        return F.cross_entropy(model.llm.logits(states[learned]), batch.labels[learned])

    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters that are trained, by the names that they have in the adapter or the checkpoint."""
        return {name: weight for name, weight in self.tuned.named_parameters() if weight.requires_grad}


def with_adapter(model: VisionLanguageModel, options: LoraOptions, *, vision: bool) -> Learner:
    """An untrained adapter on a frozen model. The token table and the resampler are trained whole, as published, and
    so is the vision tower with ``vision``. Raises InputError for targets that the model does not have."""
    copied = [name for name in (*COPIED, *(["vpm"] if vision else [])) if _has(model, name)]
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=options.targets,
        modules_to_save=copied,
        bias="none",
    )
    try:
        learner = Learner(PeftModel(model, config))
    except ValueError as error:
        raise InputError(
            f"--targets {options.targets!r} fits no linear layer of the model; see docs/tuning.md"
        ) from error
    return _in_float32(learner)


def with_all(model: VisionLanguageModel, *, vision: bool) -> Learner:
    """The language model, the resampler and, with ``vision``, the vision tower, to be trained themselves. Ears and
    voice stay as they are: the data holds no sound."""
    for name in ("llm", "resampler", *(["vpm"] if vision else [])):
        if _has(model, name):
            model.get_submodule(name).requires_grad_(True)
    for name, weight in model.named_parameters():
        weight.requires_grad_(weight.requires_grad and name != POSITIONS)
    return _in_float32(Learner(model))


def _has(model: VisionLanguageModel, name: str) -> bool:
    return any(known == name for known, _ in model.named_modules())


def _in_float32(learner: Learner) -> Learner:
    """Small steps are lost on weights of 8 bits of precision."""
    for weight in learner.trainable().values():
        weight.data = weight.data.float()
    return learner


def recompute(layers: Iterable[nn.Module]) -> None:
    """Let the layers forget what lies inside of them and compute it again in the backward pass: less memory, a third
    more time."""
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def precision(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Products in ``dtype`` where that is less than float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
