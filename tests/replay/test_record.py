"""A call that is recorded replays to the identical events, and no disk can hold a call up."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.call.call import Call
from app.call.config import CallConfig
from app.errors import StartError
from app.replay import record_files
from app.replay.bundle import read_bundle
from app.replay.expect import Outcome
from app.replay.record import Recorder, Recordings
from app.replay.record_files import RecordingFiles, SpeechFile, without_token
from app.replay.replay_call import replay_call
from engine.serving.scripted import Script, ScriptedEngine
from tests.replay.conftest import RATE, picture, silence
from tests.replay.recorded import events_of
from tests.speechlike import speechlike

SCRIPT = Script(words=("What", " is", " it?"), prefill_s=0.004, first_chunk_s=0.003, chunk_s=0.002)
COMMANDS: list[dict[str, Any]] = [
    {"type": "hello", "data": {"protocol": 1, "resume_token": "secret-token", "last_seq": 3}},
    {"type": "input.text", "data": {"text": 'line\u2028separator and "quotes"'}},
    {"type": "response.cancel", "data": {"reason": "button"}},
    {"type": "mic.state", "data": {"muted": True}},
    {"type": "mic.state", "data": {"muted": False}},
    {"type": "camera.state", "data": {"muted": True}},
    {"type": "camera.state", "data": {"muted": False}},
    {"type": "session.update", "data": {"vad": {"end_silence_ms": 300}}},
    {"type": "session.update", "data": {"seed": 3}},
    {"type": "playback.report", "data": {"epoch": 1, "played_ms": 300, "buffered_ms": 120}},
    {"type": "ping", "data": {"nonce": "n"}},
    {"type": "dance"},
    {"type": "input.text", "data": {}},
]
WARNINGS: list[tuple[str, str]] = []


def warn(code: str, message: str) -> None:
    WARNINGS.append((code, message))


@pytest.fixture(autouse=True)
def _no_warnings() -> None:
    WARNINGS.clear()


async def live_call(folder: Path, seed: int, seconds: float = 9.0, script: Script = SCRIPT) -> Path:
    """A call as the network would make it, thirty times as fast and in an order that depends on ``seed``;
    recorded."""
    dice = random.Random(seed)
    engine = ScriptedEngine(script)
    info = await engine.start()
    config = CallConfig.from_mapping({"seed": seed, "vad": {"end_silence_ms": 400}})
    recordings = Recordings(folder)
    recorder = recordings.begin(f"call{seed}", config, info, warn)
    call = Call(
        f"call{seed}", config, await engine.open(config.session_options()), recorder, engine=info,
        resume_token="secret-token", resume_s=30, recorded=True,
    )  # fmt: skip
    call.attach(lambda text: None)
    sound = np.concatenate(
        [part for n in range(9) for part in (silence(dice.uniform(0.3, 1.0), 48_000), speechlike(1, 48_000, n))]
    )
    begin = 0
    while begin < seconds * 48_000:
        for _ in range(dice.choice([1, 1, 1, 2, 5])):  # packets come in bursts
            call.microphone.push(sound[begin : begin + 960], 48_000, begin + (480 if dice.random() < 0.01 else 0))
            begin += 960
        for _ in range(dice.choice([0, 1, 1, 1, 2, 3])):
            call.output.pull(480)
        if dice.random() < 0.08:
            call.push_frame(picture(dice.choice(["red", "green", "blue"]), (dice.randint(8, 64), 8)))
        if dice.random() < 0.05:
            call.receive(json.dumps({"v": 1, "seq": begin, **dice.choice(COMMANDS)}))
        if dice.random() < 0.01:
            call.receive("no JSON")
        if dice.random() < 0.01:
            call.metrics({"rtt_ms": 5})
            call.microphone_paused()
        if dice.random() < 0.01:
            call.detach()
            call.attach(lambda text: None)
        await asyncio.sleep(dice.choice([0, 0, 0.001, 0.003]))
    await call.close("hung_up")
    call.output.pull(480)
    await engine.stop()
    assert await asyncio.to_thread(recordings.finish, 10)
    return recorder.folder


@pytest.mark.parametrize("seed", range(6))
async def test_a_recorded_call_replays_to_the_identical_events(tmp_path: Path, seed: int) -> None:
    folder = await live_call(tmp_path, seed)
    recorded = events_of(folder)
    engine = ScriptedEngine(Script(words=SCRIPT.words))  # as fast as it can: the timing comes from the recording
    await engine.start()
    replayed = await replay_call(read_bundle(folder), engine, answer=tmp_path / "answer.wav")
    assert replayed.notes == []
    assert replayed.events == recorded
    assert Outcome.from_events(recorded).answered
    assert any(event["type"] == "user.transcript" for event in recorded)
    with wave.open(str(folder / "answer.wav")) as then, wave.open(str(tmp_path / "answer.wav")) as now:
        assert then.readframes(-1) == now.readframes(-1)
        assert then.getnframes() / 24_000 == pytest.approx(replayed.seconds, abs=0.2)
    assert WARNINGS == []


async def test_a_recording_keeps_no_secret(tmp_path: Path) -> None:
    folder = await live_call(tmp_path, seed=1)
    assert '"hello"' in (folder / "commands.jsonl").read_text()
    for path in folder.rglob("*.json*"):
        assert "secret-token" not in path.read_text(encoding="utf-8")
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "raw",
    [
        '{"resume_token": "secret-token"}',
        '{"data":{"resume_token" :"sec\\"ret-token"},"x":1}',
        '{"resume_token": "secret-token',
    ],
)
def test_a_token_is_taken_out_of_every_message(raw: str) -> None:
    assert "ret-token" not in without_token(raw)


async def test_another_engine_replays_a_recording_without_its_timing(tmp_path: Path) -> None:
    folder = await live_call(tmp_path, seed=2)
    engine = ScriptedEngine(Script(answers=("Yes.",)))
    await engine.start()
    replayed = await replay_call(read_bundle(folder), engine)
    assert any("does not answer as it did" in note for note in replayed.notes)
    assert Outcome.from_events(replayed.events).answered
    call = json.loads((folder / "call.json").read_text())
    call["engine"]["name"] = "other"
    (folder / "call.json").write_text(json.dumps(call))
    replayed = await replay_call(read_bundle(folder), engine)
    assert any("engine other" in note for note in replayed.notes)


async def test_a_recording_that_breaks_off_can_be_replayed(tmp_path: Path) -> None:
    """What is on the disk after a flush is a bundle; nobody closes it here, as when the machine fails."""
    files = RecordingFiles(tmp_path / "call.partial", {"call_id": "x", "options": {}, "engine": {"name": "scripted"}})
    sound = speechlike(1.0)
    for begin in range(0, len(sound), 320):
        files.audio(sound[begin : begin + 320])
        files.speech(np.zeros(480, np.int16))
    files.unit_frame(3200, picture())
    files.flush()
    bundle = read_bundle(tmp_path / "call.partial")
    assert np.array_equal(bundle.audio.samples, sound)
    assert json.loads((tmp_path / "call.partial" / "call.json").read_text())["complete"] is False
    engine = ScriptedEngine()
    await engine.start()
    assert (await replay_call(bundle, engine)).seconds == 1.0
    files.close()


def test_the_picture_stands_before_the_input_that_used_it(tmp_path: Path) -> None:
    files = RecordingFiles(tmp_path / "call", {})
    files.audio(silence(0.02))
    files.command(320, '{"v":1,"type":"ping"}')
    files.result(320, 0)
    files.unit_frame(320, picture("red"))
    files.audio(silence(0.02))
    files.result(640, 1)
    files.unit_frame(320, picture("blue"))
    files.closed("x")
    files.close()
    timing = read_bundle(tmp_path / "call").timing
    assert timing is not None
    assert [(t.at, t.kind, t.value) for t in timing] == [
        (320, "command", 1),
        (320, "frame", "frames/20.jpg"),
        (320, "result", 0),
        (320, "frame", "frames/21.jpg"),
        (640, "result", 1),
        (640, "closed", "x"),
    ]


def test_the_answer_stays_aligned_with_media_time(tmp_path: Path) -> None:
    file = SpeechFile(tmp_path / "answer.wav")
    quiet, loud = np.zeros(480, np.int16), np.full(480, 9, np.int16)
    for _ in range(100):
        file.add(quiet, 0)  # the microphone pauses for two seconds, the track goes on
    for second in range(1, 4):
        file.add(loud, second * RATE)
    file.close()
    with wave.open(str(tmp_path / "answer.wav")) as reader:
        samples = np.frombuffer(reader.readframes(-1), np.int16)
    starts = np.flatnonzero(np.diff(np.concatenate([[0], samples])) > 0)
    assert np.abs(starts - 24_000 * np.arange(1, 4)).max() <= 2400 + 480


async def drive(recorder: Recorder, seconds: float) -> None:
    """Give the tap a call's sound."""
    for number in range(round(seconds * 50)):
        recorder.audio(np.full(320, number, np.int16))
        recorder.speech(np.zeros(480, np.int16))
        recorder.event({"v": 1, "type": "vad", "seq": number, "t": 0.0, "turn": 0, "epoch": 0, "data": {}})
        await asyncio.sleep(0)


