"""One stream on the golden model, and the pieces of small conversations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import LoadedModel, load_checkpoint
from engine.conversation.message import Fed
from engine.conversation.session import SessionState
from engine.conversation.speech import TextItem
from engine.conversation.streaming import StreamingModel
from engine.conversation.work import Step, Work
from engine.processing.prompts import UNIT, Message, Part, get_sys_prompt

PUBLIC = Path(__file__).parent.parent / "goldens" / "o26-public"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def loaded() -> LoadedModel:
    return load_checkpoint(PUBLIC, LoadOptions(device="cpu", dtype="float32", progress=False))


@pytest.fixture
def stream(loaded: LoadedModel) -> StreamingModel:
    return StreamingModel(loaded, sessions=8)


def sound(seed: int, samples: int = 4_000) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A quarter of a second of coloured noise."""
    noise = np.random.default_rng(seed).normal(0, 0.1, samples)
    return np.convolve(noise, np.ones(8) / 8, "same").astype(np.float32)


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return Image.fromarray(pixels).resize((64, 48))


def unit(seed: int) -> Message:
    """A message of one of four kinds: picture and sound, sound, text, short sound."""
    kinds: list[list[Part]] = [
        [UNIT, picture(seed), sound(seed)],
        [sound(seed)],
        [f"word {seed}"],
        [UNIT, sound(seed, 1_700)],
    ]
    return Message("user", kinds[seed % 4])


def begin(stream: StreamingModel, seed: int = 0) -> SessionState:
    """A session that was given its system prompt, with a voice."""
    state = stream.open(seed)
    feed(stream, state, get_sys_prompt(sound(99, 8_000), "omni", "en"))
    return state


def feed(stream: StreamingModel, state: SessionState, message: Message) -> Fed:
    out: Fed = list(stream.executor.drive(stream.prefill(state, message)))[-1]
    return out


def logits(stream: StreamingModel, fed: Fed) -> Tensor:
    with torch.inference_mode():
        return stream.model.llm.logits(fed.states)


def run_together(stream: StreamingModel, tasks: Sequence[Any]) -> list[list[Any]]:
    """The outputs of several tasks whose work is carried out in common batches, as a scheduler would."""
    outputs: list[list[Any]] = [[] for _ in tasks]
    waiting: dict[int, Work] = {}

    def advance(index: int, result: Any) -> None:
        try:
            item = tasks[index].send(result)
            while not isinstance(item, Work):
                outputs[index].append(item)
                item = tasks[index].send(None)
            waiting[index] = item
        except StopIteration:
            pass

    for index in range(len(tasks)):
        advance(index, None)
    while waiting:
        batch, works = list(waiting), list(waiting.values())
        waiting.clear()
        for index, result in zip(batch, stream.executor.run(works), strict=True):
            advance(index, result)
    return outputs


class Script:
    """Text given in advance, the first piece with the speaker."""

    def __init__(self, pieces: Sequence[str], speaker: Tensor) -> None:
        self.items = [TextItem(text, None if index else speaker, index + 1) for index, text in enumerate(pieces)]

    def next(self, most: int | None = None) -> Step[TextItem | None]:
        yield from ()
        return self.items.pop(0) if self.items else None


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """The golden sets' tolerance for hidden states and logits."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
