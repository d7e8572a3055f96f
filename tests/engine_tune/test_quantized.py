"""Adapters on weights of four bits, and what a device does to weights that are not trained."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.checkpoint import loader
from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import load_model
from engine.model.vision_language import VisionLanguageModel
from engine.tune.cli import main
from engine.tune.data import Conversations, collate
from engine.tune.learner import Learner
from engine.tune.lora import LoraOptions, with_adapter
from engine.tune.output import save
from engine.tune.training import Trainer, TrainingOptions
from tests.family.conftest import SETS

SET = SETS["v-2.6"]
DATA = SET / "train.json"


def command(out: Path, *more: str) -> int:
    return main([str(SET), "--data", str(DATA), "--out", str(out), "--device", "cpu", "--steps", "1", *more])


@torch.no_grad()
def loss_of(learner: Learner, data: Conversations) -> float:
    loss: float = learner.eval()(collate([data[index] for index in range(len(data))])).item()
    return loss


def test_an_adapter_is_trained_on_four_bits_and_fits_the_whole_weights(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="optional: pip install bitsandbytes")
    loaded = load_model(SET, LoadOptions("cpu", "float32", "nf4", for_training=True, progress=False))
    data = Conversations(DATA, loaded)
    learner = with_adapter(loaded.model, LoraOptions(8, 16, 0.0), vision=False)
    trained = learner.trainable().keys()
    frozen = {name: weight.clone() for name, weight in learner.tuned.named_parameters() if name not in trained}
    assert frozen["base_model.model.llm.model.layers.0.mlp.up_proj.weight"].dtype == torch.uint8
    before = loss_of(learner, data)
    Trainer(learner, data, TrainingOptions(steps=8, batch=2, learning_rate=3e-3), tmp_path).run(show=False)
    assert loss_of(learner, data) < 0.8 * before
    after = dict(learner.tuned.named_parameters())
    assert all(torch.equal(after[name], weight) for name, weight in frozen.items())
    save(learner, SET, tmp_path)
    whole = load_model(SET, LoadOptions("cpu", "float32", adapter=tmp_path, progress=False))
    assert loss_of(Learner(whole.model), data) < 0.8 * before


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--quantize", "nf4"), "install it with `pip install bitsandbytes`"),
        (("--quantize", "nf4", "--full"), "is for an adapter; leave out --full"),
        (("--quantize", "int8"), "needs a card"),
    ],
)
def test_what_cannot_be_quantised_is_refused(
    more: tuple[str, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    assert command(tmp_path / "out", *more) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_products_are_not_joined_past_an_adapter(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a card they are, for calls; an adapter on one of them would not be asked."""

    def join(model: VisionLanguageModel) -> None:
        model.llm.model.join()

    monkeypatch.setattr(loader, "store_for_steps", join)
    assert command(tmp_path / "out", "--rank", "4", "--learning-rate", "1e-2", "--dtype", dtype) == 0
    adapter = load_file(tmp_path / "out" / "adapter_model.safetensors")
    learned = {key.split(".")[-3] for key, weight in adapter.items() if ".lora_B." in key and weight.any()}
    assert learned == {"q_proj", "k_proj", "v_proj", "o_proj"}
