"""Bundles: what is read from a good one, and the sentence for each thing that can be wrong with one."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.call.protocol import ProtocolError, encode, parse_message
from app.replay.bundle import read_bundle, write_bundle
from app.replay.bundle_lines import command_line, read_commands
from app.replay.bundle_media import BundleError
from tests.replay.conftest import RATE, MakeBundle, picture, silence, write_video
from tests.speechlike import speechlike


def test_a_whole_bundle_is_read(make_bundle: MakeBundle) -> None:
    folder = make_bundle(
        options={"seed": 7, "vad": {"end_silence_ms": 800}},
        frames={1500: picture("blue"), 500: picture("red", kind="PNG")},
        commands=[{"t": 1, "type": "input.text", "data": {"text": "hello"}}, {"t": 2.5, "raw": "{nonsense"}],
        expect=[{"turns": 2}, {"turn": 1, "text_any": ["a"], "text_not": ["b"]}],
    )
    bundle = read_bundle(folder)
    assert bundle.name == "call"
    assert bundle.config.seed == 7
    assert bundle.config.vad.end_silence_ms == 800
    assert bundle.audio.rate == RATE
    assert bundle.audio.seconds == pytest.approx(2.7)
    assert [p.time_s for p in bundle.pictures()] == [0.5, 1.5]
    assert all(p.jpeg.startswith(b"\xff\xd8") for p in bundle.pictures())
    assert [parse_message(bundle.commands[0].raw).data, bundle.commands[1].raw] == [{"text": "hello"}, "{nonsense"]
    assert [e.line for e in bundle.expectations] == [1, 2, 2]
    assert bundle.timing is None


def test_a_recording_has_nothing_that_came_after_it(make_bundle: MakeBundle) -> None:
    """Else a call of before, with a quarter of an hour of silence, would end in its replay."""
    folder = make_bundle(options={"echo": {"gate": True, "margin_db": 9.0}, "vad": {"onset_ms": 100}})
    made_up = read_bundle(folder).config
    (folder / "timing.jsonl").write_text('{"at": 0, "input": "paused"}\n', encoding="utf-8")
    recorded = read_bundle(folder).config
    assert made_up.silence.idle_end_s > 0
    assert (recorded.silence.away_after_s, recorded.silence.idle_end_s) == (0, 0)
    assert (recorded.vad.silero_fall_db, recorded.vad.onset_ms) == (0, 100)
    assert recorded.echo == made_up.echo


@pytest.mark.parametrize("name", ["audio.wav", "audio.flac", "audio.ogg", "audio.opus", "audio.mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_sound_of_every_kind_is_read(make_bundle: MakeBundle, name: str, channels: int) -> None:
    folder = make_bundle()
    (folder / "audio.wav").unlink()
    voice = speechlike(1.0, 48_000)
    kind = {"format": "OGG", "subtype": "OPUS"} if name.endswith("opus") else {}
    soundfile.write(folder / name, np.stack([voice] * channels, axis=1), 48_000, **kind)
    audio = read_bundle(folder).audio
    assert audio.rate == 48_000
    assert audio.seconds == pytest.approx(1.0, abs=0.06)
    loud = np.abs(audio.samples.astype(float)).mean()
    assert loud == pytest.approx(np.abs(voice.astype(float)).mean(), rel=0.15)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_samples_of_every_width_have_the_same_level(tmp_path: Path, make_bundle: MakeBundle, subtype: str) -> None:
    folder = make_bundle()
    voice = speechlike(0.5)
    soundfile.write(folder / "audio.wav", voice / 32_768, RATE, subtype=subtype)
    error = read_bundle(folder).audio.samples.astype(int) - voice
    assert np.abs(error).max() <= (256 if subtype == "PCM_U8" else 1)


def test_a_wav_of_16_bits_is_read_exactly(tmp_path: Path) -> None:
    samples = np.arange(-32_768, 32_768, dtype=np.int16)
    assert np.array_equal(read_bundle(write_bundle(tmp_path / "x", samples, RATE)).audio.samples, samples)


@pytest.mark.parametrize("name", ["video.mp4", "video.mkv", "video.webm", "video.y4m"])
def test_video_gives_four_pictures_a_second(make_bundle: MakeBundle, name: str) -> None:
    folder = make_bundle()
    codec = {"video.webm": "libvpx", "video.y4m": "wrapped_avframe"}.get(name, "mpeg4")
    write_video(folder / name, codec=codec)
    times = [p.time_s for p in read_bundle(folder).pictures()]
    assert times == pytest.approx([0, 0.3, 0.5, 0.8, 1.0, 1.3, 1.5, 1.8], abs=0.001)


def test_large_and_turned_stills_become_small_and_upright(make_bundle: MakeBundle, tmp_path: Path) -> None:
    folder = make_bundle(frames={0: picture(size=(4000, 3000))})
    turned = Image.new("RGB", (40, 20), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "frames" / "100.JPG", exif=exif)
    Image.new("RGBA", (30, 30), (255, 0, 0, 0)).save(folder / "frames" / "200.png")
    sizes = []
    for number, p in enumerate(read_bundle(folder).pictures()):
        (tmp_path / f"{number}.jpg").write_bytes(p.jpeg)
        sizes.append(Image.open(tmp_path / f"{number}.jpg").size)
    assert sizes == [(1280, 960), (20, 40), (30, 30)]
    assert Image.open(tmp_path / "2.jpg").getpixel((5, 5)) == (255, 255, 255)


def test_a_small_jpeg_is_given_as_it_is(make_bundle: MakeBundle) -> None:
    jpeg = picture()
    assert [p.jpeg for p in read_bundle(make_bundle(frames={0: jpeg})).pictures()] == [jpeg]


def text(name: str, content: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")

    return write


def wav(samples: np.ndarray, rate: int = RATE, **more: str) -> Callable[[Path], None]:
    return lambda folder: soundfile.write(folder / "audio.wav", samples, rate, **more)


def cut(name: str, share: float, codec: str = "mpeg4") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        if name.startswith("video"):
            write_video(folder / name, codec=codec)
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[: int(len(raw) * share)])

    return write


def replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file")


def half_flac(folder: Path) -> None:
    (folder / "audio.wav").rename(folder / "audio.flac")
    soundfile.write(folder / "audio.flac", speechlike(2.0), RATE)
    cut("audio.flac", 0.5)(folder)


def half_picture(folder: Path) -> None:
    (folder / "frames").mkdir()
    Image.effect_noise((200, 200), 90).convert("RGB").save(folder / "frames" / "10.jpg")
    cut("frames/10.jpg", 0.5)(folder)


def audio_as_folder(folder: Path) -> None:
    (folder / "audio.wav").unlink()
    (folder / "audio.wav").mkdir()


def two_of(first: str, second: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name in (first, second):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(picture())

    return write


BROKEN: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no such folder": (shutil.rmtree, "call", "does not exist"),
    "a file": (replace_by_file, "call", "is not a folder"),
    "no call.json": (lambda f: (f / "call.json").unlink(), "call.json", "is missing"),
    "call.json is not JSON": (text("call.json", "{format: 1}"), "call.json", "is not JSON"),
    "call.json is a list": (text("call.json", "[]"), "call.json", "is not a JSON object"),
    "call.json nested too deep": (text("call.json", "[" * 100_000), "call.json", "is not JSON"),
    "half a pair in a prompt": (
        text("call.json", '{"format": 1, "options": {"prompt": "\\ud83d"}}'),
        "call.json",
        "is not JSON (it has half of a surrogate pair)",
    ),
    "half a pair in a command": (
        text("commands.jsonl", '{"t": 1, "type": "input.text", "data": {"text": "\\ude00"}}'),
        "commands.jsonl",
        "line 1 is not JSON",
    ),
    "half a pair in an expectation": (
        text("expect.jsonl", '{"turn": 1, "text_any": ["\\ud83d"]}'),
        "expect.jsonl",
        "line 1 is not JSON",
    ),
    "no format": (text("call.json", '{"options": {}}'), "call.json", "no format version"),
    "format of the future": (text("call.json", '{"format": 2}'), "call.json", "has format 2; this program reads"),
    "two versions": (text("call.json", '{"format": 1, "version": 2}'), "call.json", "has format 2"),
    "format as text": (text("call.json", '{"format": "1"}'), "call.json", "has format '1'"),
    "options as list": (text("call.json", '{"format": 1, "options": []}'), "call.json", "options that are not"),
    "unknown option": (text("call.json", '{"format": 1, "options": {"sed": 1}}'), "call.json", "no option 'sed'"),
    "wrong option": (text("call.json", '{"format": 1, "options": {"seed": "x"}}'), "call.json", "seed must be"),
    "no audio": (lambda f: (f / "audio.wav").unlink(), "call", "has no audio"),
    "two audios": (two_of("audio.ogg", "audio.mp3"), "call", "has both audio.wav and audio.ogg"),
    "audio that is text": (text("audio.wav", "hello" * 99), "audio.wav", "cannot be read as sound"),
    "audio of no byte": (text("audio.wav", ""), "audio.wav", "cannot be read as sound"),
    "audio without samples": (wav(silence(0)), "audio.wav", "holds no sound"),
    "audio of three channels": (wav(np.zeros((RATE, 3), np.int16)), "audio.wav", "has 3 channels"),
    "audio at 4 kHz": (wav(silence(1), 4_000), "audio.wav", "4000 Hz"),
    "audio that is not numbers": (wav(np.full(RATE, np.nan), subtype="FLOAT"), "audio.wav", "not numbers"),
    "audio cut off": (cut("audio.wav", 0.6), "audio.wav", "is cut off: it holds 1.6 s"),
    "FLAC cut off": (half_flac, "audio.flac", "audio.flac"),
    "audio is a folder": (audio_as_folder, "audio.wav", "is not a file"),
    "video that is text": (text("video.mp4", "hello" * 99), "video.mp4", "cannot be read as video"),
    "video of no byte": (text("video.webm", ""), "video.webm", "is empty"),
    "video that is audio": (lambda f: shutil.copy(f / "audio.wav", f / "video.mkv"), "video.mkv", "has no pictures"),
    "MP4 cut off": (cut("video.mp4", 0.7), "video.mp4", "is cut off"),
    "MKV cut off": (cut("video.mkv", 0.7), "video.mkv", "is cut off"),
    "WebM cut off": (cut("video.webm", 0.9, "libvpx"), "video.webm", "is cut off"),
    "Y4M cut off": (cut("video.y4m", 0.7, "wrapped_avframe"), "video.y4m", "in the middle of a picture"),
    "two videos": (two_of("video.mp4", "video.webm"), "call", "has both video.mp4 and video.webm"),
    "video and frames": (two_of("video.mp4", "frames/1.jpg"), "call", "has both video.mp4 and frames/"),
    "frames is a file": (text("frames", "x"), "frames", "is not a folder"),
    "frame with a name": (two_of("frames/1.jpg", "frames/cat.jpg"), "cat.jpg", "is not named after its time"),
    "frame before zero": (two_of("frames/1.jpg", "frames/-5.jpg"), "-5.jpg", "is not named after its time"),
    "frame of another kind": (two_of("frames/1.jpg", "frames/2.gif"), "2.gif", "is not named after its time"),
    "two frames at once": (two_of("frames/1.png", "frames/001.jpg"), "1.png", "has the same time as 001.jpg"),
    "frame that is text": (text("frames/10.jpg", "hello"), "10.jpg", "is not a picture in a known format"),
    "half a frame": (half_picture, "10.jpg", "is not a whole picture"),
    "command that is not JSON": (text("commands.jsonl", '\n{"t": 1,}\n'), "commands.jsonl", "line 2 is not JSON"),
    "command that is a number": (text("commands.jsonl", "3"), "commands.jsonl", "line 1 is not an object"),
    "command without t": (text("commands.jsonl", '{"type": "ping"}'), "commands.jsonl", "line 1 has no t"),
    "command before zero": (text("commands.jsonl", '{"t": -1, "type": "ping"}'), "commands.jsonl", "has t -1"),
    "command at infinity": (text("commands.jsonl", '{"t": 1e999, "type": "ping"}'), "commands.jsonl", "is not JSON"),
    "command with t as text": (text("commands.jsonl", '{"t": "1", "type": "ping"}'), "commands.jsonl", "has t '1'"),
    "commands out of order": (
        text("commands.jsonl", '{"t": 2, "type": "ping"}\n{"t": 1, "type": "ping"}'),
        "commands.jsonl",
        "line 2 has t 1 after 2",
    ),
    "command without a type": (text("commands.jsonl", '{"t": 2}'), "commands.jsonl", "'type' is a required"),
    "unknown command": (text("commands.jsonl", '{"t": 2, "type": "dance"}'), "commands.jsonl", "unknown type 'dance'"),
    "command without its data": (
        text("commands.jsonl", '{"t": 2, "type": "input.text", "data": {}}'),
        "commands.jsonl",
        "'text' is a required",
    ),
    "commands in Latin-1": (
        lambda f: (f / "commands.jsonl").write_bytes(b'{"t": 1, "x": "\xe4"}'),
        "commands.jsonl",
        "is not UTF-8 text",
    ),
    "expectation that is not JSON": (text("expect.jsonl", "turns: 2"), "expect.jsonl", "line 1 is not JSON"),
    "unknown expectation": (text("expect.jsonl", '{"turn": 1, "txt": 1}'), "expect.jsonl", "has the unknown key 'txt'"),
    "timing of nothing": (text("timing.jsonl", '{"at": 1}'), "timing.jsonl", "line 1 is no input"),
    "timing of no command": (
        text("timing.jsonl", '{"at": 1, "input": "command", "line": 1}'),
        "timing.jsonl",
        "which is not there",
    ),
    "timing of no picture": (
        text("timing.jsonl", '{"at": 1, "input": "frame", "file": "frames/1.jpg"}'),
        "timing.jsonl",
        "which is not there",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_bundle_gets_one_sentence(make_bundle: MakeBundle, case: str) -> None:
    break_it, name, fault = BROKEN[case]
    folder = make_bundle()
    break_it(folder)
    with pytest.raises(BundleError) as error:
        list(read_bundle(folder).pictures())
    sentence = str(error.value)
    assert fault in sentence
    assert re.match(rf"\S*{re.escape(name)} ", sentence), "the sentence begins with the file"
    assert re.search(r"; [a-z].*\.$", sentence), "the remedy follows"
    assert "\n" not in sentence


def test_a_damaged_picture_inside_a_video_is_found_when_it_is_reached(make_bundle: MakeBundle) -> None:
    folder = make_bundle()
    write_video(folder / "video.mkv", seconds=4)
    raw = bytearray((folder / "video.mkv").read_bytes())
    for place in range(len(raw) // 2, len(raw) * 3 // 4, 50):
        raw[place] ^= 0xFF
    (folder / "video.mkv").write_bytes(raw)
    with pytest.raises(BundleError, match=r"video\.mkv .*(damaged|decoded|cut off)"):
        list(read_bundle(folder).pictures())


def test_wav_files_of_unknown_length_are_read(make_bundle: MakeBundle) -> None:
    folder = make_bundle()
    raw = bytearray((folder / "audio.wav").read_bytes())
    raw[4:8] = raw[40:44] = struct.pack("<I", 0xFFFF_FFFF)
    (folder / "audio.wav").write_bytes(raw)
    assert read_bundle(folder).audio.seconds == pytest.approx(2.7)


def test_what_others_add_to_a_bundle_does_no_harm(make_bundle: MakeBundle) -> None:
    folder = make_bundle(frames={0: picture()})
    (folder / "frames" / ".DS_Store").write_bytes(b"x")
    (folder / "notes.txt").write_text("mine")
    (folder / "call.json").write_text(json.dumps({"format": 1, "title": "mine"}))
    assert read_bundle(folder).config.seed == 0


def test_a_bundle_is_not_written_over_another(make_bundle: MakeBundle) -> None:
    folder = make_bundle()
    with pytest.raises(BundleError, match="exists already"):
        write_bundle(folder, silence(1), RATE)


MEMBERS = st.sampled_from(["v", "t", "seq", "type", "data", "text", "raw", "muted", "nonce"])
VALUES = st.sampled_from(["input.text", "ping", "mic.state", "bye"]) | st.integers(0, 2)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda value: st.lists(value) | st.dictionaries(MEMBERS, value | VALUES),
)
EVENTS = st.fixed_dictionaries(
    {"v": st.just(1), "type": VALUES},
    optional={
        "data": st.dictionaries(MEMBERS, st.text(max_size=3) | VALUES),
        "seq": VALUES,
        "t": VALUES,
        "raw": VALUES,
    },
)


@given(JSON | EVENTS | st.text())
@settings(deadline=None)  # it writes a file
def test_whatever_a_client_sent_is_written_down_with_the_same_effect(
    tmp_path_factory: pytest.TempPathFactory, message: object
) -> None:
    raw = message if isinstance(message, str) else json.dumps(message)
    path = tmp_path_factory.mktemp("commands") / "commands.jsonl"
    path.write_text(encode(command_line(1.25, raw, 1)) + "\n", encoding="utf-8")
    (read,) = read_commands(path)
    assert read.time_s == 1.25
    assert effect(read.raw) == effect(raw)


def effect(raw: str) -> object:
    try:
        return parse_message(raw)
    except ProtocolError as error:
        return error.code, error.message, error.ref_seq


def test_an_ordinary_event_is_written_down_readably() -> None:
    raw = json.dumps({"v": 1, "type": "input.text", "seq": 4, "t": 9.9, "data": {"text": "hi"}})
    expected = {"t": 2.5, "v": 1, "type": "input.text", "seq": 4, "data": {"text": "hi"}}
    assert command_line(2.5, raw, 1) == expected
