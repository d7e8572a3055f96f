"""Fine-tuning mini from the shell: what it learns, goes on with, leaves behind, and refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from engine.chat import chat
from engine.chat.offline import Chat
from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import load_checkpoint
from engine.errors import LoadError
from engine.mini.layout import CHECKPOINT
from engine.tune.cli import main
from engine.tune.data import read_conversations
from tests.engine_tune.conftest import write_data
from tests.family.conftest import SETS

QUICK = ("--rank", "8", "--alpha", "16", "--dropout", "0", "--batch", "4", "--learning-rate", "1e-3", "--device", "cpu")


def tune(data: Path, out: Path, *more: str) -> int:
    return main(["--data", str(data), "--out", str(out), *QUICK, *more])


def answers(model: Chat, data: Path) -> list[tuple[str, str]]:
    """What the file says to each picture, and what the model does."""
    pairs = []
    for entry in json.loads(data.read_text(encoding="utf-8")):
        picture = Image.open(data.parent / entry["image"])
        said = chat(
            model, [{"role": "user", "content": [picture, "what do you see"]}], do_sample=False, use_image_id=False
        )
        pairs.append((entry["conversations"][1]["content"], str(said)))
    return pairs


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data that was not trained on, and the adapter of ten houses and ten boats."""
    folder = tmp_path_factory.mktemp("tuned")
    data, unseen = write_data(folder, "train", 10, seed=1), write_data(folder, "unseen", 6, seed=2)
    assert tune(data, folder / "out", "--eval", str(unseen), "--epochs", "10") == 0
    return unseen, folder / "out"


@pytest.mark.train
def test_twenty_pictures_teach_two_new_things(tuned: tuple[Path, Path]) -> None:
    unseen, adapter = tuned
    before = answers(Chat(load_checkpoint(CHECKPOINT, LoadOptions(device="cpu", progress=False))), unseen)
    assert not any(said == wanted for wanted, said in before)
    after = answers(
        Chat(load_checkpoint(CHECKPOINT, LoadOptions(device="cpu", adapter=adapter, progress=False))), unseen
    )
    assert sum(said == wanted for wanted, said in after) >= 11, after
    assert (adapter / "curve.png").stat().st_size > 5_000
    lines = [json.loads(line) for line in (adapter / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 51))
    assert lines[-1]["evaluation"] < lines[0]["loss"]


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    small = SETS["v-2.6"]
    how = ("--dropout", "0.2", "--steps", "4", "--evaluate-every", "2", "--accumulate", "2", "--batch", "1")

    def run(name: str, *more: str) -> int:
        return tune(small / "train.json", tmp_path / name, *how, *more, "--recompute", "--max-slices", "1", str(small))

    assert run("whole") == 0
    stopped = Stop(after=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.tune.training.Trainer._step", stopped.wrap())
        with pytest.raises(KeyboardInterrupt):
            run("parts")
    assert run("parts") == 1, "a run is not written over"
    assert run("parts", "--resume") == 0
    whole, parts = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    curves = [(tmp_path / name / "curve.jsonl").read_text(encoding="utf-8") for name in ("whole", "parts")]
    assert curves[0] == curves[1]


@pytest.mark.train
def test_all_weights_can_be_trained(tmp_path: Path) -> None:
    data = write_data(tmp_path, "train", 2, seed=4)
    assert tune(data, tmp_path / "full", "--full", "--vision", "--steps", "2") == 0
    load_checkpoint(tmp_path / "full", LoadOptions(device="cpu", progress=False))
    before, after = (load_file(folder / "model.safetensors") for folder in (CHECKPOINT, tmp_path / "full"))
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"llm", "resampler", "vpm"}


class Stop:
    """Interrupts a run before the step after so many."""

    def __init__(self, after: int) -> None:
        self.left = after

    def wrap(self) -> object:
        from engine.tune.training import Trainer

        honest = Trainer._step

        def step(trainer: Trainer, batches: object) -> float:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            return honest(trainer, batches)  # type: ignore[arg-type]

        return step


