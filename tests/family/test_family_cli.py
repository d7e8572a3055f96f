"""``python -m engine.chat`` with the golden sets' models."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.chat import cli
from engine.chat.media import load_frames
from engine.config_language import Generation
from tests.engine_chat.test_media import level, write_video
from tests.family.conftest import SETS, manifest

PICTURES = SETS["v-2.6"] / "images"
BRIEF = ["--greedy", "--device", "cpu", "--dtype", "float32", "--max-new-tokens", "16"]


def command(generation: Generation, *arguments: str) -> int:
    return cli.main([str(SETS[generation]), *BRIEF, *arguments])


def test_a_question_about_a_picture_is_answered_as_published(
    generation: Generation, capsys: pytest.CaptureFixture[str]
) -> None:
    case = manifest(generation)["chat"]["single"]
    image = str(SETS[generation] / "images" / "single.png")
    assert command(generation, "--image", image, "--question", "What is in the image?") == 0
    assert capsys.readouterr().out == f"{case['text']}\n"


def test_turns_come_before_the_question(generation: Generation, capsys: pytest.CaptureFixture[str]) -> None:
    case = manifest(generation)["chat"]["multi_turn"]
    image = str(SETS[generation] / "images" / "single.png")
    before = ["--turn", "What is in the image?", "It is a red circle."]
    assert command(generation, "--image", image, *before, "--question", "What color is it?") == 0
    assert capsys.readouterr().out == f"{case['text']}\n"


@pytest.mark.parametrize("generation", ["v-2.6", "v-2.5"])
def test_a_system_message_and_pieces(generation: Generation, capsys: pytest.CaptureFixture[str]) -> None:
    case = manifest(generation)["chat"]["system"]
    image = str(SETS[generation] / "images" / "single.png")
    asked = ["--image", image, "--question", "Tell me more.", "--system", "Answer with one word."]
    assert command(generation, *asked) == 0
    assert capsys.readouterr().out == f"{case['text']}\n"
    assert command(generation, *asked, "--stream") == 0
    assert capsys.readouterr().out.strip() == case["text"]


def test_a_video_is_seen_frame_by_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "walk.mp4", 3, sound=False)
    assert len(load_frames(video)) == 3
    asked = ["--video", str(video), "--question", "What happens?"]
    assert command("v-2.6", *asked) == 0
    assert capsys.readouterr().out.strip()
    assert command("v-2.0", *asked) == 1
    assert "takes one picture" in capsys.readouterr().err


def test_frames_are_chosen_as_published(tmp_path: Path) -> None:
    video = write_video(tmp_path / "walk.mp4", 10, fps=3, sound=False)
    levels = [level(frame) for frame in load_frames(video)]
    assert len(levels) == 10
    assert [level(frame) for frame in load_frames(video, limit=4)] == [levels[at] for at in (1, 3, 6, 8)]


def test_what_the_model_cannot_is_said(generation: Generation, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(generation, "--question", "hello", "--speak", "/tmp/never.wav") == 1
    assert "does not speak" in capsys.readouterr().err
    assert command(generation, "--mode", "omni", "--question", "hello") == 1
    assert "has no mode omni" in capsys.readouterr().err


def test_a_bar_tells_how_far_a_conversation_is(capsys: pytest.CaptureFixture[str]) -> None:
    bars = cli.Bars()
    for done in (512, 1024):
        bars("tokens", done, 1024)
    assert "100%" in capsys.readouterr().err
