"""The public golden set, and the model that it was made with."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import LoadedModel, load_checkpoint
from engine.config import OmniConfig

GOLDENS = Path(__file__).parent.parent / "goldens"
PUBLIC = GOLDENS / "o26-public"

torch.set_num_threads(1)  # the goldens were made so, and threads gain nothing at their size


class GoldenSet:
    """Inputs and expected outputs, read when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = OmniConfig.from_dir(folder)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        out: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text())
        return out

    @cached_property
    def expected(self) -> dict[str, Tensor]:
        out: dict[str, Tensor] = load_file(self.folder / "expected.safetensors")
        return out

    @cached_property
    def sounds(self) -> dict[str, Tensor]:
        out: dict[str, Tensor] = load_file(self.folder / "inputs.safetensors")
        return out

    def image(self, name: str) -> Image.Image:
        return Image.open(self.folder / "images" / f"{name}.png")


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """The golden sets' tolerance for hidden states and logits."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="session")
def golden() -> GoldenSet:
    return GoldenSet(PUBLIC)


@pytest.fixture(scope="session")
def tables() -> dict[str, Any]:
    out: dict[str, Any] = json.loads((GOLDENS / "tables.json").read_text())
    return out


@pytest.fixture(scope="session")
def loaded() -> LoadedModel:
    return load_checkpoint(PUBLIC, LoadOptions(device="cpu", dtype="float32", progress=False))
