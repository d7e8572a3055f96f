"""The public golden sets of the MiniCPM-V models, and the models that they were made with."""

from __future__ import annotations

import json
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import LoadedVisionLanguage, load_model
from engine.config_language import Generation

GOLDENS = Path(__file__).parent.parent / "goldens"
SETS: dict[Generation, Path] = {
    "v-2.6": GOLDENS / "v26-public",
    "v-2.5": GOLDENS / "llama3v25-public",
    "v-2.0": GOLDENS / "v20-public",
}
GENERATIONS: list[Generation] = list(SETS)

torch.set_num_threads(1)  # the goldens were made so, and threads gain nothing at their size


@lru_cache
def loaded_model(generation: Generation) -> LoadedVisionLanguage:
    """The golden set's model."""
    return load_model(SETS[generation], LoadOptions(device="cpu", dtype="float32", progress=False))


@lru_cache
def manifest(generation: Generation) -> dict[str, Any]:
    out: dict[str, Any] = json.loads((SETS[generation] / "manifest.json").read_text(encoding="utf-8"))
    return out


@lru_cache
def expected(generation: Generation) -> dict[str, Tensor]:
    out: dict[str, Tensor] = load_file(SETS[generation] / "expected.safetensors")
    return out


def copy_set(generation: Generation, target: Path) -> Path:
    """A golden set that may be written to."""
    shutil.copytree(SETS[generation], target)
    for path in [target, *target.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


@pytest.fixture(params=GENERATIONS)
def generation(request: pytest.FixtureRequest) -> Generation:
    out: Generation = request.param
    return out
