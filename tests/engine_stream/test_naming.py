"""A model without eyes that is told in words what a picture shows: the golden one, with mini's eyes to name it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from engine.chat.hearing import hear_words
from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import load_checkpoint
from engine.config import OmniConfig
from engine.conversation.streaming import StreamingModel
from engine.conversation.work import result_of
from engine.errors import ConfigError
from engine.processing.prompts import UNIT, Message, Part, TypedText
from engine.processing.sheet import find_things
from engine.small.naming import naming_config, naming_tensors, write_naming
from tests.engine_stream.conftest import PUBLIC, begin, feed, sound

TABLE = (96, 74, 58)
RED, BLUE = (214, 28, 34), (36, 60, 200)


def paper(*shapes: tuple[str, int, tuple[int, int, int]], held: bool = False) -> Image.Image:
    """A sheet with circles and squares at some columns: all of the picture, or held over a table by a thumb."""
    picture = Image.new("RGB", (640, 480), TABLE if held else (240, 240, 236))
    draw = ImageDraw.Draw(picture)
    if held:
        draw.rectangle((160, 110, 500, 370), (240, 240, 236))
        draw.ellipse((470, 250, 540, 300), (205, 145, 110))
    size = 40 if held else 70
    for shape, column, colour in shapes:
        box = (column - size, 240 - size, column + size, 240 + size)
        (draw.ellipse if shape == "circle" else draw.rectangle)(box, colour)
    noise = np.random.default_rng(0).normal(0, 3, (480, 640, 3))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("held", [False, True])
def test_things_are_found_on_a_sheet(held: bool) -> None:
    [thing] = find_things(paper(("circle", 320, RED), held=held))
    assert (thing.x, thing.y) == pytest.approx((0.5, 0.5), abs=0.06)
    left, right = find_things(paper(("square", 235, BLUE), ("circle", 420, RED), held=held))
    assert left.x < 0.45 < 0.55 < right.x


def test_nothing_is_found_where_nothing_is_drawn() -> None:
    assert find_things(paper()) == ()
    assert find_things(paper(held=True)) == ()
    noise = np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8)
    assert find_things(Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC)) == ()


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> StreamingModel:
    folder = tmp_path_factory.mktemp("blind") / "model"
    shutil.copytree(PUBLIC, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"init_vision": False, "naming_config": naming_config()}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = load_file(folder / "weights.safetensors")
    kept = {key: weight for key, weight in weights.items() if not key.startswith(("vpm.", "resampler."))}
    save_file(kept, folder / "weights.safetensors")
    write_naming(folder / "naming", naming_tensors(), lambda _: None)
    return StreamingModel(
        load_checkpoint(folder, LoadOptions(device="cpu", dtype="float32", progress=False)), sessions=3
    )


def unit(picture: Image.Image, *more: Part) -> Message:
    return Message("user", [UNIT, picture, *(more or [sound(1)])])


def test_what_is_held_up_is_named_once_a_turn_and_when_it_changes(blind: StreamingModel) -> None:
    state = begin(blind)
    assert feed(blind, state, unit(paper())).picture_tokens == 0
    first = feed(blind, state, unit(paper(("circle", 320, RED), held=True)))
    assert state.sight.words == "a red circle"
    told = blind.builder.typed("(The camera shows a red circle.)\n")
    assert first.picture_tokens == len(told) + 2
    gone = feed(blind, state, unit(paper(held=True)))
    assert gone.picture_tokens == len(blind.builder.typed("(The camera picture is unclear.)\n")) + 2
    feed(blind, state, unit(paper(("circle", 320, RED), held=True)))
    mark, before = state.mark(), state.sight
    assert feed(blind, state, unit(paper(("circle", 322, RED), held=True))).picture_tokens == 0
    feed(blind, state, unit(paper(("square", 240, BLUE), ("circle", 420, RED))))
    assert state.sight.words == "two things: a blue square on the left and a red circle on the right"
    assert [span.kind for span in state.spans if span.turn == 1].count("image") == 4
    blind.pool.truncate(state, mark)
    assert state.sight == before
    again = feed(blind, state, unit(paper(("square", 320, BLUE)), TypedText("what is it")))
    assert state.sight.words == "a blue square"
    assert again.picture_tokens


def test_a_chat_is_told_too(blind: StreamingModel) -> None:
    asked = [Message("user", [paper(("circle", 320, RED)), TypedText("what is it")])]
    [message] = result_of(blind.executor.drive(hear_words(blind, asked)))
    assert message.content == [TypedText("(The camera shows a red circle.)\n"), TypedText("what is it")]


def test_a_model_has_eyes_or_is_told(blind: StreamingModel, tmp_path: Path) -> None:
    assert blind.config.takes_pictures
    assert not blind.config.sees
    config = json.loads((PUBLIC / "config.json").read_text(encoding="utf-8"))
    for block, words in (
        ({"naming_config": naming_config()}, "has eyes of its own"),
        ({"init_vision": False, "naming_config": naming_config() | {"folder": "../x"}}, "not the name of a folder"),
        ({"init_vision": False, "naming_config": naming_config() | {"told": "seen"}}, "must have one"),
    ):
        with pytest.raises(ConfigError, match=words):
            OmniConfig.from_dicts(config | block)
