"""Whole calls against the scripted engine, in media time."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import numpy as np
import pytest

from app.call.call import Call
from app.call.config import CallConfig
from app.call.protocol import check_event
from engine.client import Chunk, EngineError, EngineInfo, EngineSession, Prefilled, Unit
from engine.serving.scripted import Script, ScriptedEngine
from engine.spoken import Starts
from tests.speechlike import speechlike

QUIET = 1.0


class Log:
    """A tap that keeps everything, and checks every event against the schema."""

    def __init__(self) -> None:
        self.events: list[Mapping[str, Any]] = []
        self.inputs: list[tuple[Any, ...]] = []
        self.pcm: list[np.ndarray] = []

    def audio(self, pcm: np.ndarray) -> None:
        self.inputs.append(("audio", pcm))

    def unit_frame(self, t_samples: int, jpeg: bytes) -> None:
        self.inputs.append(("frame", t_samples, jpeg))

    def command(self, t_samples: int, raw: str) -> None:
        self.inputs.append(("command", raw))

    def result(self, t_samples: int, n: int) -> None:
        self.inputs.append(("result", n))

    def fault(self, t_samples: int, epoch: int | None, error: EngineError) -> None:
        self.inputs.append(("fault", epoch, error.code))

    def judged(self, t_samples: int, end: int, probability: float) -> None:
        self.inputs.append(("judged", end, probability))

    def meant(self, t_samples: int, end: int, stop: bool) -> None:
        self.inputs.append(("meant", end, stop))

    def played(self, t_samples: int, epoch: int, samples: int) -> None:
        self.inputs.append(("played", samples))

    def paused(self, t_samples: int) -> None:
        self.inputs.append(("paused",))

    def event(self, envelope: Mapping[str, Any]) -> None:
        if "resume_token" not in envelope["data"]:
            check_event(envelope)
        self.events.append(envelope)

    def speech(self, pcm: np.ndarray) -> None:
        self.pcm.append(pcm)

    def closed(self, reason: str) -> None:
        self.inputs.append(("closed",))


class Talk:
    """A call that is driven frame by frame."""

    def __init__(self, session: EngineSession, config: CallConfig, **more: Any) -> None:
        self.log = Log()
        self.ended: list[str] = []
        self.call = Call("test", config, session, self.log, on_end=self.ended.append, **more)
        self.wire: list[dict[str, Any]] = []
        self.call.attach(self._receive)

    def _receive(self, raw: str) -> None:
        self.wire.append(json.loads(raw))
        check_event(self.wire[-1])

    async def hear(self, sound: np.ndarray | float) -> None:
        pcm = np.zeros(round(sound * 16_000), np.int16) if isinstance(sound, float) else sound
        for begin in range(0, len(pcm) - 319, 320):
            self.call.microphone.push(pcm[begin : begin + 320], 16_000, self.call.t_samples)
            await self.call.idle()
            self.call.output.pull(480)

    async def send(self, kind: str, **data: Any) -> None:
        self.call.receive(json.dumps({"v": 1, "type": kind, "data": data}))
        await self.call.idle()

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [event for event in self.log.events if event["type"] == kind]

    @property
    def states(self) -> list[str]:
        return [event["data"]["state"] for event in self.of("turn.state")]

    @property
    def text(self) -> str:
        return "".join(event["data"]["delta"] for event in self.of("assistant.text"))


async def start(script: Script | None = None, options: dict[str, Any] | None = None, **more: Any) -> Talk:
    engine = ScriptedEngine(script)
    info = await engine.start()
    config = CallConfig.from_mapping(options or {})
    return Talk(await engine.open(config.session_options()), config, engine=info, **more)


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


class FailingSession:
    """A session whose requests go wrong in a given way."""

    def __init__(self, code: str, fault: Exception | None = None) -> None:
        self.fault = fault or EngineError(code, "It went wrong; try again.")
        self.is_closed = False

    async def prefill(self, unit: Unit) -> Prefilled:
        return Prefilled(1, 1, 100)

    async def generate(self, epoch: int) -> AsyncIterator[Chunk]:
        yield Chunk(epoch, 0, "one", np.ones(48_000, np.int16))
        raise self.fault

    async def check_text(self, text: str) -> None: ...

    async def cancel(self, epoch: int) -> None: ...

    async def heard(self, epoch: int, samples: int, read: int | None = None) -> None: ...

    async def rewind(self, units: int) -> None: ...

    async def remember(self, text: str, samples: int = 0, starts: Starts = ()) -> None: ...

    def watch(self, listener: Callable[[EngineError | None], None]) -> None:
        self.change = listener

    async def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(("code", "fatal"), [("overloaded", False), ("worker_lost", True)])
async def test_an_engine_that_fails(code: str, fatal: bool) -> None:
    session = FailingSession(code)
    talk = Talk(session, CallConfig())
    await talk.send("input.text", text="hello")
    await talk.hear(3.0)
    assert [done["data"]["status"] for done in talk.of("response.done")] == ["failed"]
    assert ("fault", None if fatal else 1, code) in talk.log.inputs
    error = talk.of("error")[0]["data"]
    assert (error["code"], error["fatal"]) == (code, fatal)
    assert talk.ended == (["engine_lost"] if fatal else [])
    if not fatal:
        await talk.send("input.text", text="again")
        await talk.hear(3.0)
        assert len(talk.of("response.done")) == 2
    await talk.call.close("done")
    assert session.is_closed


async def test_a_silent_caller_is_told_of_a_lost_engine_at_once() -> None:
    session = FailingSession("")
    talk = Talk(session, CallConfig())
    await talk.hear(0.1)

    def told(kind: str) -> list[dict[str, Any]]:
        return [event["data"] for event in talk.wire if event["type"] == kind]

    session.change(EngineError("engine_stalled", "It does not answer.", retryable=True))
    session.change(None)
    assert [warning["code"] for warning in told("warning")] == ["engine_stalled", "engine_answers"]
    assert talk.ended == []
    session.change(EngineError("worker_lost", "It is gone.", retryable=True))
    assert [(error["code"], error["fatal"]) for error in told("error")] == [("worker_lost", True)]
    assert told("session.ending")[-1]["reason"] == "engine_lost"
    assert talk.ended == ["engine_lost"]
    await talk.call.close("done")
    session.change(None)
    assert len(told("warning")) == 2
    assert not talk.of("warning"), "it has changed nothing in the call"
    assert ("fault", None, "worker_lost") in talk.log.inputs
    assert len(talk.of("error")) == 1


LONG = "word " * 1_500


class ReadySession(FailingSession):
    """Its answer is short: all of it is there before the turn is over, the first words without their sound."""

    async def generate(self, epoch: int) -> AsyncIterator[Chunk]:
        yield Chunk(epoch, 0, "Yes, ")
        yield Chunk(epoch, 1, "I can.", np.ones(12_000, np.int16))
        yield Chunk(epoch, 2, finish="stop")


async def test_an_answer_that_was_ready_before_its_turn_was_over_is_heard_to_its_end() -> None:
    talk = Talk(ReadySession(""), CallConfig())
    for sound in (QUIET, speechlike(1.2), 3.0):
        await talk.hear(sound)
    done = talk.of("response.done")[0]
    assert (done["data"]["status"], done["data"]["heard_ms"]) == ("completed", 500.0)
    assert done["t"] - talk.of("response.started")[0]["t"] >= 0.48  # 25 frames, the first of them at once
    await talk.call.close("done")


class MeasuringSession(FailingSession):
    """Takes nothing that holds the word ``refused``, and its time to measure."""

    def __init__(self) -> None:
        super().__init__("")
        self.measured: list[str] = []
        self.fed: list[str | None] = []
        self.go = asyncio.Event()

    async def check_text(self, text: str) -> None:
        self.measured.append(text)
        await self.go.wait()
        if "refused" in text:
            raise EngineError("text_too_long", "The text takes 9 tokens where 5 can be taken in at once; shorten it.")

    async def prefill(self, unit: Unit) -> Prefilled:
        self.fed.append(unit.text)
        return await super().prefill(unit)

    async def generate(self, epoch: int) -> AsyncIterator[Chunk]:
        yield Chunk(epoch, 0, "one", np.ones(48_000, np.int16))
        yield Chunk(epoch, 1, finish="stop")


ENGINE = EngineInfo("test", True, "cpu", 1, context_limit=4_096, max_sessions=1)


async def test_a_text_that_does_not_fit_costs_no_turn() -> None:
    session = MeasuringSession()
    session.go.set()
    talk = Talk(session, CallConfig(), engine=ENGINE)
    await talk.send("input.text", text="hello")
    await talk.hear(0.5)
    before = len(talk.log.events)
    await talk.send("input.text", text=LONG + "refused")
    (refused,) = talk.log.events[before:]
    assert (refused["type"], refused["data"]["code"], refused["data"]["fatal"]) == ("error", "text_too_long", False)
    assert "9 tokens where 5" in refused["data"]["message"]
    await talk.hear(3.0)
    assert [done["data"]["status"] for done in talk.of("response.done")] == ["completed"], "it interrupted nothing"
    assert session.fed == ["hello"]
    await talk.send("input.text", text=LONG)
    assert [event["turn"] for event in talk.of("response.started")] == [1, 2]
    assert session.measured == [LONG + "refused", LONG.strip()]
    await talk.call.close("done")


async def test_messages_wait_for_the_text_before_them() -> None:
    session = MeasuringSession()
    talk = Talk(session, CallConfig(), engine=ENGINE)
    for kind, data in (("input.text", {"text": LONG}), ("input.text", {"text": "second"}), ("ping", {"nonce": 1})):
        talk.call.receive(json.dumps({"v": 1, "type": kind, "data": data}))
    await asyncio.sleep(0)
    assert session.fed == []
    assert not talk.of("pong")
    session.go.set()
    await talk.call.link.idle()
    assert session.fed == [LONG.strip(), "second"]
    assert talk.of("pong")
    await talk.call.close("done")


async def test_a_call_can_end_while_a_text_is_measured() -> None:
    talk = Talk(MeasuringSession(), CallConfig(), engine=ENGINE)
    talk.call.receive(json.dumps({"v": 1, "type": "input.text", "data": {"text": LONG}}))
    await asyncio.sleep(0)
    await talk.call.close("done")
    assert not talk.of("response.started")


async def test_a_fault_of_the_engine_ends_the_answer_only() -> None:
    talk = Talk(FailingSession("", RuntimeError("a fault")), CallConfig())
    await talk.send("input.text", text="hello")
    await talk.hear(3.0)
    assert talk.of("error")[0]["data"]["code"] == "engine_fault"
    assert talk.of("response.done")[0]["data"]["status"] == "failed"
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