async def test_a_slow_disk_ends_the_recording_and_not_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, blocked = threading.Event(), threading.Event()

    class Slow(RecordingFiles):
        def flush(self) -> None:
            blocked.set()
            gate.wait(600)
            super().flush()

    monkeypatch.setattr("app.replay.record.RecordingFiles", Slow)
    monkeypatch.setattr("app.replay.record.WRITE_EVERY_S", 0.01)
    recorder = Recorder(tmp_path / "call", {"call_id": "x"}, warn, max_waiting_bytes=200_000)
    await drive(recorder, 0.1)
    assert await asyncio.to_thread(blocked.wait, 60)
    await drive(recorder, 10.0)
    await asyncio.sleep(0)
    assert [code for code, _ in WARNINGS] == ["recording_stopped"]
    assert "too slow" in WARNINGS[0][1]
    recorder.closed("hung_up")
    gate.set()
    assert await asyncio.to_thread(recorder.join, 60)
    call = json.loads((tmp_path / "call" / "call.json").read_text())
    assert call["complete"] is False
    assert "too slow" in call["fault"]
    samples = read_bundle(tmp_path / "call").audio.samples
    assert 0 < len(samples) < 10 * RATE
    assert np.array_equal(samples[::320][5:], np.arange(len(samples) // 320 - 5)), "whole up to its end"


async def test_a_full_disk_ends_the_recording_and_not_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record_files.SpeechFile, "flush", full)
    recorder = Recorder(tmp_path / "call", {"call_id": "x"}, warn)
    await drive(recorder, 1.0)
    recorder.closed("hung_up")
    assert await asyncio.to_thread(recorder.join, 60)
    await asyncio.sleep(0)
    assert WARNINGS == [
        (
            "recording_stopped",
            "The recording stopped: its folder cannot be written (No space left on device). The call goes on.",
        )
    ]
    assert (tmp_path / "call.partial" / "call.json").exists()


async def test_a_folder_that_vanished_is_said_once(tmp_path: Path) -> None:
    recorder = Recorder(Path("/proc/nowhere/call"), {}, warn)
    recorder.closed("hung_up")
    assert await asyncio.to_thread(recorder.join, 60)
    await asyncio.sleep(0)
    assert [code for code, _ in WARNINGS] == ["recording_stopped"]


def test_a_folder_for_recordings_must_be_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StartError, match=r"RECORD=.*name a folder that can be"):
        Recordings(tmp_path / "file")
