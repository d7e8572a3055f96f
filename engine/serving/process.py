"""An engine in its own process, so that model work never delays media. No torch here.

The parent's side of :mod:`engine.serving.worker`. When the worker dies, everything that waits for it fails with
EngineError ``worker_lost``, :attr:`ProcessEngine.info` becomes None, and (unless told otherwise) a new worker is
started for new sessions.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from engine.client import Chunk, EngineError, EngineInfo, Prefilled, SessionOptions, Unit
from engine.serving.answer import CHUNKS_AHEAD, AnswerPipe, AnswerStream
from engine.serving.checks import check_unit
from engine.serving.wire import Link, Message, WireError, error_from_wire, plain, revive
from engine.spec import EngineSpec

STOP_S = 0.7
"""How long a worker that was told to end may take before it is killed."""

MAX_WAITING = 64
"""Requests of one session that may wait for their turn."""

FIRST_RESTART_S = 0.5
LONGEST_RESTART_S = 30.0

ROOT = Path(__file__).resolve().parents[2]

log = logging.getLogger("engine")


class ProcessEngine:
    """An :class:`engine.client.Engine` whose model lives in a worker process."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._worker: _Worker | None = None
        self._info: EngineInfo | None = None
        self._restarting: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> EngineInfo:
        self._stopping = False
        worker = await _Worker.spawn(self._lost)
        try:
            self._info = revive(EngineInfo, await worker.request("start", spec=plain(self._spec)))
        except BaseException as error:
            await worker.stop()
            if isinstance(error, EngineError) and error.code == "worker_lost":
                raise EngineError("load_failed", f"The model was not loaded: {error.message}") from None
            raise
        self._worker = worker
        return self._info

    @property
    def info(self) -> EngineInfo | None:
        return self._info

    @property
    def pid(self) -> int | None:
        """Process id of the worker, for monitoring."""
        return self._worker.pid if self._worker else None

    async def open(self, options: SessionOptions) -> ProcessSession:
        if self._worker is None:
            if self._restarting:
                raise EngineError("worker_lost", "The engine is being started again; try again soon.", retryable=True)
            raise EngineError("not_started", "The engine is not running; start it first.")
        return self._worker.session(await self._worker.request("open", options=plain(options)))

    async def sessions(self) -> tuple[ProcessSession, ...]:
        if (worker := self._worker) is None:
            return ()
        return tuple(worker.session(number) for number in await worker.request("sessions"))

    async def stop(self) -> None:
        self._stopping = True
        if self._restarting:
            self._restarting.cancel()
            await asyncio.wait([self._restarting])
        if worker := self._worker:
            self._worker, self._info = None, None
            await worker.stop()

    def _lost(self, worker: _Worker) -> None:
        if worker is not self._worker:
            return
        self._worker, self._info = None, None
        if self._spec.restart and not self._stopping:
            self._restarting = asyncio.get_running_loop().create_task(self._restart())

    async def _restart(self) -> None:
        delay = FIRST_RESTART_S
        try:
            while self._info is None:
                try:
                    log.warning("starting a new engine worker")
                    await self.start()
                except EngineError as error:
                    log.error("the engine cannot be started again, next try in %g s: %s", delay, error.message)
                    await asyncio.sleep(delay)
                    delay = min(2 * delay, LONGEST_RESTART_S)
        finally:
            self._restarting = None


class ProcessSession:
    """One call's session in the worker."""

    def __init__(self, worker: _Worker, number: int) -> None:
        self._worker = worker
        self._number = number
        self._waiting = 0
        self._closed = False

    async def prefill(self, unit: Unit) -> Prefilled:
        check_unit(unit)
        if self._closed:
            raise _closed()
        if self._waiting >= MAX_WAITING:
            raise EngineError(
                "busy", f"{self._waiting} units are waiting already; wait for their answers.", retryable=True
            )
        self._waiting += 1
        try:
            return revive(Prefilled, await self._worker.request("prefill", session=self._number, unit=plain(unit)))
        finally:
            self._waiting -= 1

    def generate(self, epoch: int) -> AsyncIterator[Chunk]:
        pipe = AnswerPipe()
        if self._closed:
            pipe.push(_closed())
            return AnswerStream(pipe, _nothing, _nothing)
        number = self._worker.answer(pipe, session=self._number, epoch=epoch, credit=CHUNKS_AHEAD)
        return AnswerStream(pipe, partial(self._worker.credit, number), partial(self._worker.leave, number))

    async def cancel(self, epoch: int) -> None:
        await self._tell("cancel", epoch=epoch)

    async def heard(self, epoch: int, samples: int) -> None:
        await self._tell("heard", epoch=epoch, samples=samples)

    async def rewind(self, units: int) -> None:
        await self._tell("rewind", units=units)

    async def close(self) -> None:
        if not self._closed:
            await self._tell("close")
            self._closed = True

    async def _tell(self, op: str, **fields: Any) -> None:
        """A request that has nothing left to do when the session or the worker is gone."""
        if self._closed or self._worker.lost:
            return
        try:
            await self._worker.request(op, session=self._number, **fields)
        except EngineError as error:
            if error.code not in ("worker_lost", "session_closed"):
                raise


