"""The comparison reads the order of steps and their inputs from the set, whatever they are.

A conversation unlike the public one is played, what it gave is written as a set, and the comparison must find its way
through it again with nothing but the set.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from engine.checkpoint.loader import LoadedModel
from engine.conversation.session import SessionState
from engine.conversation.streaming import StreamingModel
from engine.conversation.work import Hear
from engine.parity.__main__ import compare_set
from engine.parity.goldens import FILES, GoldenSet
from engine.parity.probe import Probe, greedy_options
from engine.processing.prompts import Message, get_sys_prompt
from tests.engine_stream.conftest import sound

SOUNDS = {"one": 16_000, "two": 16_000, "three": 7_777, "voice": 25_600, "long": 48_000}


class Player:
    """Plays steps and writes down what a set would hold of them."""

    def __init__(self, stream: StreamingModel, folder: Path) -> None:
        self.stream, self.folder = stream, folder
        self.tensors: dict[str, Tensor] = {}
        self.manifest: dict[str, Any] = {"llm_cache_len_after": {}, "apm_cache_len_after": {}}
        samples = {name: (sound(i, n) * 32768).astype(np.int16) for i, (name, n) in enumerate(SOUNDS.items())}
        self.sounds = {name: (values / 32768).astype(np.float32) for name, values in samples.items()}
        pixels = np.random.default_rng(0).integers(0, 255, (2, 5, 7, 3), np.uint8)
        sizes = {"wide": (700, 300), "small": (90, 60)}
        self.pictures = {name: Image.fromarray(pixels[i]).resize(size) for i, (name, size) in enumerate(sizes.items())}
        (folder / "images").mkdir()
        for name, image in self.pictures.items():
            image.save(folder / "images" / f"{name}.png")
        for name in FILES:
            (folder / name).write_text("{}")
        save_file({name: torch.from_numpy(values) for name, values in samples.items()}, folder / "inputs.safetensors")

    def feed(self, state: SessionState, name: str, message: Message, slices: int = 1) -> None:
        key, stream = f"stream.{name}", self.stream
        prepared = stream.prepare(state, message, max_slices=slices)
        run = Probe(stream).run(stream.feed(state, prepared))
        fed = run.outputs[0]
        self.tensors[f"{key}.input_ids"] = torch.tensor(prepared.row.ids)[None]
        self.tensors[f"{key}.merged_embeds"] = fed.embeds
        with torch.inference_mode():
            self.tensors[f"{key}.logits_last"] = stream.model.llm.logits(fed.states[-1])
        if prepared.images:
            sizes = [size for image in prepared.images for size in image.sizes]
            self.tensors[f"{key}.tgt_sizes"] = torch.tensor(sizes)
            self.tensors[f"{key}.image_bound"] = torch.tensor(prepared.row.image_bounds)
        for heard in run.of(Hear):
            self.tensors[f"{key}.mel"] = heard.work.mel[None]
            self.tensors[f"{key}.audio_bounds"] = torch.tensor(prepared.row.audio_bounds)
            self.tensors[f"{key}.apm_last_hidden"] = heard.outputs["ears"][0][0]
            self.tensors[f"{key}.audio_projection"] = heard.outputs["audio_projection"][0][0]
            self.manifest["apm_cache_len_after"][key] = heard.count
        self.manifest["llm_cache_len_after"][key] = state.length

    def answer(self, state: SessionState, name: str, tokens: int) -> None:
        stream, key = self.stream, f"stream.{name}"
        text = stream.exact_text(state, greedy_options(stream, tokens))
        texts = []
        task = text.next()
        while True:
            try:
                work = next(task)
                task.send(stream.executor.run([work])[0])
            except StopIteration as end:
                if end.value is None:
                    break
                texts.append(end.value.text)
                task = text.next()
        self.manifest[key] = {
            "llm_chunk_ids": [list(chunk) for chunk in text.chunks],
            "texts": texts,
            "completed": state.book.completed,
            "llm_cache_len_after": state.length,
        }

    def write(self) -> GoldenSet:
        tensors = {key: tensor.contiguous().clone() for key, tensor in self.tensors.items()}
        save_file(tensors, self.folder / "expected.safetensors")
        (self.folder / "manifest.json").write_text(json.dumps(self.manifest))
        return GoldenSet(self.folder)


@pytest.fixture
def player(stream: StreamingModel, tmp_path: Path) -> Player:
    """Three sessions: Chinese with a voice and a cut picture; written only, begun by a user; role play."""
    play = Player(stream, tmp_path)
    sounds, pictures = play.sounds, play.pictures
    first = stream.open()
    play.feed(first, "sys", get_sys_prompt(sounds["voice"], "audio_assistant", "zh"))
    play.feed(first, "look", Message("user", ["<unit>", pictures["wide"], sounds["two"]]), slices=4)
    play.answer(first, "gen1", 4)
    play.feed(first, "more", Message("user", [sounds["long"]]))
    play.feed(first, "note", Message("user", ["see ", pictures["small"], " and 3, ok?"]))
    play.answer(first, "gen2", 30)
    second = stream.open()
    play.feed(second, "hello", Message("user", ["hello you"]))
    play.feed(second, "again", Message("user", [sounds["one"]]))
    play.answer(second, "gen3", 7)
    play.answer(second, "gen4", 3)
    third = stream.open()
    play.feed(third, "thirdsys", get_sys_prompt(sounds["voice"], "audio_roleplay", "en"))
    play.feed(third, "last", Message("user", [sounds["three"]]))
    play.answer(third, "gen5", 3)
    for state in (first, second, third):
        stream.pool.drop(state)
    return play


def test_the_steps_are_found(player: Player, loaded: LoadedModel) -> None:
    (row,) = compare_set(player.write(), StreamingModel(loaded), "stream")
    assert row.problems == []
    assert row.share < 0.5


@pytest.mark.parametrize(
    ("key", "words"),
    [("stream.again.audio_projection", "times what is tolerated"), ("stream.note.merged_embeds", "times")],
)
def test_a_step_that_differs_is_told(player: Player, loaded: LoadedModel, key: str, words: str) -> None:
    player.tensors[key] = player.tensors[key].clone() + 2e-3
    (row,) = compare_set(player.write(), StreamingModel(loaded), "stream")
    assert any(key in problem and words in problem for problem in row.problems)


def test_a_system_prompt_that_nobody_knows_is_told(player: Player, loaded: LoadedModel) -> None:
    name = "stream.thirdsys"
    ids = player.tensors[f"{name}.input_ids"].clone()
    letter = loaded.tokenizer.encode("x")[0]
    ids[0, -8] = letter
    player.tensors[f"{name}.input_ids"] = ids
    (row,) = compare_set(player.write(), StreamingModel(loaded), "stream")
    assert any("system prompt of get_sys_prompt" in problem for problem in row.problems)
