"""Stage *hearing*: the audio encoder learns phones from many voices (CTC beside the cross-entropy of every frame)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.config import OmniConfig
from engine.mini.sound.hearing import PhoneHeads, WarpedMel, edit_distance, encode_units, greedy_phones
from engine.mini.sound.hearing_data import FAMILIES, collate, sample
from engine.mini.sound.voices import Voices
from engine.mini.stages.training import Budget, Losses, train
from engine.model.audio import AudioEncoder

VALIDATION = {"espeak": 60, "an4": 70, "fsdd": 40}
"""Utterances of each validation family: voices that are never trained on."""


class HearingStage(nn.Module):
    """The encoder under its official name, and its training heads."""

    def __init__(self, config: OmniConfig) -> None:
        super().__init__()
        self.apm = AudioEncoder(config.audio)
        self.heads = PhoneHeads(config.audio.d_model)


def hearing_batch(
    voices: Voices,
    seed: int,
    size: int,
    strength: float,
    *,
    ramp: int = 0,
    texts: bool = False,
    families: dict[str, float] = FAMILIES,
) -> Callable[[int], Any]:
    """Batches by step: utterances of like length, harder ones until ``ramp`` steps are done. With ``texts``
    the utterances come along."""

    def make(step: int) -> Any:
        # Eight neighbouring steps share one draw, sorted by length, so that little padding is computed.
        group, part = divmod(step, 8)
        rng = np.random.default_rng((seed, group))
        now = strength * (min(1.0, 0.15 + group * 8 / ramp) if ramp else 1.0)
        if cache.get("group") != group:
            items = sorted((sample(voices, rng, now, families) for _ in range(8 * size)), key=lambda h: len(h.samples))
            order = rng.permutation(8)
            cache.update(group=group, parts=[items[i * size : (i + 1) * size] for i in order])
        made = collate(cache["parts"][part], np.random.default_rng((seed, group, part)), now)
        return (*made, cache["parts"][part]) if texts else made

    cache: dict[str, Any] = {}
    return make


def phone_error_rates(model: HearingStage, mel: WarpedMel, voices: Voices) -> dict[str, float]:
    """Phone error rate (edits per phone) of each validation family, on clean speech."""
    rates = {}
    for family, count in VALIDATION.items():
        if not voices.has(family):
            continue
        rng = np.random.default_rng(5)
        edits = total = 0
        for start in range(0, count, 10):
            items = [sample(voices, rng, 0.0, {family: 1.0}) for _ in range(min(10, count - start))]
            batch, phones, _ = collate(items, rng, 0.0)
            log = model.heads.ctc(encode_units(model.apm, mel, batch)).log_softmax(-1)
            for row, frames, target in zip(log, batch.frames, phones, strict=True):
                edits += edit_distance(greedy_phones(row, frames), target)
                total += len(target)
        rates[f"per_{family}"] = edits / total
    return rates


def train_hearing(
    config: OmniConfig, folder: Path, people: Path, budget: Budget, *, seed: int = 1, size: int = 16, workers: int = 0,
    until: int | None = None, device: str = "cpu",
) -> HearingStage:  # fmt: skip
    """Runs or resumes the stage; ``people`` is the folder of recordings."""
    torch.manual_seed(seed)
    model, mel = HearingStage(config).to(device), WarpedMel(config.mel).to(device)
    voices, judges = Voices(folder, people), Voices(folder, people, validation=True)
    bands = torch.Generator().manual_seed(seed)

    def loss(made: Any, progress: float) -> Losses:
        batch, phones, labels = made
        hidden = encode_units(model.apm, mel, batch, mask_bands=bands if progress > 0.15 else None)
        ctc, frame = model.heads.loss(hidden, batch.frames, phones, labels)
        return {"loss": ctc + frame, "ctc": ctc, "frame": frame}

    make = hearing_batch(voices, seed, size, 0.75, ramp=max(1, budget.steps // 3))
    train("hearing", folder, model, make, loss, budget, workers=workers, until=until,
          evaluate=lambda: phone_error_rates(model, mel, judges))  # fmt: skip
    return model
