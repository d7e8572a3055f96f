"""Fine-tuning of the MiniCPM-V models against the published code: tokens, labels, losses, gradients, one step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from engine.checkpoint.loader import LoadedVisionLanguage, load_model
from engine.tune.cli import main
from engine.tune.data import Conversations, collate
from engine.tune.learner import Learner, with_all

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
SETS = ("v26-public", "llama3v25-public", "v20-public")
KEPT = "base_model.model."


class Golden:
    """One set: a model, its training data, and what the published code made of them."""

    def __init__(self, name: str) -> None:
        self.folder = GOLDENS / name
        self.train: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))["train"]
        self.tensors = load_file(self.folder / "expected.safetensors")

    def model(self) -> LoadedVisionLanguage:
        return load_model(self.folder, device="cpu", dtype="float32", progress=False)

    def data(self, model: LoadedVisionLanguage) -> Conversations:
        return Conversations(self.folder / "train.json", model)

    def check_gradients(self, learner: Learner, case: str) -> None:
        """Every norm that the set holds, and every gradient, of which it may keep each n-th row."""
        found = {name: weight for name, weight in learner.tuned.named_parameters() if weight.requires_grad}
        norms = self.train[case]["grad_norms"]
        assert norms.keys() <= found.keys()
        for name, weight in found.items():
            norm = 0.0 if weight.grad is None else float(weight.grad.norm())
            assert norm == pytest.approx(norms.get(name, 0.0), rel=1e-3, abs=1e-6), name
        kept = {key: grad for key, grad in self.tensors.items() if key.startswith(f"train.{case}.grad.")}
        assert kept
        for key, expected in kept.items():
            grad = found[key.removeprefix(f"train.{case}.grad.")].grad
            assert grad is not None
            step = -(-grad.shape[0] // expected.shape[0])
            atol = 1e-3 * float(expected.abs().max())
            torch.testing.assert_close(grad[::step], expected, rtol=1e-3, atol=atol)


@pytest.fixture(scope="module", params=SETS)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


def test_the_published_samples_have_the_published_tokens_and_labels(golden: Golden) -> None:
    model = golden.model()
    data = golden.data(model)
    for index in range(len(data)):
        sample = data[index]
        assert sample.row.ids.tolist() == golden.tensors[f"train.sample{index}.input_ids"].flatten().tolist()
        assert sample.labels.tolist() == golden.tensors[f"train.sample{index}.labels"].flatten().tolist()
        assert sample.row.image_bounds.tolist() == golden.train[f"sample{index}"]["image_bound"]


def test_all_weights_get_the_published_loss_and_gradients(golden: Golden) -> None:
    model = golden.model()
    data = golden.data(model)
    case = golden.train["full"]
    learner = with_all(model.model, vision=True)
    for index, expected in enumerate(case["single_losses"]):
        assert loss_of(learner, data, [index]) == pytest.approx(expected, abs=1e-4)
    loss = learner(collate([data[index] for index in case["batch"]]))
    assert loss.item() == pytest.approx(case["loss"], abs=1e-4)
    loss.backward()
    golden.check_gradients(learner, "full")


def test_an_adapter_gets_the_published_loss_gradients_and_step(golden: Golden) -> None:
    model = golden.model()
    data = golden.data(model)
    case = golden.train["lora"]
    learner = Learner(PeftModel.from_pretrained(model.model, str(golden.folder / "adapter"), is_trainable=True))
    learner.eval()
    trained = learner.trainable()
    assert sorted(trained) == sorted(name for name in case["trainable_names"])
    assert sum(weight.numel() for weight in trained.values()) == case["trainable"]
    batch = collate([data[index] for index in case["batch"]])
    loss = learner(batch)
    assert loss.item() == pytest.approx(case["loss"], abs=1e-4)
    loss.backward()
    golden.check_gradients(learner, "lora")
    settings = case["optimizer"]
    optimizer = torch.optim.AdamW(
        trained.values(), settings["lr"], tuple(settings["betas"]), settings["eps"], settings["weight_decay"]
    )
    optimizer.step()
    with torch.no_grad():
        assert float(learner(batch)) == pytest.approx(case["loss_after_one_adamw_step"], abs=1e-4)


def test_a_loaded_adapter_is_the_adapter(golden: Golden) -> None:
    """Put into the weights while they are loaded, it gives the loss that it gives beside them."""
    model = load_model(golden.folder, device="cpu", dtype="float32", adapter=golden.folder / "adapter", progress=False)
    data = golden.data(model)
    assert loss_of(Learner(model.model), data, golden.train["lora"]["batch"]) == pytest.approx(
        golden.train["lora"]["loss"], abs=1e-4
    )


@torch.no_grad()
def loss_of(learner: Learner, data: Conversations, samples: list[int]) -> float:
    loss: Tensor = learner(collate([data[index] for index in samples]))
    return float(loss)


def test_a_merged_checkpoint_has_the_adapter_in_it(golden: Golden, tmp_path: Path) -> None:
    assert main([str(golden.folder), "--merge", str(golden.folder / "adapter"), "--out", str(tmp_path / "merged")]) == 0
    merged = load_model(tmp_path / "merged", device="cpu", dtype="float32", progress=False)
    loss = loss_of(Learner(merged.model), golden.data(merged), golden.train["lora"]["batch"])
    assert loss == pytest.approx(golden.train["lora"]["loss"], abs=2e-3), "but for rounding to the stored bfloat16"
