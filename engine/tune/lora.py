"""Adapters (LoRA, arXiv 2106.09685) on a model, through peft."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig, PeftModel

from engine.errors import InputError
from engine.model.vision_language import VisionLanguageModel
from engine.tune.learner import Learner, has, in_float32

TARGETS = r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"
"""Linear layers that get an adapter: those of the published script."""
COPIED = ("llm.model.embed_tokens", "resampler")
"""Modules that an adapter holds whole."""


@dataclass(frozen=True, slots=True)
class LoraOptions:
    """A new adapter; the defaults are the published ones."""

    rank: int = 64
    alpha: int = 64
    dropout: float = 0.05
    targets: str = TARGETS
    """Regular expression over module names."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise InputError("rank and alpha must be at least 1, and dropout in [0, 1)")


def with_adapter(model: VisionLanguageModel, options: LoraOptions, *, vision: bool) -> Learner:
    """An untrained adapter on a frozen model. The token table and the resampler are trained whole, as published, and
    so is the vision tower with ``vision``. Raises InputError for targets that the model does not have."""
    copied = [name for name in (*COPIED, *(["vpm"] if vision else [])) if has(model, name)]
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
    return in_float32(learner)


def with_stored_adapter(model: VisionLanguageModel, folder: Path) -> Learner:
    """An adapter that was trained before, to go on with, on its model."""
    return in_float32(Learner(PeftModel.from_pretrained(model, str(folder), is_trainable=True)))
