"""A session outlives its worker: what was going on goes on, and nothing that was said is forgotten."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.client import Chunk, EngineError, SessionOptions, Unit
from engine.serving import heartbeat, process
from engine.serving.process import ProcessEngine
from engine.serving.process_session import MAX_LOSSES, ProcessSession
from engine.spec import EngineSpec
from tests.engine_runtime.conftest import unit

ANSWER = "Turn {turn} with {units} units, you typed {typed} and before I said {said}"
QUICK: dict[str, Any] = {"answers": [ANSWER], "chunk_s": 0.02}


class Patient:
    """A scripted engine in a worker that is killed, and a way to wait for what happens."""

    def __init__(self, engine: ProcessEngine, script: Path) -> None:
        self.engine = engine
        self.script = script
        self.changes: list[str | None] = []

    async def open(self) -> ProcessSession:
        session = await self.engine.open(SessionOptions())
        session.watch(lambda change: self.changes.append(change.code if change is not None else None))
        return session

    def write(self, **script: Any) -> None:
        self.script.write_text(json.dumps(script))

    def send(self, number: int) -> None:
        assert self.engine.pid is not None
        os.kill(self.engine.pid, number)

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not reached():  # noqa: ASYNC110 - it is the engine that is looked at
                await asyncio.sleep(0.005)

    async def lost(self, number: int = signal.SIGKILL) -> None:
        """Have the worker end, or hang, and be found out."""
        known = self.changes.count("engine_restarting")
        self.send(number)
        await self.until(lambda: self.changes.count("engine_restarting") > known)

    async def back(self) -> None:
        await self.until(lambda: self.engine.info is not None)


@asynccontextmanager
async def patient(folder: Path, **script: Any) -> AsyncIterator[Patient]:
    path = folder / "script.json"
    engine = ProcessEngine(EngineSpec(kind="scripted", in_process=False, script=str(path)))
    patient = Patient(engine, path)
    patient.write(**{**QUICK, **script})
    await engine.start()
    try:
        yield patient
    finally:
        await engine.stop()


async def rest(stream: AsyncIterator[Chunk]) -> list[Chunk]:
    async with asyncio.timeout(30):
        return [chunk async for chunk in stream]


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def sound(chunks: list[Chunk]) -> bytes:
    return np.concatenate([chunk.pcm for chunk in chunks]).tobytes()


async def whole(session: ProcessSession, epoch: int, typed: str) -> list[Chunk]:
    """A question, its answer, all of which is heard."""
    await session.prefill(Unit(text=typed))
    chunks = await rest(session.generate(epoch))
    await session.heard(epoch, sum(len(chunk.pcm) for chunk in chunks))
    return chunks


@pytest.mark.parametrize("came", [0, 1, 3])
async def test_an_answer_goes_on_behind_what_had_come_of_it(tmp_path: Path, came: int) -> None:
    async with patient(tmp_path) as it:
        unharmed, session = await it.open(), await it.open()
        for epoch, typed in ((1, "my name is Anna"), (2, "and how are you")):
            expected = await whole(unharmed, epoch, typed)
        await whole(session, 1, "my name is Anna")
        await session.prefill(Unit(text="and how are you"))
        stream = session.generate(2)
        first = [await anext(stream) for _ in range(came)]
        it.send(signal.SIGKILL)
        chunks = first + await rest(stream)
        assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
        assert chunks[-1].finish == "stop"
        assert "before I said Turn 1 with 1 units, you typed my name is Anna" in text(chunks)
        assert (text(chunks), sound(chunks)) == (text(expected), sound(expected))
        await it.until(lambda: it.changes.count(None) == 2)
        assert it.changes == ["engine_restarting"] * 2 + [None] * 2


async def test_a_unit_that_was_under_way_is_fed_once(tmp_path: Path) -> None:
    async with patient(tmp_path, prefill_s=0.3) as it:
        session = await it.open()
        first = await session.prefill(unit())
        feeding = [asyncio.create_task(session.prefill(unit())) for _ in range(2)]
        await asyncio.sleep(0.1)
        it.send(signal.SIGKILL)
        used = [(await task).context_used for task in feeding]
        assert used == [first.context_used + first.tokens, first.context_used + 2 * first.tokens]
        assert text(await rest(session.generate(1))).startswith("Turn 1 with 3 units")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_session_at_rest_forgets_nothing(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "SILENT_S", 1.5)
    monkeypatch.setattr(heartbeat, "HUNG_S", 2.5)
    async with patient(tmp_path) as it:
        session = await it.open()
        said = text(await whole(session, 1, "my name is Anna"))
        pid = it.engine.pid
        await it.lost(number)
        assert it.engine.info is None
        for refused in (it.engine.open(SessionOptions()), it.engine.sessions()):
            with pytest.raises(EngineError) as caught:
                await refused
            assert (caught.value.code, caught.value.retryable) == ("engine_restarting", True)
        await it.back()
        assert it.engine.pid != pid
        told = it.changes
        assert told == (["engine_stalled"] if number == signal.SIGSTOP else []) + ["engine_restarting", None]
        again = text(await whole(session, 2, "what is my name"))
        assert again == f"Turn 2 with 1 units, you typed what is my name and before I said {said}"
        assert await it.engine.sessions() == (session,)


async def test_what_is_said_while_the_worker_is_away_is_not_lost(tmp_path: Path) -> None:
    async with patient(tmp_path) as it:
        session = await it.open()
        said = text(await whole(session, 1, "one"))
        await it.lost()
        asking = [asyncio.create_task(session.prefill(Unit(text=word))) for word in ("two", "three")]
        await asyncio.sleep(0)
        stream = session.generate(2)
        assert text(await rest(stream)) == f"Turn 2 with 2 units, you typed two three and before I said {said}"
        assert all(task.done() for task in asking)


async def test_what_was_heard_is_asked_when_the_session_is_back(tmp_path: Path) -> None:
    """The answer had come, and was being played, when the worker died."""
    for late in (False, True):
        async with patient(tmp_path) as it:
            session = await it.open()
            await session.prefill(Unit(text="one"))
            chunks = await rest(session.generate(1))
            await it.lost()
            if late:
                await it.back()
            await session.heard(1, 30_000, 6)
            assert chunks[-1].finish == "stop"
            assert text(await whole(session, 2, "two")).endswith("before I said Turn 1")
            assert "Turn 3" in text(await whole(session, 3, "three")), "each answer counts once"


async def test_who_interrupts_while_the_worker_is_away_does_not_wait(tmp_path: Path) -> None:
    async with patient(tmp_path) as it:
        session = await it.open()
        await session.prefill(Unit(text="one"))
        stream = session.generate(1)
        await anext(stream)
        await it.lost()
        await session.cancel(1)
        assert (await rest(stream))[-1].finish == "cancelled"
        assert it.engine.info is None
        await session.heard(1, 10_000, 4)
        assert text(await whole(session, 2, "two")) == "Turn 2 with 1 units, you typed two and before I said Turn"


async def test_a_pause_that_was_none_is_forgotten_across_the_loss(tmp_path: Path) -> None:
    async with patient(tmp_path) as it:
        session = await it.open()
        await session.prefill(Unit(text="my name is"))
        await session.prefill(unit(0.3))
        stream = session.generate(1)
        await anext(stream)
        await it.lost()
        await session.cancel(1)
        await rest(stream)
        await session.heard(1, 0, 0)
        await session.rewind(1)
        assert text(await whole(session, 2, "Anna")).startswith("Turn 1 with 2 units, you typed my name is Anna")


async def test_a_worker_that_dies_while_sessions_are_built_again_is_replaced_too(tmp_path: Path) -> None:
    async with patient(tmp_path) as it:
        sessions = [await it.open() for _ in range(3)]
        for number, session in enumerate(sessions):
            await whole(session, 1, f"I am number {number}")
        it.write(**QUICK, prefill_s=0.3)
        await it.lost()
        pid = it.engine.pid
        await it.until(lambda: it.engine.pid not in (None, pid) and it.changes.count(None) == 1)
        await it.lost()
        await it.back()
        for number, session in enumerate(sessions):
            assert f"typed I am number {number}" in text(await whole(session, 2, "who am I"))


async def test_an_answer_that_comes_out_otherwise_is_lost_and_the_memory_is_not(tmp_path: Path) -> None:
    async with patient(tmp_path) as it:
        session = await it.open()
        await session.prefill(Unit(text="one"))
        stream = session.generate(1)
        first = await anext(stream)
        it.write(answers=["Something else altogether, after {said}"])
        it.send(signal.SIGKILL)
        with pytest.raises(EngineError) as caught:
            await rest(stream)
        assert caught.value.code == "answer_lost"
        await session.heard(1, len(first.pcm), len(first.text))
        assert text(await whole(session, 2, "two")) == f"Something else altogether, after {first.text}"


async def test_an_engine_that_does_not_come_back_says_so_once_and_may_come_back_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "FIRST_RESTART_S", 0.05)
    async with patient(tmp_path) as it:
        session = await it.open()
        await session.prefill(Unit(text="one"))
        it.write(answers=7)
        await it.lost()
        waiting = asyncio.create_task(session.prefill(Unit(text="two")))
        with pytest.raises(EngineError, match="could not be started again") as caught:
            await waiting
        assert caught.value.code == "worker_lost"
        with pytest.raises(EngineError) as caught:
            await rest(session.generate(1))
        assert caught.value.code == "worker_lost"
        await session.cancel(1)
        await session.heard(1, 0)
        await session.close()
        assert it.changes == ["engine_restarting", "worker_lost"]
        it.write(**QUICK)
        await it.back()
        assert await it.engine.sessions() == ()
        assert (await (await it.open()).prefill(unit())).tokens > 0


async def test_a_session_that_kills_its_workers_is_given_up_and_no_other(tmp_path: Path) -> None:
    async with patient(tmp_path, prefill_s=0.2) as it:
        innocent, deadly = await it.open(), await it.open()
        await innocent.prefill(Unit(text="one"))
        await deadly.prefill(Unit(text="one"))
        harmless, fatal = (asyncio.create_task(session.prefill(unit())) for session in (innocent, deadly))
        for _ in range(MAX_LOSSES):  # whatever else is going on, the worker dies at the second unit of one of them
            await it.until(lambda: deadly.place is not None and deadly.is_busy)
            await it.lost()
        with pytest.raises(EngineError, match="again and again") as caught:
            await fatal
        assert caught.value.code == "worker_lost"
        assert (await harmless).tokens > 0
        assert text(await whole(innocent, 1, "two")).startswith("Turn 1 with 3 units, you typed one two")
        assert await it.engine.sessions() == (innocent,)


async def test_a_call_that_ends_while_the_worker_is_away_takes_no_place(tmp_path: Path) -> None:
    async with patient(tmp_path, prefill_s=0.1) as it:
        gone, stays, leaves = await it.open(), await it.open(), await it.open()
        for session in (gone, stays, leaves):
            await whole(session, 1, "one")
        await it.lost()
        await gone.close()
        await it.until(lambda: it.engine.pid is not None)
        await leaves.close()
        await it.back()
        assert await it.engine.sessions() == (stays,)
