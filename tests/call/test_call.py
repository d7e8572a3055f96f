"""Whole calls against the scripted engine, in media time."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

import numpy as np

from app.call.config import CallConfig
from engine.serving.scripted import Script, ScriptedEngine
from tests.call.talk import QUIET, FailingSession, Talk, start
from tests.speechlike import speechlike


async def test_a_question_is_answered() -> None:
    talk = await start(Script(answers=("I heard {seconds} seconds",)))
    for sound in (QUIET, speechlike(2.4), 4.0):
        await talk.hear(sound)
    assert talk.states == ["listening", "hearing", "thinking", "speaking", "listening"]
    seconds = float(talk.text.split()[2])
    assert 2.4 <= seconds <= 3.1  # the speech, its pre-roll and its hangover
    done = talk.of("response.done")[0]
    assert done["data"]["status"] == "completed"
    assert done["data"]["heard_chars"] == len(talk.text)
    assert 400 <= done["data"]["timings"]["endpoint_ms"] <= 500
    assert [event["seq"] for event in talk.log.events] == list(range(len(talk.log.events)))
    await talk.call.close("done")


async def test_interruption_tells_what_was_heard() -> None:
    talk = await start(Script(answers=("one two three four five six seven eight nine ten",)))
    for sound in (QUIET, speechlike(1.0), 1.5, speechlike(1.2), QUIET):
        await talk.hear(sound)
    first = talk.of("response.done")[0]
    assert first["data"]["status"] == "cancelled"
    assert first["data"]["reason"] == "barge_in"
    assert 0 < first["data"]["heard_ms"] < 3_000
    assert 0 < first["data"]["heard_chars"] < 49
    assert len(talk.of("response.started")) == 2
    epochs = [event["epoch"] for event in talk.log.events]
    assert epochs == sorted(epochs)
    after = talk.log.events.index(first)
    assert talk.log.events[after + 1]["data"]["state"] == "interrupted"
    await talk.call.close("done")


async def test_typing_stopping_and_unknown_messages() -> None:
    talk = await start(Script(answers=("a long answer to stop", "and another")))
    await talk.send("hello", protocol=1)
    await talk.send("input.text", text="hello there")
    await talk.hear(0.2)
    await talk.send("response.cancel", reason="stop_button")
    await talk.send("input.text", text="quietly", speak=False)
    await talk.send("ping", nonce="n")
    await talk.send("surprise", x=1)
    await talk.send("mic.state")
    talk.call.receive("{")
    await talk.hear(0.1)
    assert [done["data"]["status"] for done in talk.of("response.done")] == ["cancelled", "completed"]
    assert talk.of("pong")[0]["data"]["nonce"] == "n"
    assert talk.of("warning")[0]["data"]["code"] == "unknown_type"
    assert [error["data"]["code"] for error in talk.of("error")] == ["invalid_message", "bad_json"]
    await talk.send("bye")
    assert talk.ended == ["bye"]
    assert talk.log.events[-1]["type"] == "session.ending"
    await talk.call.close("bye")
    assert talk.log.inputs[-1] == ("closed",)


async def test_options_change_during_a_call() -> None:
    talk = await start()
    await talk.hear(0.1)
    await talk.send("session.update", vad={"kind": "silero"}, barge_in=False, voice="other")
    config = talk.of("session.updated")[0]["data"]["config"]
    assert (config["vad"]["kind"], config["barge_in"], config["voice"]) == ("silero", False, "default")
    assert talk.of("warning")[0]["data"]["code"] == "fixed_at_start"
    await talk.send("session.update", vad={"onset_ms": -1})
    assert talk.of("error")[0]["data"]["code"] == "bad_options"
    await talk.call.close("done")


async def test_push_to_talk_can_be_switched_on_and_off() -> None:
    talk = await start()
    await talk.hear(0.1)
    await talk.send("session.update", turn={"detection": "push_to_talk"})
    await talk.hear(speechlike(1.0))
    await talk.send("session.update", turn={"detection": "vad"})
    await talk.hear(0.1)
    assert talk.states == ["listening", "idle", "listening"]
    assert not talk.of("response.started")
    await talk.call.close("done")


async def test_a_muted_microphone_is_not_heard() -> None:
    talk = await start()
    await talk.send("mic.state", muted=True)
    await talk.hear(speechlike(2.0))
    assert talk.states == ["paused"]
    assert not any(item[1].any() for item in talk.log.inputs if item[0] == "audio")
    await talk.call.close("done")


async def test_push_to_talk_and_pictures() -> None:
    talk = await start(options={"turn": {"detection": "push_to_talk"}, "hd_video": True})
    await talk.hear(0.2)
    talk.call.push_frame(_jpeg())
    await talk.send("mic.state", muted=False)
    await talk.hear(1.5)
    await talk.send("input.commit")
    await talk.hear(0.1)
    used = talk.of("frame.used")
    assert [event["data"] for event in used] == [{"unit": 1, "hd": False}, {"unit": 2, "hd": True}]
    assert sum(item[0] == "frame" for item in talk.log.inputs) == 1
    await talk.send("camera.state", muted=True)
    await talk.send("input.text", text="and now")
    assert len(talk.of("frame.used")) == 2
    await talk.call.close("done")


async def test_a_broken_picture_costs_no_word() -> None:
    talk = await start(options={"turn": {"detection": "push_to_talk"}})
    talk.call.push_frame(b"no picture")
    await talk.send("mic.state", muted=False)
    await talk.hear(0.5)
    await talk.send("input.commit")
    assert talk.of("warning")[0]["data"]["code"] == "bad_frame"
    assert talk.of("context")
    assert not talk.of("frame.used")
    await talk.call.close("done")


async def test_a_pause_of_the_microphone() -> None:
    talk = await start()
    await talk.hear(0.1)
    talk.call.microphone_paused()
    talk.call.microphone_paused()
    await talk.hear(0.1)
    assert talk.states == ["listening", "paused", "listening"]
    assert sum(item[0] == "paused" for item in talk.log.inputs) == 1
    await talk.call.close("done")


async def test_a_second_connection_gets_what_it_missed() -> None:
    talk = await start(resume_token="secret" * 4)
    assert talk.wire[0]["type"] == "welcome"
    assert talk.wire[0]["data"]["resume_token"] == "secret" * 4
    assert "resume_token" not in talk.log.events[0]["data"]
    await talk.hear(0.5)
    seen = talk.wire[-1]["seq"]
    talk.call.detach()
    talk.call.metrics({"rtt_ms": 1})
    await talk.send("ping", nonce=1)
    again: list[dict[str, Any]] = []
    talk.call.attach(lambda raw: again.append(json.loads(raw)))
    assert again == []
    await talk.send("hello", last_seq=seen)
    assert [event["seq"] for event in again] == list(range(seen + 1, seen + 1 + len(again)))
    assert again[-1]["type"] == "welcome"
    assert again[-1]["data"]["resumed"]
    assert not talk.of("metrics")
    third: list[dict[str, Any]] = []
    talk.call.attach(lambda raw: third.append(json.loads(raw)))
    await talk.hear(speechlike(5.5))  # it never says hello
    assert third[0]["type"] == "welcome"
    await talk.call.close("done")


async def test_a_connection_that_loses_the_call_to_another_is_told_and_nobody_else_is() -> None:
    talk = await start()
    await talk.hear(0.1)
    talk.call.detach(moved=True)
    moved = talk.wire[-1]
    assert moved["type"] == "session.moved"
    again: list[dict[str, Any]] = []
    talk.call.attach(lambda raw: again.append(json.loads(raw)))
    await talk.send("hello", last_seq=-1)
    assert [event["seq"] for event in again] == list(range(len(again)))
    assert "session.moved" not in {event["type"] for event in [*again, *talk.log.events]}
    assert moved["seq"] == again[-1]["seq"], "its number is used again"
    await talk.call.close("done")


async def test_a_client_that_comes_back_is_told_how_far_the_answer_was_played() -> None:
    talk = await start(Script(answers=("one and then two and then three",)))
    await talk.send("input.text", text="Count")
    await talk.hear(0.5)
    talk.call.detach()
    again: list[dict[str, Any]] = []
    talk.call.attach(lambda raw: again.append(json.loads(raw)))
    await talk.send("hello", last_seq=talk.wire[-1]["seq"])
    assert again[-1]["data"]["answer"] == {"epoch": 1, "played_ms": 500.0}
    await talk.hear(4.0)
    assert talk.of("user.text")[0]["data"] == {"text": "Count"}
    assert talk.of("response.done")[0]["data"]["status"] == "completed"
    await talk.call.close("done")


async def test_a_recorded_order_of_results_gives_the_identical_events() -> None:
    """Whatever the engine's speed was: the inputs in their recorded order are the call."""
    engine = ScriptedEngine(Script(prefill_s=0.004, first_chunk_s=0.01, chunk_s=0.003))
    info = await engine.start()
    config = CallConfig()
    live = Talk(await engine.open(config.session_options()), config, engine=info)
    sound = np.concatenate([np.zeros(8_000, np.int16), speechlike(1.3), np.zeros(14_080, np.int16), speechlike(1.0),
                            np.zeros(32_000, np.int16)])  # fmt: skip
    for begin in range(0, len(sound) - 319, 320):
        live.call.microphone.push(sound[begin : begin + 320], 16_000, begin)
        await asyncio.sleep(0.0005)
        live.call.output.pull(480)
    await live.call.close("done")
    assert len(live.of("response.done")) == 2

    again = Talk(await engine.open(config.session_options()), config, engine=info, held=True)
    t = 0
    for item in live.log.inputs:
        match item:
            case ("audio", pcm):
                again.call.microphone.push(pcm, 16_000, t)
                t += len(pcm)
            case ("result", n):
                assert await again.call.link.release(n)
            case ("played", samples):
                again.call.output.pull(samples)
    await again.call.close("done")
    assert again.log.events == live.log.events


