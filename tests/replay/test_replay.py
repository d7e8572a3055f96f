"""The command: what it prints, how it scores, and that two runs are the same to the byte."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.call.protocol import check_event
from app.replay import cli as replay
from app.replay.bundle import write_bundle
from tests.replay.conftest import RATE, MakeBundle, picture, silence, write_video
from tests.speechlike import speechlike

SCRIPTED = ["--engine", "scripted"]


def run(*arguments: object) -> int:
    return replay.main([*SCRIPTED, *map(str, arguments)])


def call_replay(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "app.replay", *SCRIPTED, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, timeout=120)


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_one_bundle_prints_its_event_log(make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(make_bundle(expect=[{"turns": 1}])) == 0
    printed = capsys.readouterr()
    log = events(printed.out)
    for event in log:
        check_event(event)
    assert [event["seq"] for event in log] == list(range(len(log)))
    assert log[0]["type"] == "welcome"
    assert log[-1]["type"] == "session.ending"
    states = [event["data"]["state"] for event in log if event["type"] == "turn.state"]
    assert states == ["listening", "hearing", "thinking", "speaking", "listening", "idle"]
    assert "1 of 1 expectations hold" in printed.err


def test_the_status_tells_whether_all_expectations_hold(
    make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [{"turn": 1, "text_any": ["heard"], "text_not": ["sound"]}, {"turn": 1, "end_between_s": [1.7, 2.7]}]
    assert run(make_bundle(expect=wrong), "--json") == 1
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert (summary["passed"], summary["total"], summary["share"]) == (2, 3, round(2 / 3, 6))
    (bundle,) = summary["bundles"]
    assert bundle["bundle"] == "call"
    assert [e["passed"] for e in bundle["expectations"]] == [True, False, True]
    assert bundle["turns"][0]["text"].startswith("I heard")
    assert bundle["turns"][0]["status"] == "completed"
    assert bundle["events"][0]["type"] == "welcome"
    assert "failed, line 1: turn 1: text_not ['sound']" in printed.err


def test_a_broken_bundle_does_not_keep_the_others_from_being_scored(
    make_bundle: MakeBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, broken = (
        make_bundle("good", expect=[{"turns": 1}]),
        make_bundle("broken", expect=[{"turns": 1}, {"turns": 2}]),
    )
    (broken / "audio.wav").write_text("no sound")
    assert run(broken, tmp_path / "nowhere", good, "--out", tmp_path / "out") == 2
    printed = capsys.readouterr()
    *table, last = printed.out.splitlines()
    summary = json.loads(last)
    assert (summary["passed"], summary["total"]) == (1, 3)
    assert [bool(b["fault"]) for b in summary["bundles"]] == [True, True, False]
    assert [row.split()[0] for row in table] == ["bundle", "broken", "nowhere", "good"]
    assert f"{broken}/audio.wav cannot be read as sound" in printed.err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good", "summary.json"]


def test_the_files_of_out_hold_what_was_printed(
    make_bundle: MakeBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_bundle()
    assert run(folder, "--out", tmp_path / "out") == 0
    out = tmp_path / "out" / "call"
    assert (out / "events.jsonl").read_text(encoding="utf-8") == capsys.readouterr().out
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    with wave.open(str(out / "answer.wav")) as reader:
        assert (reader.getframerate(), reader.getnchannels()) == (24_000, 1)
        samples = np.frombuffer(reader.readframes(-1), np.int16)
    assert len(samples) / 24_000 == pytest.approx(result["seconds"], abs=0.001)
    begin = np.flatnonzero(samples)[0] / 24_000
    assert begin == pytest.approx(result["turns"][0]["end_s"], abs=0.05), "the answer begins where the turn ended"


def test_two_runs_are_the_same_to_the_byte(make_bundle: MakeBundle, tmp_path: Path) -> None:
    one = make_bundle("one", commands=[{"t": 3, "type": "input.text", "data": {"text": "wait"}}], expect=[{"turns": 2}])
    two = write_bundle(tmp_path / "two", np.tile(speechlike(0.8, 44_100), (2, 1)).T.copy(), 44_100)
    write_video(two / "video.mp4")
    runs = [call_replay(one, two, "--json", "--events", "--out", tmp_path / name) for name in ("a", "b")]
    runs.append(call_replay(one, two, "--json", "--events", "--jobs", 2, "--out", tmp_path / "c"))
    assert [r.returncode for r in runs] == [0, 0, 0], runs[0].stderr
    assert runs[0].stdout == runs[1].stdout == runs[2].stdout
    summary = json.loads(runs[0].stdout)
    assert all(b["events"] and b["turns"] for b in summary["bundles"])
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 7
    for name in ("b", "c"):
        assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / name / path).read_bytes() for path in files)


def test_pictures_go_with_the_units_of_their_time(make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_bundle(frames={0: picture(), 99_000: picture()}, expect=[{"frames_min": 2}, {"turns": 1}])
    assert run(folder) == 0
    (folder / "frames" / "0.jpg").unlink()
    assert run(folder) == 1
    assert "frames_min 2; found 0" in capsys.readouterr().err


def test_events_of_the_client_take_effect_at_their_time(
    make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [
        {"t": 0.0, "type": "mic.state", "data": {"muted": True}},
        {"t": 6.5, "type": "input.text", "data": {"text": "after the end of the audio"}},
        {"t": 7.0, "type": "response.cancel"},
    ]
    expect = [
        {"turns": 1},
        {"turn": 1, "text_any": ["typed", "0.0 seconds"], "end_between_s": [6.5, 6.5], "interrupted": True},
    ]
    assert run(make_bundle(commands=commands, expect=expect)) == 0, capsys.readouterr().err


def test_a_turn_that_the_end_of_the_audio_cuts_is_answered(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "cut", speechlike(1.5), RATE, expect=[{"turn": 1, "text_any": ["heard"]}])
    assert run(folder) == 0


def test_noise_gets_no_answer(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 300, RATE * 3).astype(np.int16)
    folder = write_bundle(tmp_path / "noise", noise, RATE, expect=[{"no_answer": True}, {"turns": 0}])
    assert run(folder) == 0


def test_a_call_that_does_not_come_to_an_end_is_cut_off(
    make_bundle: MakeBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"answers": [" ".join(["and so on"] * 60)]}))
    assert run(make_bundle(), "--script", script, "--tail", 3, "--json") == 0
    printed = capsys.readouterr()
    (bundle,) = json.loads(printed.out)["bundles"]
    assert bundle["notes"] == ["the call was cut off 3 s after the end of its audio"]
    assert bundle["turns"][0]["status"] == "cancelled"


def test_bundles_of_the_same_name_are_told_apart(make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(make_bundle("a/call"), make_bundle("b/call"), "--json") == 0
    assert [b["bundle"] for b in json.loads(capsys.readouterr().out)["bundles"]] == ["call", "call-2"]


def test_at_the_speed_of_a_clock_the_same_happens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_bundle(tmp_path / "short", silence(0.1), RATE)
    assert run(folder) == 0
    fast = capsys.readouterr().out
    assert run(folder, "--speed", "1") == 0
    assert capsys.readouterr().out == fast


def test_an_engine_that_does_not_start_is_a_sentence(make_bundle: MakeBundle, tmp_path: Path) -> None:
    result = call_replay(make_bundle(), "--script", tmp_path / "missing.json")
    assert result.returncode == 2
    assert result.stdout == b""
    assert b"missing.json cannot be read" in result.stderr
    assert b"Traceback" not in result.stderr


def test_a_name_that_is_no_unicode_is_printed_all_the_same(make_bundle: MakeBundle, tmp_path: Path) -> None:
    folder = tmp_path / "caf\udce9"  # the byte E9, which is no UTF-8
    make_bundle().rename(folder)
    for path in (folder, folder / "missing"):
        result = call_replay(path, "--json", "--out", tmp_path / "out")
        assert result.returncode == (0 if path == folder else 2), result.stderr
        assert b"Traceback" not in result.stderr
        assert json.loads(result.stdout)["bundles"][0]["bundle"] == ("caf�" if path == folder else "missing")


@pytest.mark.parametrize("arguments", [[], ["x", "--speed", "2"], ["x", "--jobs", "0"], ["x", "--tail", "-1"]])
def test_a_wrong_command_line_is_said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        replay.main(arguments)
    assert stopped.value.code == 2
    assert "usage: python -m app.replay" in capsys.readouterr().err
