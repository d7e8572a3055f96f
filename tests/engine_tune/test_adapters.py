"""Adapters of the MiniCPM-V models' golden sets: loaded into the weights, and merged into a checkpoint.

What they are when they are trained is compared by ``engine.parity`` (tests/family/test_family_parity.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import LoadedVisionLanguage, load_model
from engine.config_language import Generation
from engine.tune.cli import main
from engine.tune.data import Conversations, collate
from engine.tune.learner import Learner
from tests.family.conftest import GENERATIONS, SETS, manifest

pytestmark = pytest.mark.parametrize("generation", GENERATIONS)


@torch.no_grad()
def loss_of(loaded: LoadedVisionLanguage, generation: Generation) -> float:
    """Of the batch that the published adapter's loss is known of."""
    data = Conversations(SETS[generation] / "train.json", loaded)
    batch = collate([data[index] for index in manifest(generation)["train"]["lora"]["batch"]])
    loss: float = Learner(loaded.model)(batch).item()
    return loss


def test_a_loaded_adapter_is_the_adapter(generation: Generation) -> None:
    adapter = SETS[generation] / "adapter"
    loaded = load_model(SETS[generation], LoadOptions(device="cpu", dtype="float32", adapter=adapter, progress=False))
    assert loss_of(loaded, generation) == pytest.approx(manifest(generation)["train"]["lora"]["loss"], abs=1e-4)


def test_a_merged_checkpoint_has_the_adapter_in_it(generation: Generation, tmp_path: Path) -> None:
    folder, merged = SETS[generation], tmp_path / "merged"
    assert main([str(folder), "--merge", str(folder / "adapter"), "--out", str(merged)]) == 0
    loaded = load_model(merged, LoadOptions(device="cpu", dtype="float32", progress=False))
    rounded = pytest.approx(manifest(generation)["train"]["lora"]["loss"], abs=2e-3)  # to the stored bfloat16
    assert loss_of(loaded, generation) == rounded
