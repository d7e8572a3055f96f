"""The engine's worker dies or hangs during calls: they go on with their memory, and their recordings replay."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.serving import process
from engine.serving.process import ProcessEngine
from engine.serving.scripted import Script, ScriptedEngine
from tests.http.conftest import Site, StartServer
from tests.replay.conftest import silence
from tests.replay.recorded import assert_replays_identically, finished_recording
from tests.speechlike import speechlike
from tests.webrtc.caller import Caller, Microphone, until

ANSWER = "Turn {turn}: you typed {typed} in {units} units and before that I said {said} and this goes on for a while"


class Ward:
    """A server whose engine is a scripted one in a worker; calls are recorded."""

    def __init__(self, site: Site, script: Path, recordings: Path) -> None:
        self.site, self.script, self.recordings = site, script, recordings
        self.recorded_with = script.read_text()

    @property
    def engine(self) -> ProcessEngine:
        assert isinstance(self.site.server.engine, ProcessEngine)
        return self.site.server.engine

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.engine.pid is not None
        os.kill(self.engine.pid, number)

    async def replays(self, call_id: str) -> list[dict[str, Any]]:
        """The events of a recording, which an engine that nothing happens to repeats."""
        folder = await finished_recording(self.recordings, call_id)
        self.script.write_text(self.recorded_with)
        return await assert_replays_identically(folder, ScriptedEngine(Script.load(self.script)))


@pytest.fixture
async def ward(start: StartServer, tmp_path: Path) -> Ward:
    (script := tmp_path / "script.json").write_text(json.dumps({"answers": [ANSWER], "chunk_s": 0.05}))
    recordings = tmp_path / "calls"
    return Ward(await start("--script", str(script), "--record", str(recordings), in_process=False), script, recordings)


def warnings(caller: Caller) -> list[str]:
    return [event["data"]["code"] for event in caller.of_type("warning")]


def said(caller: Caller) -> str:
    return "".join(event["data"]["delta"] for event in caller.of_type("assistant.text"))


async def test_a_call_goes_on_when_the_engine_is_killed_in_the_middle_of_an_answer(ward: Ward) -> None:
    caller, answer = await ward.site.call()
    caller.send("input.text", text="my name is Anna")
    await caller.receive("assistant.text")
    ward.kill()
    await until(lambda: "engine_restarting" in warnings(caller), "word of it")
    status, body, response = await ward.site.offer(await Caller().offer())
    assert (status, body["error"]["code"], "Retry-After" in response.headers) == (503, "not_ready", True)
    done = await caller.receive("response.done")
    assert (done["data"]["status"], done["data"]["heard_chars"]) == ("completed", len(said(caller)))
    assert "engine_answers" in warnings(caller)
    first = said(caller)
    caller.send("input.text", text="what is my name", speak=False)
    await caller.receive("response.done", 2)
    assert f"before that I said {first} and" in said(caller)
    assert not caller.of_type("error")
    await ward.site.hang_up(answer["call_id"])
    events = await ward.replays(answer["call_id"])
    assert "warning" not in [event["type"] for event in events]


async def test_what_is_said_while_the_engine_is_away_is_answered(ward: Ward) -> None:
    sound = np.concatenate([silence(0.5, 48_000), speechlike(2.4, 48_000)])
    caller, answer = await ward.site.call(Caller(Microphone(sound)))
    await until(lambda: "hearing" in [event["data"]["state"] for event in caller.of_type("turn.state")], "speech")
    ward.kill()
    assert (await caller.receive("response.done"))["data"]["status"] == "completed"
    assert "in 3 units" in said(caller) or "in 4 units" in said(caller)
    assert warnings(caller)[:2] == ["engine_restarting", "engine_answers"], "a slow machine may stall the new one, too"
    await ward.site.hang_up(answer["call_id"])
    await ward.replays(answer["call_id"])


async def test_two_calls_at_once_keep_each_its_own_memory(ward: Ward) -> None:
    callers = [(await ward.site.call())[0] for _ in range(2)]
    for caller, name in zip(callers, ("Anna", "Otto"), strict=True):
        caller.send("input.text", text=f"I am {name}", speak=False)
    for caller in callers:
        await caller.receive("response.done")
    ward.kill()
    await until(lambda: all("engine_answers" in warnings(caller) for caller in callers), "the engine's return")
    for caller in callers:
        caller.send("input.text", text="who am I", speak=False)
    for caller, name in zip(callers, ("Anna", "Otto"), strict=True):
        await caller.receive("response.done", 2)
        assert f"I said Turn 1: you typed I am {name} in" in said(caller).split("Turn 2")[1]
    assert len(ward.site.server.registry) == len(await ward.engine.sessions()) == 2


async def test_an_engine_that_hangs_is_replaced_and_its_calls_go_on(ward: Ward) -> None:
    site = ward.site
    caller, _ = await site.call()
    caller.send("input.text", text="my name is Anna", speak=False)
    await caller.receive("response.done")
    ward.kill(signal.SIGSTOP)
    offer = await Caller().offer()
    status, body, response = await site.offer(offer)  # the engine hangs and nobody knows it yet
    assert (status, body["error"]["code"]) == (503, "engine_failed")
    assert response.headers["Retry-After"]
    assert len(site.server.registry) == 1, "the place is free again"
    async with site.http.get("/ready") as response:
        assert response.status == 503
        assert "does not answer" in (await response.json())["message"]
    await until(lambda: "engine_answers" in warnings(caller), "the engine's return")
    assert warnings(caller) == ["engine_stalled", "engine_restarting", "engine_answers"]
    caller.send("input.text", text="what is my name", speak=False)
    await caller.receive("response.done", 2)
    assert "I said Turn 1: you typed my name is Anna" in said(caller)
    await site.call()


async def test_an_answer_that_cannot_go_on_fails_with_what_was_heard_of_it(ward: Ward) -> None:
    """The engine comes back and would say something else."""
    ward.recorded_with = json.dumps({"answers": [ANSWER, "Second, after {said}"], "chunk_s": 0.05})
    ward.script.write_text(ward.recorded_with)
    ward.kill()
    await until(lambda: not ward.site.server.readiness()["ready"], "the engine's end")
    await until(lambda: ward.site.server.readiness()["ready"], "the engine's return")
    caller, answer = await ward.site.call()
    caller.send("input.text", text="one")
    await caller.receive("assistant.text")
    ward.script.write_text(json.dumps({"answers": ["No.", "Second, after {said}"], "chunk_s": 0.05}))
    ward.kill()
    done = (await caller.receive("response.done"))["data"]
    assert done["status"] == "failed"
    error = (await caller.receive("error"))["data"]
    assert (error["code"], error["fatal"], error["retryable"]) == ("answer_lost", False, True)
    heard = said(caller)[: done["heard_chars"]]
    caller.send("input.text", text="two", speak=False)
    await caller.receive("response.done", 2)
    assert said(caller).endswith(f"Second, after {heard}".rstrip())
    await ward.site.hang_up(answer["call_id"])
    events = await ward.replays(answer["call_id"])
    assert "answer_lost" in [event["data"].get("code") for event in events]


async def test_an_engine_that_does_not_come_back_ends_the_call_with_one_sentence(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "FIRST_RESTART_S", 0.05)
    caller, answer = await ward.site.call()
    caller.send("input.text", text="one")
    await caller.receive("assistant.text")
    ward.script.write_text("nonsense")
    ward.kill()
    error = (await caller.receive("error"))["data"]
    assert (error["code"], error["fatal"]) == ("worker_lost", True)
    assert "could not be started again" in error["message"]
    assert (await caller.receive("session.ending"))["data"]["reason"] == "engine_lost"
    await ward.site.free(0)
    assert len(caller.of_type("error")) == 1
    events = await ward.replays(answer["call_id"])
    assert [event["data"]["status"] for event in events if event["type"] == "response.done"] == ["failed"]
    await until(lambda: ward.site.server.readiness()["ready"], "the engine's return")
    await ward.site.call()


async def test_hanging_up_while_the_engine_is_away(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    spawn, may_return = asyncio.create_subprocess_exec, asyncio.Event()

    async def spawn_late(*args: Any, **kwargs: Any) -> asyncio.subprocess.Process:
        await may_return.wait()
        return await spawn(*args, **kwargs)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spawn_late)
    caller, answer = await ward.site.call()
    caller.send("input.text", text="one")
    await caller.receive("assistant.text")
    ward.kill()
    await until(lambda: "engine_restarting" in warnings(caller), "word of it")
    await ward.site.hang_up(answer["call_id"])
    await ward.site.free(0)
    may_return.set()
    await until(lambda: ward.site.server.readiness()["ready"], "the engine's return")
    assert await ward.engine.sessions() == ()
