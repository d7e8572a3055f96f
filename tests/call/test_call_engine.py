"""What a call makes of an engine that fails, is early, or takes its time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from app.call.config import CallConfig
from engine.client import Chunk, EngineError, EngineInfo, Prefilled, Unit
from tests.call.talk import QUIET, FailingSession, Talk
from tests.speechlike import speechlike

LONG = "word " * 1_500
ENGINE = EngineInfo("test", True, "cpu", 1, context_limit=4_096, max_sessions=1)


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
