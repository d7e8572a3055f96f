"""The command, from its options to its answer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from engine.chat.cli import MODES, build_parser, conversation, main
from engine.chat.media import check_writable
from engine.chat.offline import ChatOptions
from engine.checkpoint.loader import has_weights
from engine.processing.prompts import MODES as PROMPT_MODES
from engine.processing.prompts import TASK_PROMPTS, UNIT, Message, TypedText, get_sys_prompt
from engine.serving.live_engine import MINI
from tests.engine_chat.test_media import write_video
from tests.engine_inputs.conftest import PUBLIC

PICTURE = str(PUBLIC / "images" / "img_sliced.png")
MODEL = [str(PUBLIC), "--device", "cpu", "--greedy"]


@pytest.fixture(scope="module")
def tone(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("sounds") / "tone.wav"
    soundfile.write(path, (np.sin(np.arange(12_000) / 8) * 9_000).astype(np.int16), 16_000)
    return str(path)


def made(*arguments: str) -> tuple[list[Message], ChatOptions]:
    return conversation(build_parser().parse_args(arguments))


def kinds(message: Message) -> list[Any]:
    return [
        part.text if isinstance(part, TypedText) else part if isinstance(part, str) else type(part)
        for part in message.content
    ]


def test_a_question_about_pictures() -> None:
    messages, options = made(str(PUBLIC), "--image", PICTURE, "--image", PICTURE, "--question", "same?")
    assert [message.role for message in messages] == ["user"]
    assert kinds(messages[0]) == [Image.Image, Image.Image, "same?"]
    assert options == ChatOptions()


def test_examples_come_first() -> None:
    messages, _ = made("--system", "Be brief.", "--example", PICTURE, "what?", "A cat.", "--question", "why?")
    assert [message.role for message in messages] == ["system", "user", "assistant", "user"]
    assert kinds(messages[1]) == [Image.Image, "what?"]
    assert kinds(messages[2]) == ["A cat."]


def test_video_frames_are_cut_less_and_not_numbered(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", 3, sound=False)
    messages, options = made("--video", str(video), "--question", "where?")
    assert kinds(messages[0]) == [Image.Image] * 3 + ["where?"]
    assert (options.max_slice_nums, options.use_image_id) == (2, False)
    assert made("--video", str(video), "--max-slices", "4")[1].max_slice_nums == 4


def test_omni_goes_second_by_second(tmp_path: Path, tone: str) -> None:
    messages, options = made("--mode", "omni", "--video", str(write_video(tmp_path / "a.mp4", 2)), "--voice", tone)
    assert kinds(messages[0]) == kinds(get_sys_prompt(np.zeros(1, np.float32), "omni", "en"))
    assert kinds(messages[1]) == [UNIT, Image.Image, np.ndarray] * 2
    assert options.omni_input
    assert options.use_tts_template
    assert (options.max_slice_nums, options.use_image_id) == (1, False)


@pytest.mark.parametrize(
    ("mode", "name"), [("assistant", "audio_assistant"), ("roleplay", "audio_roleplay"), ("cloning", "voice_cloning")]
)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_voices(mode: str, name: str, language: str, tone: str) -> None:
    messages, _ = made("--mode", mode, "--voice", tone, "--question", "Hello.", "--language", language)
    assert name in PROMPT_MODES
    assert kinds(messages[0]) == kinds(get_sys_prompt(np.zeros(1, np.float32), name, language))
    assert messages[1].content[-1] == TypedText("Hello.")


@pytest.mark.parametrize("mode", TASK_PROMPTS)
def test_tasks_about_a_sound(mode: str, tone: str) -> None:
    messages, _ = made("--mode", mode, "--audio", tone, "--language", "zh")
    assert kinds(messages[0]) == [TASK_PROMPTS[mode]["zh"] + "\n", np.ndarray]
    assert mode in MODES


def test_a_greedy_model_stays_greedy(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"do_sample": false, "repetition_penalty": 1.1}')
    options = made(str(tmp_path), "--question", "hi")[1]
    assert (options.do_sample, options.repetition_penalty) == (False, 1.1)
    assert made(str(tmp_path), "--question", "hi", "--temperature", "0.5")[1].do_sample


def test_ways_to_draw() -> None:
    options = made("--question", "hi", "--beams", "4", "--repetition-penalty", "1.1")[1]
    assert (options.sampling, options.num_beams, options.repetition_penalty) == (False, 4, 1.1)
    options = made("--question", "hi", "--greedy", "--max-new-tokens", "5", "--seed", "3", "--top-k", "7")[1]
    assert (options.do_sample, options.max_new_tokens, options.seed, options.top_k) == (False, 5, 3, 7)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a --question"),
        (["--mode", "transcribe"], "needs --audio"),
        (["--mode", "cloning", "--question", "hi"], "needs --voice"),
        (["--mode", "roleplay"], "needs --audio or --question"),
        (["--mode", "omni"], "needs --video"),
        (["--question", "hi", "--max-frames", "0"], "--max-frames"),
        (["--question", "hi", "--mode", "sing"], "invalid choice"),
    ],
)
def test_what_is_missing_is_named(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_an_answer_in_writing_is_the_same_streamed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*MODEL, "--image", PICTURE, "--question", "what is it?", "--max-new-tokens", "12"]
    assert main(arguments) == 0
    whole = capsys.readouterr().out
    assert main([*arguments, "--stream"]) == 0
    assert capsys.readouterr().out == whole
    assert whole.strip()


def test_a_spoken_answer(
    tmp_path: Path, tone: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.chat.offline.MAX_CODES", 60)
    path = tmp_path / "out.wav"
    arguments = [*MODEL, "--mode", "mimick", "--audio", tone, "--max-new-tokens", "4", "--speak", str(path)]
    assert main(arguments) == 0
    wave, rate = soundfile.read(path)
    assert rate == 24_000
    assert len(wave) > 2_000
    assert f"{path}: {len(wave) / 24_000:.1f} s of speech" in capsys.readouterr().err


def broken_copy(tmp_path: Path, name: str, data: bytes) -> str:
    """A checkpoint of which one file holds something else."""
    folder = tmp_path / name
    shutil.copytree(PUBLIC, folder)
    folder.chmod(0o755)
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(data)
    return str(folder)


WRONG: dict[str, Callable[[Path], list[str]]] = {
    "no picture": lambda at: [*MODEL, "--image", str(at / "none.png")],
    "a folder as picture": lambda at: [*MODEL, "--image", str(at)],
    "no sound": lambda at: [*MODEL, "--audio", str(at / "none.wav")],
    "a folder as sound": lambda at: [*MODEL, "--audio", str(at)],
    "a folder as video": lambda at: [*MODEL, "--video", str(at)],
    "a folder as voice": lambda at: [*MODEL, "--mode", "cloning", "--question", "hi", "--voice", str(at)],
    "an example without a picture": lambda at: [*MODEL, "--example", "", "what?", "it.", "--question", "why?"],
    "no sample": lambda at: [*MODEL, "--audio", silence(at / "empty.wav", 0)],
    "one sample": lambda at: [*MODEL, "--audio", silence(at / "one.wav", 1)],
    "320 samples": lambda at: [*MODEL, "--audio", silence(at / "short.wav", 320)],
    "a voice of one sample": lambda at: [*MODEL, "--mode", "omni", "--question", "hi", "--voice",
                                         silence(at / "one.wav", 1)],
    "no model": lambda at: [str(at / "nowhere"), "--question", "hi"],
    "an empty folder as model": lambda at: [str(at), "--question", "hi"],
    "a file as model": lambda at: [silence(at / "file", 9), "--question", "hi"],
    "a config that is none": lambda at: [broken_copy(at, "config.json", b"{"), "--question", "hi"],
    "a config that is a list": lambda at: [broken_copy(at, "config.json", b"[]"), "--question", "hi"],
    "weights cut off": lambda at: [
        broken_copy(at, "weights.safetensors", (PUBLIC / "weights.safetensors").read_bytes()[:9999]),
        "--question", "hi"],
    "weights of no byte": lambda at: [broken_copy(at, "weights.safetensors", b""), "--question", "hi"],
    "sampling that is none": lambda at: [broken_copy(at, "generation_config.json", b"\xff"), "--question", "hi"],
    "no such folder to speak to": lambda at: [*MODEL, "--question", "hi", "--speak", str(at / "no" / "x.wav")],
    "a folder to speak to": lambda at: [*MODEL, "--question", "hi", "--speak", str(at)],
    "a format that is none": lambda at: [*MODEL, "--question", "hi", "--speak", str(at / "x.txt")],
    "no right to write": lambda at: [*MODEL, "--question", "hi", "--speak", "/proc/x.wav"],
    "a question that is not UTF-8": lambda at: [*MODEL, "--question", "\udcff"],
    "a system message that is not UTF-8": lambda at: [*MODEL, "--question", "hi", "--system", "\udcff"],
    "a path that is not UTF-8": lambda at: [*MODEL, "--image", "\udcff.png"],
    "a device that is none": lambda at: [str(PUBLIC), "--question", "hi", "--device", "toaster"],
    "a dtype that is none": lambda at: [str(PUBLIC), "--question", "hi", "--dtype", "float3"],
    "no temperature": lambda at: [*MODEL, "--question", "hi", "--temperature", "nan"],
    "no penalty": lambda at: [*MODEL, "--question", "hi", "--repetition-penalty", "0"],
    "too many beams": lambda at: [*MODEL, "--question", "hi", "--beams", "100000"],
    "no token": lambda at: [*MODEL, "--question", "hi", "--max-new-tokens", "0"],
}  # fmt: skip


def silence(path: Path, samples: int) -> str:
    soundfile.write(path, np.zeros(samples, np.int16), 16_000, format="WAV")
    return str(path)


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_used_ends_in_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(WRONG[case](tmp_path)) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert "the program failed" not in shown.err
    assert not shown.out


def test_a_fault_of_the_program_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise IndexError("list index\nout of range")

    monkeypatch.setattr("engine.chat.cli.conversation", fail)
    assert main([*MODEL, "--question", "hi"]) == 1
    error = capsys.readouterr().err
    assert "the program failed (IndexError: list index out of range, at test_chat_cli.py:" in error
    assert error.count("\n") == 1


def test_an_output_that_exists_is_kept_until_there_is_another(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(b"mine")
    check_writable(path)
    check_writable(tmp_path / "y.wav")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"mine"]


def test_without_a_model_the_mini_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--question", "hi", "--max-new-tokens", "3"]) == 0
    shown = capsys.readouterr()
    assert shown.out
    assert has_weights(MINI) or "untrained" in shown.err


def test_the_module_runs(tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "engine.chat", "--help"], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert all(mode in shown for mode in MODES)
    assert "examples" in shown