async def test_a_picture_that_a_model_without_eyes_did_not_see_was_not_used() -> None:
    talk = Talk(FailingSession("overloaded"), CallConfig())
    await talk.hear(0.2)
    talk.call.push_frame(_jpeg())
    await talk.send("input.text", text="look")
    await talk.hear(0.5)
    assert sum(item[0] == "frame" for item in talk.log.inputs) == 1
    assert talk.of("context")
    assert not talk.of("frame.used")
    await talk.call.close("done")


async def test_nothing_is_left_after_a_close() -> None:
    before = asyncio.all_tasks()
    talk = await start(Script(first_chunk_s=60.0))
    await talk.send("ping")
    talk.call.receive('{"v":1,"type":"input.text","data":{"text":"hello"}}')
    await asyncio.sleep(0.01)
    await talk.call.close("done")
    await talk.call.close("done")
    await asyncio.sleep(0.01)
    gc.collect()
    assert asyncio.all_tasks() == before
    assert talk.of("response.done")[0]["data"]["status"] == "cancelled"
    talk.call.receive("{}")
    await talk.hear(0.1)
    assert talk.log.inputs[-1] == ("closed",)


def _jpeg() -> bytes:
    from app.call.frames import encode_jpeg

    return encode_jpeg(np.zeros((64, 64, 3), np.uint8))
