"""Whole calls with a loudspeaker beside the microphone, in virtual time: an answer does not interrupt itself."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.replay.bundle import read_bundle, write_bundle
from app.replay.bundle_media import BundleError
from app.replay.echo import EchoTally, main
from app.replay.leak import Leak
from app.replay.replay_call import replay_call
from app.replay.turn_tally import ToBeHeard
from engine.client import INPUT_RATE
from engine.serving import scripted
from engine.serving.scripted import Script, ScriptedEngine
from tests.call.test_echo import ANSWER, PERSON, quiet

LEAK = Leak(-12, 120)


@pytest.fixture(autouse=True)
def _spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripted engine says its answers with a person's voice: its own notes are like no speech."""

    @functools.cache
    def speak(words: tuple[str, ...]) -> list[Any]:
        pieces = np.array_split(ANSWER, max(1, len(words)))
        return [
            (word if not n else f" {word}", piece, ((0 if not n else 1, sum(map(len, pieces[:n]))),))
            for n, (word, piece) in enumerate(zip(words, pieces, strict=True))
        ]

    monkeypatch.setattr(scripted, "speak", lambda words: speak(tuple(words)))


def bundle(folder: Path, near: np.ndarray, leak: Leak | None, **options: Any) -> Path:
    """Two typed questions, at 0.5 and 8 s."""
    asked = [{"t": t, "type": "input.text", "data": {"text": "Say something long."}} for t in (0.5, 8.0)]
    return write_bundle(folder, near, INPUT_RATE, options=options, commands=asked, leak=leak)


async def replay(folder: Path) -> list[dict[str, Any]]:
    engine = ScriptedEngine(Script(answers=("one two three four five six seven eight nine ten",)))
    await engine.start()
    return (await replay_call(read_bundle(folder), engine)).events


def of(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


async def test_an_answer_does_not_interrupt_itself_through_a_loudspeaker(tmp_path: Path) -> None:
    near = quiet(16 * INPUT_RATE)
    events = await replay(bundle(tmp_path / "on", near, LEAK))
    assert [event["data"]["status"] for event in of(events, "response.done")] == ["completed", "completed"]
    without = await replay(bundle(tmp_path / "off", near, LEAK, echo={"gate": False}))
    pauses = [len([e for e in of(log, "response.paused") if e["t"] > 8]) for log in (events, without)]
    assert 2 * pauses[0] <= pauses[1], pauses  # by the second answer the echo is known
    assert pauses[1]


async def test_a_person_interrupts_an_answer_over_its_echo(tmp_path: Path) -> None:
    near = quiet(16 * INPUT_RATE)
    begin = round(9.5 * INPUT_RATE)
    near[begin : begin + len(PERSON)] += PERSON
    events = await replay(bundle(tmp_path / "call", near, LEAK))
    (cut,) = [event for event in of(events, "response.done") if event["data"]["status"] == "cancelled"]
    assert cut["data"]["reason"] == "barge_in"
    assert 9.5 < cut["t"] < 11.5


async def test_without_a_loudspeaker_the_gate_changes_nothing(tmp_path: Path) -> None:
    near = quiet(16 * INPUT_RATE)
    for begin in (round(2.0 * INPUT_RATE), round(9.5 * INPUT_RATE)):
        near[begin : begin + len(PERSON)] += PERSON
    logs = []
    for gate in (False, True):
        events = await replay(bundle(tmp_path / f"call-{gate}", near, None, echo={"gate": gate}))
        logs.append([event for event in events if event["type"] != "welcome"])
    assert logs[0] == logs[1]


async def test_a_leak_replays_to_the_same_events(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "call", quiet(12 * INPUT_RATE), LEAK)
    assert await replay(folder) == await replay(folder)


@pytest.mark.parametrize(
    ("leak", "fault"),
    [
        ({"gain_db": -12}, "gain_db, delay_ms and perhaps room_ms"),
        ({"gain_db": -12, "delay_ms": 0}, "delay_ms of a leak must be a number from 5 to 2000"),
        ({"gain_db": True, "delay_ms": 120}, "gain_db of a leak must be a number"),
        ({"gain_db": -12, "delay_ms": 120, "hall": 1}, "gain_db, delay_ms and perhaps room_ms"),
        (-12, "gain_db, delay_ms and perhaps room_ms"),
    ],
)
def test_a_wrong_leak_is_a_sentence(tmp_path: Path, leak: object, fault: str) -> None:
    folder = bundle(tmp_path / "call", quiet(INPUT_RATE), None)
    call = json.loads((folder / "call.json").read_text())
    (folder / "call.json").write_text(json.dumps(call | {"leak": leak}))
    with pytest.raises(BundleError, match=fault):
        read_bundle(folder)


def test_a_leak_needs_the_microphone_at_16_khz(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"48000 Hz, and call\.json a leak"):
        write_bundle(tmp_path / "call", np.zeros(48_000, np.int16), 48_000, leak=LEAK)


def test_what_happens_while_nobody_talks_is_put_down_to_the_echo() -> None:
    def event(kind: str, t: float, epoch: int, reason: str = "") -> dict[str, Any]:
        return {"type": kind, "t": t, "epoch": epoch, "data": {"reason": reason}}

    events = [
        event("response.started", 1.0, 1),
        event("response.paused", 1.3, 1, "voice"),
        event("response.paused", 1.9, 1, "voice"),
        event("response.done", 2.5, 1, "barge_in"),
        event("response.started", 4.0, 3),
        event("response.paused", 5.2, 3, "voice"),
        event("response.done", 5.8, 3, "barge_in"),
    ]
    tally = EchoTally()
    tally.add([ToBeHeard("interruption", 5.0, 7.0)], events)
    assert (tally.answers, tally.cut, tally.paused, tally.interruptions, tally.obeyed) == (2, 1, 1, 1, 1)
    assert tally.stops == [pytest.approx(0.2)]


def test_the_table_of_echoes_has_a_row_for_each_gain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bundle(tmp_path / "call", quiet(3 * INPUT_RATE), LEAK)
    (folder / "turns.jsonl").write_text("")
    assert main([str(folder), "--engine", "scripted"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:]] == [["| -12", "off"], ["| -12", "on"]]