class _Worker:
    """One child process, the requests that wait for it, and the answers that it is giving."""

    def __init__(self, process: asyncio.subprocess.Process, link: Link, on_lost: Callable[[_Worker], None]) -> None:
        self.lost: EngineError | None = None
        self._process = process
        self._link = link
        self._on_lost = on_lost
        self._next = 0
        self._requests: dict[int, asyncio.Future[Any]] = {}
        self._answers: dict[int, AnswerPipe] = {}
        self._sessions: WeakValueDictionary[int, ProcessSession] = WeakValueDictionary()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._read()), loop.create_task(self._log())]

    @classmethod
    async def spawn(cls, on_lost: Callable[[_Worker], None]) -> _Worker:
        ours, theirs = socket.socketpair()
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "engine.serving.worker", str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # a Ctrl-C in the terminal goes to the parent only
            )  # fmt: skip
        ours.setblocking(False)
        return cls(process, Link(*await asyncio.open_unix_connection(sock=ours)), on_lost)

    @property
    def pid(self) -> int:
        return self._process.pid

    def session(self, number: int) -> ProcessSession:
        """The one object for the worker's session of this number."""
        if (session := self._sessions.get(number)) is None:
            session = self._sessions[number] = ProcessSession(self, number)
        return session

    async def request(self, op: str, **fields: Any) -> Any:
        """Send one request and wait for its reply. Raises the EngineError that comes back, or ``worker_lost``."""
        if self.lost:
            raise self.lost
        number = self._number()
        future = self._requests[number] = asyncio.get_running_loop().create_future()
        self._link.send({"op": op, "id": number, **fields})
        try:
            return await future
        finally:
            self._requests.pop(number, None)

    def answer(self, pipe: AnswerPipe, **fields: Any) -> int:
        """Ask for an answer, whose chunks go into ``pipe``; its number is for :meth:`credit` and :meth:`leave`."""
        number = self._number()
        if self.lost:
            pipe.push(self.lost)
        else:
            self._answers[number] = pipe
            self._link.send({"op": "generate", "id": number, **fields})
        return number

    def credit(self, number: int) -> None:
        if number in self._answers:
            self._link.send({"op": "credit", "id": number})

    def leave(self, number: int) -> None:
        if self._answers.pop(number, None):
            self._link.send({"op": "leave", "id": number})

    async def stop(self) -> None:
        """End the child: it leaves when the socket closes, and is killed when it does not."""
        self._link.close()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._kill()
        await asyncio.wait(self._tasks)

    async def _read(self) -> None:
        cause = ""
        try:
            while (message := await self._link.receive()) is not None:
                self._take(message)
        except (WireError, KeyError, TypeError) as error:
            cause = f" after an unreadable message ({error})"
            self._kill()
        self._link.close()
        try:
            async with asyncio.timeout(STOP_S):
                code = await self._process.wait()
        except TimeoutError:
            self._kill()
            code = await self._process.wait()
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        self.lost = EngineError(
            "worker_lost", f"The engine's worker process {ended}{cause}; open a new session.", retryable=True
        )
        for future in self._requests.values():
            if not future.done():
                future.set_exception(self.lost)
        for pipe in self._answers.values():
            pipe.push(self.lost)
        self._answers.clear()
        self._on_lost(self)

    def _take(self, message: Message) -> None:
        number = message["id"]
        if "chunk" in message:
            if pipe := self._answers.get(number):
                chunk = revive(Chunk, message["chunk"])
                if chunk.finish is not None:
                    del self._answers[number]
                pipe.push(chunk)
        elif pipe := self._answers.pop(number, None):
            pipe.push(error_from_wire(message["error"]))
        elif (future := self._requests.get(number)) and not future.done():
            if "error" in message:
                future.set_exception(error_from_wire(message["error"]))
            else:
                future.set_result(message["ok"])

    async def _log(self) -> None:
        """Every line that the child prints becomes one of our log; progress bars rewrite theirs with \\r."""
        assert self._process.stdout is not None
        rest = b""
        while data := await self._process.stdout.read(1 << 16):
            *lines, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
            for line in filter(None, (raw.decode(errors="replace").rstrip() for raw in lines)):
                log.info("worker: %s", line)
            rest = rest[-4096:]

    def _kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()

    def _number(self) -> int:
        self._next += 1
        return self._next


def _nothing() -> None:
    return None


def _closed() -> EngineError:
    return EngineError("session_closed", "The session was closed; open a new one.")
