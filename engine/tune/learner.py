"""What is trained, and the loss of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from engine.model.vision_language import VisionLanguageModel
from engine.tune.data import Batch
from engine.tune.markup import IGNORED

POSITIONS = "resampler.pos_embed"
"""Sines that MiniCPM-V 2.0 keeps among its weights. As published they are trained in an adapter's copy only."""


class Learner(nn.Module):
    """A model with what is trained of it; its forward pass is the loss of a batch."""

    def __init__(self, tuned: nn.Module) -> None:
        """``tuned`` is a :class:`VisionLanguageModel`, or one inside of peft's adapter."""
        super().__init__()
        self.tuned = tuned

    @property
    def model(self) -> VisionLanguageModel:
        """The model inside of the adapter, if there is one."""
        bare = self.tuned.get_base_model() if self.is_adapter else self.tuned  # type: ignore[operator]
        return cast(VisionLanguageModel, bare)

    @property
    def is_adapter(self) -> bool:
        return hasattr(self.tuned, "get_base_model")

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


def with_all(model: VisionLanguageModel, *, vision: bool) -> Learner:
    """The language model, the resampler and, with ``vision``, the vision tower, to be trained themselves. Ears and
    voice stay as they are: the data holds no sound."""
    for name in ("llm", "resampler", *(["vpm"] if vision else [])):
        if has(model, name):
            model.get_submodule(name).requires_grad_(True)
    for name, weight in model.named_parameters():
        weight.requires_grad_(weight.requires_grad and name != POSITIONS)
    return in_float32(Learner(model))


def has(model: VisionLanguageModel, name: str) -> bool:
    """Whether a model has a part, such as eyes."""
    return any(known == name for known, _ in model.named_modules())


def in_float32(learner: Learner) -> Learner:
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
