"""Stages ``train.*``: fine-tuning on the set's samples. Tokens, labels, losses, gradients, one step of an adapter."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import LoadedVisionLanguage, load_model
from engine.parity.goldens import GoldenSet
from engine.parity.ledger import STATES, StageRow, Tolerance
from engine.parity.sampled import PART, kept_same, sampled
from engine.tune.data import Conversations, collate
from engine.tune.learner import Learner, with_all

LOSS = Tolerance("1e-4", 1e-4)
NORM = Tolerance("1e-3|x|", 1e-6, 1e-3)


def cases(goldens: GoldenSet) -> Iterator[tuple[str, Callable[[StageRow], None]]]:
    """Every stage of the set, by name."""
    section = goldens.manifest.get("train", {})
    for name in section:
        if name.startswith("sample"):
            yield f"train.{name}", partial(compare_sample, goldens, int(name.removeprefix("sample")))
    if "full" in section:
        yield "train.full", partial(compare_full, goldens)
    if "lora" in section:
        yield "train.lora", partial(compare_adapter, goldens)


def compare_sample(goldens: GoldenSet, index: int, row: StageRow) -> None:
    """What the published data code makes of one conversation."""
    key, case = f"train.sample{index}", goldens.section("train")[f"sample{index}"]
    sample = _data(goldens, _model(goldens))[index]
    kept_same(goldens, row, f"{key}.input_ids", sample.row.ids[None])
    kept_same(goldens, row, f"{key}.labels", sample.labels[None])
    row.same(f"{key}.image_bound", sample.row.image_bounds, case["image_bound"])
    row.same(f"{key}.n_slices", sum(len(image.sizes) for image in sample.images), case["n_slices"])


def compare_full(goldens: GoldenSet, row: StageRow) -> None:
    """One pass forward and backward with all weights."""
    model = _model(goldens)
    data, case = _data(goldens, model), goldens.section("train")["full"]
    learner = with_all(model.model, vision=True)
    for index, expected in enumerate(case["single_losses"]):
        with torch.no_grad():
            _close(row, f"train.full.single_losses.{index}", learner(collate([data[index]])).item(), expected, LOSS)
    _compare_gradients(goldens, learner, data, "full", row)


def compare_adapter(goldens: GoldenSet, row: StageRow) -> None:
    """The same with an adapter, and its loss after one step."""
    if find_spec("peft") is None:
        row.problems.append("peft is not installed; pip install -r engine/requirements-tune.txt")
        return
    from engine.tune.lora import with_stored_adapter

    model = _model(goldens)
    data, case = _data(goldens, model), goldens.section("train")["lora"]
    learner = with_stored_adapter(model.model, goldens.folder / "adapter").eval()
    weights = learner.trainable()
    row.same("train.lora.trainable_names", sorted(weights), sorted(case["trainable_names"]))
    row.same("train.lora.trainable", sum(weight.numel() for weight in weights.values()), case["trainable"])
    _compare_gradients(goldens, learner, data, "lora", row)
    settings: dict[str, Any] = case["optimizer"]
    torch.optim.AdamW(
        weights.values(), settings["lr"], tuple(settings["betas"]), settings["eps"], settings["weight_decay"]
    ).step()
    with torch.no_grad():
        loss = learner(collate([data[index] for index in case["batch"]])).item()
    _close(row, "train.lora.loss_after_one_adamw_step", loss, case["loss_after_one_adamw_step"], LOSS)


def _compare_gradients(goldens: GoldenSet, learner: Learner, data: Conversations, name: str, row: StageRow) -> None:
    """The loss of the case's batch, the norm of every gradient, and those gradients that the set keeps."""
    case, key = goldens.section("train")[name], f"train.{name}"
    loss = learner(collate([data[index] for index in case["batch"]]))
    _close(row, f"{key}.loss", loss.item(), case["loss"], LOSS)
    loss.backward()
    found = learner.trainable()
    row.same(f"{key}.grad_norms", sorted(found), sorted({*case["grad_norms"], *case["no_grad"]} & found.keys()))
    for weight, norm in case["grad_norms"].items():
        gradient = found[weight].grad
        _close(row, f"{key}.grad_norms.{weight}", 0.0 if gradient is None else gradient.norm().item(), norm, NORM)
    for weight, parameter in found.items():
        if parameter.grad is None:
            continue
        for kept, _ in goldens.keys(re.escape(f"{key}.grad.{weight}") + PART):
            expected = goldens.take(kept)
            largest = Tolerance("1e-3 max + 1e-3|x|", 1e-3 * expected.abs().max().item(), 1e-3)
            row.close(kept, sampled(parameter.grad, expected), expected, largest)


def _model(goldens: GoldenSet) -> LoadedVisionLanguage:
    """A model of its own for each stage, since training changes it."""
    return load_model(goldens.folder, LoadOptions(device="cpu", dtype="float32", progress=False))


def _data(goldens: GoldenSet, model: LoadedVisionLanguage) -> Conversations:
    return Conversations(goldens.folder / "train.json", model)


def _close(row: StageRow, key: str, actual: float, expected: float, tolerance: Tolerance = STATES) -> None:
    row.close(key, torch.tensor([actual]), torch.tensor([expected]), tolerance)