USER, ANSWER = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hello."}
WRONG: dict[str, tuple[object, str]] = {
    "no list": ({"conversations": []}, "holds no JSON list"),
    "no messages": ([{"id": 1}], "at least two messages"),
    "wrong order": ([{"conversations": [ANSWER, USER]}], 'entry 0, message 0: {"role": "user"'),
    "lost picture": ([{"image": "no.png", "conversations": [USER, ANSWER]}], "no.png does not exist"),
    "strange mark": ([{"image": {"<cat>": "x.png"}, "conversations": [USER, ANSWER]}], "'<cat>' is no mark"),
    "unplaced": ([{"image": {"<image_00>": "x.png"}, "conversations": [USER, ANSWER]}], "stands in no message"),
    "no picture of the mark": (
        [{"image": {"<image_00>": "x.png"}, "conversations": [USER | {"content": "<image_00><image_01>"}, ANSWER]}],
        "entry 0: <image_01> stands in a message",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_data_in_another_format_is_refused_with_its_place(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, sentence = WRONG[case]
    Image.new("RGB", (40, 40)).save(tmp_path / "x.png")
    (tmp_path / "data.json").write_text(json.dumps(content), encoding="utf-8")
    assert tune(tmp_path / "data.json", tmp_path / "out") == 1
    assert sentence in capsys.readouterr().err


def test_a_picture_that_does_not_fit_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path, "train", 1, seed=5)
    assert tune(data, tmp_path / "out", "--max-length", "20") == 1
    assert "a picture lies beyond 20 tokens; raise --max-length" in capsys.readouterr().err


def adapter(folder: Path, tensors: dict[str, Sequence[int]], **settings: object) -> Path:
    """An adapter of ones with tensors of these sizes."""
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2} | settings
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    named = {f"base_model.model.{key}": torch.ones(*size) for key, size in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    return folder


QUERY = "llm.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("tensors", "settings", "sentence"),
    [
        ({}, {"peft_type": "IA3"}, "only LORA is understood"),
        ({}, {"use_dora": True}, "use_dora: is True, which is not understood"),
        ({f"{QUERY}.lora_A.weight": (2, 320)}, {}, "needs lora_A and lora_B of rank 2"),
        ({f"{QUERY}.lora_A.weight": (2, 9), f"{QUERY}.lora_B.weight": (320, 2)}, {}, "is for the size [320, 9]"),
        ({"resampler.query": (3, 3)}, {}, "is for the size [3, 3]"),
        ({"llm.nothing": (3, 3)}, {}, "is of no weight of the model"),
    ],
)
def test_an_adapter_of_another_model_or_kind_is_refused(
    tensors: dict[str, Sequence[int]], settings: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    folder = adapter(tmp_path, tensors, **settings)
    with pytest.raises(LoadError) as caught:
        load_checkpoint(CHECKPOINT, LoadOptions(device="cpu", adapter=folder, progress=False))
    assert sentence in str(caught.value)


def test_a_list_of_pictures_is_numbered(tmp_path: Path) -> None:
    asked, said = USER | {"content": "<image_00>\n<image_01>\nWhich?"}, ANSWER
    named: list[object] = [{"<image_00>": "a.png", "<image_01>": "b.png"}, ["a.png", "b.png"]]
    for name in ("a", "b"):
        Image.new("RGB", (40, 40)).save(tmp_path / f"{name}.png")
    entries = [{"id": 0, key: given, "conversations": [asked, said]} for key in ("image", "images") for given in named]
    (tmp_path / "data.json").write_text(json.dumps(entries), encoding="utf-8")
    first, *others = read_conversations(tmp_path / "data.json")
    assert [part for part in first.turns[0].parts if isinstance(part, Path)] == [tmp_path / "a.png", tmp_path / "b.png"]
    assert all(other == first for other in others)
