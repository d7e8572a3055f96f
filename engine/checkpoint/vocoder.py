"""The vocoder's file, which is not among the model's weights: ``assets/Vocos.pt`` or ``vocos.safetensors``."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoint.pickles import read_pickle
from engine.checkpoint.weights import AGAIN, Shard, assign, check_tensors, read_header, read_tensors
from engine.config import CONFIG_FILE, OmniConfig
from engine.errors import CheckpointError
from engine.model.vocos import Vocos

VOCOS_FILES = ("assets/Vocos.pt", "assets/vocos.safetensors", "vocos.safetensors", "Vocos.pt")


def vocoder_file(directory: Path) -> Path:
    """Where it is. Raises CheckpointError."""
    for name in VOCOS_FILES:
        if (directory / name).is_file():
            return directory / name
    problem = "is missing, and so is vocos.safetensors"
    raise CheckpointError(directory / VOCOS_FILES[0], problem, "download the vocoder with the checkpoint")


def load_vocoder(path: Path, config: OmniConfig, device: torch.device) -> Vocos:
    """The vocoder in float32, frozen. What it needs for encoding, and its window (a constant), is left out. Raises
    CheckpointError."""
    with torch.device("meta"):
        vocos = Vocos(config.vocos)
    expected = {key: parameter.shape for key, parameter in vocos.named_parameters()}
    if path.suffix == ".safetensors":
        shards = [Shard(path, read_header(path))]
        check_tensors(shards, expected, ignored=_not_vocoding, source=path)
        place = (device, torch.float32)
        read_tensors(shards, lambda key: place if key in expected else None, lambda k, t: assign(vocos, k, t))
    else:
        for key, tensor in _checked_pickle(path, expected).items():
            assign(vocos, key, tensor.to(device, torch.float32, copy=True))
    return vocos.requires_grad_(False).eval()


def _not_vocoding(key: str) -> bool:
    return key.startswith(("feature_extractor.", "head.istft."))


def _checked_pickle(path: Path, expected: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Tensors of a torch file, read without running anything in it. Raises CheckpointError."""
    held = read_pickle(path, "download the official Vocos.pt again")
    state: dict[str, Tensor] = {key: tensor for key, tensor in held.items() if not _not_vocoding(key)}
    remedy = f"use Vocos.pt and {CONFIG_FILE} of the same checkpoint"
    for key in [*state, *expected]:
        if key not in expected or key not in state:
            problem = "is missing" if key in expected else "is unexpected: the vocoder has no such tensor"
            raise CheckpointError(path, problem, remedy, key=key)
        if state[key].shape != expected[key] or not state[key].is_floating_point():
            stored = f"{list(state[key].shape)} of {str(state[key].dtype).removeprefix('torch.')}"
            problem = f"has the size {stored} where {list(expected[key])} of floating-point numbers is needed"
            raise CheckpointError(path, problem, remedy, key=key)
        if not state[key].isfinite().all():
            raise CheckpointError(path, "holds numbers that are infinite or none at all", AGAIN, key=key)
    return state
