"""The worker process: what happens when it dies, hangs, or when its parent does."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.client import EngineError, SessionOptions
from engine.serving import heartbeat, process_session, worker_process
from engine.serving.process import ProcessEngine
from engine.serving.wire import MAX_FRAME, pack
from engine.spec import EngineSpec
from tests.engine_runtime.conftest import unit

SCRIPTED = EngineSpec(kind="scripted", in_process=False)
ROOT = Path(__file__).resolve().parents[2]


def wait_until_gone(pid: int) -> None:
    for _ in range(6_000):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} still runs")


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not reached():  # noqa: ASYNC110 - it is the engine that is looked at
            await asyncio.sleep(0.02)


async def test_a_worker_that_stops_answering_is_not_ready_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "HUNG_S", 60.0)
    engine = ProcessEngine(SCRIPTED)
    await engine.start()
    session, other = await engine.open(SessionOptions()), await engine.open(SessionOptions())
    changes: list[str | None] = []
    session.watch(lambda change: changes.append(change.code if change is not None else None))
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGSTOP)
    waiting = asyncio.create_task(session.prefill(unit()))
    opening = asyncio.create_task(engine.open(SessionOptions()))
    await until(lambda: engine.info is None)
    for refused in (opening, engine.open(SessionOptions())):
        with pytest.raises(EngineError) as caught:
            await refused
        assert (caught.value.code, caught.value.retryable) == ("engine_stalled", True)
    assert changes == ["engine_stalled"]
    await asyncio.wait_for(other.close(), 30)  # a call that ends now does not wait for it
    os.kill(engine.pid, signal.SIGCONT)
    await until(lambda: engine.info is not None and len(changes) == 2)
    assert changes == ["engine_stalled", None]
    assert (await waiting).tokens > 0, "the call goes on where it was"
    await session.close()
    sessions = [await engine.open(SessionOptions()) for _ in range(SCRIPTED.max_sessions)]
    assert len(sessions) == SCRIPTED.max_sessions, "the session that nobody waited for takes no place"
    await engine.stop()


async def test_a_stuck_model_is_a_hung_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ProcessEngine(replace(SCRIPTED, restart=False))
    await engine.start()
    session = await engine.open(SessionOptions())
    changes: list[EngineError | None] = []
    session.watch(changes.append)
    monkeypatch.setattr(heartbeat, "STUCK_S", 0.0)
    await until(lambda: bool(changes))
    assert [change and change.code for change in changes] == ["worker_lost"]
    assert "was stuck in one step of the model" in str(changes[0])
    assert engine.info is None
    await engine.stop()


async def test_a_worker_that_hangs_while_it_loads_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "SILENT_START_S", 1.0)
    spawn = asyncio.create_subprocess_exec

    async def stopped(*args: Any, **kwargs: Any) -> asyncio.subprocess.Process:
        worker = await spawn(*args, **kwargs)
        os.kill(worker.pid, signal.SIGSTOP)
        return worker

    monkeypatch.setattr(asyncio, "create_subprocess_exec", stopped)
    engine = ProcessEngine(SCRIPTED)
    with pytest.raises(EngineError, match="did not answer for 1 s") as caught:
        await engine.start()
    assert caught.value.code == "load_failed"
    await engine.stop()


async def test_every_request_has_a_deadline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also where the worker lives and only the model does not come to an end."""
    (script := tmp_path / "script.json").write_text('{"prefill_s": 600}')
    engine = ProcessEngine(replace(SCRIPTED, script=str(script)))
    await engine.start()
    monkeypatch.setattr(worker_process, "DEADLINES_S", {"prefill": 0.2})
    monkeypatch.setattr(process_session, "CHUNK_DEADLINE_S", 0.2)
    session = await engine.open(SessionOptions())
    with pytest.raises(EngineError) as caught:
        await session.prefill(unit())
    assert (caught.value.code, caught.value.retryable) == ("engine_timeout", True)
    with pytest.raises(EngineError, match="not gone on with its answer"):
        await anext(session.generate(1))
    assert engine.info is not None
    await session.close()
    await engine.stop()


async def test_a_parent_that_stood_still_does_not_blame_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ProcessEngine(SCRIPTED)
    await engine.start()
    session = await engine.open(SessionOptions())
    changes: list[EngineError | None] = []
    session.watch(changes.append)
    time.sleep(heartbeat.SILENT_S + 1)  # noqa: ASYNC251 - the loop stands still, which is the point
    assert (await session.prefill(unit())).tokens > 0  # a sign of life
    assert changes == []
    await engine.stop()


async def test_a_hanging_worker_is_killed_by_stop() -> None:
    engine = ProcessEngine(SCRIPTED)
    await engine.start()
    pid = engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    async with asyncio.timeout(60):
        await engine.stop()
    await asyncio.to_thread(wait_until_gone, pid)


async def test_the_worker_ignores_ctrl_c() -> None:
    engine = ProcessEngine(SCRIPTED)
    await engine.start()
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGINT)
    assert (await (await engine.open(SessionOptions())).prefill(unit())).tokens > 0
    await engine.stop()


def test_the_worker_ends_with_its_parent() -> None:
    program = (
        "import asyncio, os\n"
        "from engine.spec import EngineSpec\n"
        "from engine.serving.process import ProcessEngine\n"
        "async def main():\n"
        "    engine = ProcessEngine(EngineSpec(kind='scripted', in_process=False))\n"
        "    await engine.start()\n"
        "    print(engine.pid, flush=True)\n"
        "    os._exit(1)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=30)
    wait_until_gone(int(done.stdout))


async def test_a_model_that_cannot_be_loaded_is_one_clear_error(tmp_path: Path) -> None:
    (script := tmp_path / "script.json").write_text('{"answers": 3}')
    engine = ProcessEngine(EngineSpec(kind="scripted", in_process=False, script=str(script)))
    with pytest.raises(EngineError, match="answers and words must be lists of strings") as caught:
        await engine.start()
    assert caught.value.code == "load_failed"
    assert engine.info is None
    await engine.stop()


GARBAGE = {
    "a frame that is too large": (MAX_FRAME + 1).to_bytes(4, "big"),
    "not msgpack": b"\x00\x00\x00\x04\xc1\xc1\xc1\xc1",
    "not a map": pack({})[:3] + b"\x01\x07",
    "an unknown request": pack({"op": "dance", "id": 1, "session": 1}),
    "a request without its fields": pack({"op": "prefill", "id": 1}),
    "a unit that is none": pack({"op": "open", "id": 1, "options": {"seed": 1, "surprise": 2}}),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_the_worker_ends_on_garbage(garbage: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = subprocess.Popen(
            [sys.executable, "-m", "engine.serving.worker", str(theirs.fileno())], pass_fds=[theirs.fileno()], cwd=ROOT
        )
        ours.sendall(garbage)
        assert worker.wait(timeout=30) is not None
