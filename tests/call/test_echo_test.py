"""The sound test in virtual time: what it measures, what it advises, when it is refused, and that it replays."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.call.call import Call
from app.call.config import CallConfig, EchoConfig
from app.call.echo.bands import BandMeter
from app.call.echo.chime import chime
from app.call.echo.self_test import Found, measure
from app.call.media_time import FRAME_SAMPLES
from app.call.protocol import check_event
from app.replay.bundle import read_bundle, write_bundle
from app.replay.leak import Leak, LeakyRoom
from app.replay.record import Recordings
from app.replay.replay_call import replay_call
from engine.client import INPUT_RATE, OUTPUT_RATE
from engine.serving.scripted import Script, ScriptedEngine
from tests.call.test_echo import PERSON, PULL, frames, quiet
from tests.replay.recorded import assert_replays_identically

TEST: dict[str, Any] = {"type": "echo.test"}
SPEECH = ("response.started", "response.done", "assistant.text")


def typed(text: str = "Hello?") -> dict[str, Any]:
    return {"type": "input.text", "data": {"text": text}}


async def events_of(
    folder: Path, near: np.ndarray, commands: list[tuple[float, dict[str, Any]]], leak: Leak | None = None
) -> list[dict[str, Any]]:
    """The events of a call in which the client sends ``commands`` at their times."""
    at = [{"t": t, **command} for t, command in commands]
    bundle = write_bundle(folder, near, INPUT_RATE, commands=at, leak=leak)
    engine = ScriptedEngine(Script(answers=("one two three four five six seven eight",)))
    await engine.start()
    events = (await replay_call(read_bundle(bundle), engine)).events
    for event in events[1:]:
        check_event(event)
    return events


def of(events: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] in kinds]


def codes(events: list[dict[str, Any]]) -> list[str]:
    return [event["data"]["code"] for event in of(events, "warning", "error")]


def test_the_chime_is_short_and_not_loud() -> None:
    pcm = chime()
    assert len(pcm) == 1.2 * OUTPUT_RATE
    assert 20 * np.log10(np.abs(pcm).max() / 32768) == pytest.approx(-12, abs=0.1)
    assert abs(int(pcm[0])) < 10
    assert abs(int(pcm[-1])) < 10


async def test_where_nothing_comes_back_all_is_well(tmp_path: Path) -> None:
    events = await events_of(tmp_path / "call", quiet(5 * INPUT_RATE), [(1.0, TEST)])
    (result,) = of(events, "echo.result")
    assert result["data"] == {"delay_ms": None, "leak_db": None, "policy": "full"}
    assert 3.2 < result["t"] < 3.5
    assert (result["turn"], result["epoch"]) == (0, 0)


@pytest.mark.parametrize("delay_ms", [60, 150, 500])
@pytest.mark.parametrize(
    ("gain_db", "policy"), [(-20, "careful"), (-14, "careful"), (-7, "headphones"), (-4, "push_to_talk")]
)
async def test_what_comes_back_is_measured_and_answered_by_nobody(
    tmp_path: Path, gain_db: float, delay_ms: int, policy: str
) -> None:
    leak = Leak(gain_db, delay_ms)
    events = await events_of(tmp_path / "call", quiet(5 * INPUT_RATE), [(1.0, TEST)], leak)
    (result,) = of(events, "echo.result")
    assert result["data"]["delay_ms"] == pytest.approx(delay_ms, abs=20)
    assert result["data"]["leak_db"] == pytest.approx(gain_db, abs=3)
    assert result["data"]["policy"] == policy
    assert not of(events, *SPEECH)
    assert not [event for event in of(events, "turn.state") if event["data"]["state"] == "hearing"]


@pytest.mark.parametrize(
    ("found", "policy"),
    [
        (Found(None, None, False), "full"),
        (Found(100, -30.1, True), "full"),
        (Found(100, -30.0, True), "careful"),
        (Found(100, -10.0, True), "headphones"),
        (Found(100, -3.0, True), "push_to_talk"),
        (Found(None, None, True), "push_to_talk"),
    ],
)
def test_the_advice_follows_from_the_leak(found: Found, policy: str) -> None:
    assert found.policy == policy


def test_an_echo_without_a_steady_delay_is_heard_but_not_measured() -> None:
    """As through a connection that stretches time: each tone comes later than the last."""
    played = np.concatenate([np.zeros(300 * 24, np.int16), chime(), np.zeros(800 * 24, np.int16)])
    near = quiet(len(played) * 2 // 3)
    tones = np.split(chime(), 3)
    for tone, begin_s in zip(reversed(tones), (0.35, 0.85, 1.7), strict=True):
        heard = np.interp(np.arange(len(tone) * 2 // 3) * 1.5, np.arange(len(tone)), tone)
        begin = round(begin_s * INPUT_RATE)
        near[begin : begin + len(heard)] += (heard * 0.2).astype(np.int16)
    found = measure(BandMeter(INPUT_RATE).push(near), BandMeter(OUTPUT_RATE).push(played), 0, EchoConfig())
    assert found == Found(None, None, True)


async def test_while_an_answer_is_given_the_test_is_refused(tmp_path: Path) -> None:
    events = await events_of(tmp_path / "call", quiet(3 * INPUT_RATE), [(0.5, typed()), (1.0, TEST)])
    assert codes(events) == ["echo_test_busy"]
    assert not of(events, "echo.result")
    assert of(events, "response.done")[0]["data"]["status"] == "completed"


async def test_while_a_person_speaks_the_test_is_refused(tmp_path: Path) -> None:
    near = quiet(5 * INPUT_RATE)
    near[INPUT_RATE : INPUT_RATE + len(PERSON)] += PERSON
    events = await events_of(tmp_path / "call", near, [(1.8, TEST)])
    assert codes(events) == ["echo_test_busy"]
    assert len(of(events, "response.started")) == 1


async def test_a_second_test_waits_for_the_first(tmp_path: Path) -> None:
    events = await events_of(tmp_path / "call", quiet(8 * INPUT_RATE), [(1.0, TEST), (2.0, TEST), (4.0, TEST)])
    assert codes(events) == ["echo_test_busy"]
    assert len(of(events, "echo.result")) == 2


async def test_without_a_microphone_nothing_can_be_measured(tmp_path: Path) -> None:
    muted = {"type": "mic.state", "data": {"muted": True}}
    events = await events_of(tmp_path / "off", quiet(4 * INPUT_RATE), [(0.5, muted), (1.0, TEST)])
    assert codes(events) == ["echo_test_muted"]
    events = await events_of(tmp_path / "later", quiet(4 * INPUT_RATE), [(0.5, TEST), (1.0, muted)])
    assert codes(events) == ["echo_test_ended"]


async def test_who_speaks_during_the_test_is_asked_to_do_it_again(tmp_path: Path) -> None:
    near = quiet(6 * INPUT_RATE)
    begin = round(1.2 * INPUT_RATE)
    near[begin : begin + 2 * INPUT_RATE] += PERSON[: 2 * INPUT_RATE]
    events = await events_of(tmp_path / "call", near, [(1.0, TEST)])
    assert codes(events) == ["echo_test_ended"]
    assert not of(events, "echo.result", *SPEECH)


async def test_a_chime_that_was_not_taken_says_nothing() -> None:
    engine = ScriptedEngine(Script())
    await engine.start()
    config = CallConfig()
    call = Call("call", config, await engine.open(config.session_options()))
    events: list[dict[str, Any]] = []
    call.attach(lambda text: events.append(json.loads(text)))
    for n, frame in enumerate(frames(quiet(4 * INPUT_RATE), FRAME_SAMPLES)):
        if n == 10:
            call.receive(json.dumps({"v": 1, "seq": 0, **TEST}))
        call.microphone.push(frame, INPUT_RATE, n * FRAME_SAMPLES)
        if n < 30:
            call.output.pull(PULL)
    await call.close("done")
    await engine.stop()
    assert codes(events) == ["echo_test_ended"]


async def test_an_answer_breaks_the_test_off_and_the_chime_with_it(tmp_path: Path) -> None:
    events = await events_of(tmp_path / "call", quiet(5 * INPUT_RATE), [(1.0, TEST), (1.5, typed())], Leak(-12, 150))
    assert codes(events) == ["echo_test_ended"]
    (done,) = of(events, "response.done")
    alone = await events_of(tmp_path / "alone", quiet(5 * INPUT_RATE), [(1.5, typed())])
    assert done["data"] == of(alone, "response.done")[0]["data"]  # heard to the millisecond as without a chime


async def test_after_the_test_a_person_is_answered(tmp_path: Path) -> None:
    near = quiet(9 * INPUT_RATE)
    begin = round(3.6 * INPUT_RATE)
    near[begin : begin + len(PERSON)] += PERSON
    events = await events_of(tmp_path / "call", near, [(1.0, TEST)], Leak(-12, 150))
    assert len(of(events, "echo.result")) == 1
    assert of(events, "response.started")


@pytest.mark.parametrize("seed", range(3))
async def test_a_recorded_call_with_a_test_in_it_replays(tmp_path: Path, seed: int) -> None:
    """Packets come in bursts and the track pulls in its own time; the measure holds, and repeats itself."""
    dice = random.Random(seed)
    engine = ScriptedEngine(Script())
    info = await engine.start()
    config = CallConfig()
    recordings = Recordings(tmp_path)
    recorder = recordings.begin("call", config, info, lambda code, message: None)
    call = Call("call", config, await engine.open(config.session_options()), recorder, engine=info)
    room, pts, owed = LeakyRoom(Leak(-15, 200)), 0, 0
    for n, frame in enumerate(frames(quiet(5 * INPUT_RATE), FRAME_SAMPLES)):
        if n == 50:
            call.receive(json.dumps({"v": 1, "seq": 0, **TEST}))
        call.microphone.push(room.hear(frame), INPUT_RATE, pts)
        pts += FRAME_SAMPLES
        owed += 1
        if dice.random() < 0.6:
            for _ in range(owed):
                room.play(call.output.pull(PULL))
            owed = 0
    await call.close("hung_up")
    await engine.stop()
    assert recordings.finish(10)
    events = await assert_replays_identically(recorder.folder)
    (result,) = of(events, "echo.result")
    assert result["data"]["leak_db"] == pytest.approx(-15, abs=3)
    assert result["data"]["delay_ms"] is not None
