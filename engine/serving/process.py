"""An engine in its own process, so that model work never delays media. No torch here.

The parent's side of :mod:`engine.serving.worker`. When the worker dies, everything that waits for it fails with
EngineError ``worker_lost``, :attr:`ProcessEngine.info` becomes None, and (unless told otherwise) a new worker is
started for new sessions.

A worker may also live and not answer: stopped, deadlocked, swapped out. It is asked for a sign of life all the time.
Without one for :data:`SILENT_S` the engine counts as not ready and sessions are told; after :data:`HUNG_S` the worker
is killed, as is one whose model is stuck. No request waits for ever, see :data:`DEADLINES_S`.
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

PING_EVERY_S = 0.5
SILENT_S = 2.0
"""Without a sign of life for so long, the engine is not ready."""

HUNG_S = 10.0
"""Without one for so long, the worker is killed and started again."""

SILENT_START_S = 120.0
"""The same while it loads: imports and pages of weights hold the interpreter for long."""

STUCK_S = 300.0
"""A model that takes so long for one piece of work is stuck: the slowest, pictures in slices on a CPU, take less."""

DEADLINES_S = {"start": 3_600.0, "prefill": 120.0, "generate": 120.0}
"""How long a request may take, an answer until its next chunk; all others :data:`DEADLINE_S`."""

DEADLINE_S = 20.0

MAX_WAITING = 64
"""Requests of one session that may wait for their turn."""

FIRST_RESTART_S = 0.5
LONGEST_RESTART_S = 30.0

HEARTBEAT = 0
"""The number of all pings; requests count from 1."""

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
            self._info = revive(EngineInfo, await worker.start(self._spec))
        except BaseException as error:
            await worker.stop()
            if isinstance(error, EngineError) and error.code == "worker_lost":
                raise EngineError("load_failed", f"The model was not loaded: {error.message}") from None
            raise
        self._worker = worker
        return self._info

    @property
    def info(self) -> EngineInfo | None:
        return None if self._worker is None or self._worker.stalled else self._info

    @property
    def busy_s(self) -> float:
        return self._worker.busy_s if self._worker is not None else 0.0

    @property
    def pid(self) -> int | None:
        """Process id of the worker, for monitoring."""
        return self._worker.pid if self._worker else None

    async def open(self, options: SessionOptions) -> ProcessSession:
        if self._worker is None:
            if self._restarting:
                raise EngineError("worker_lost", "The engine is being started again; try again soon.", retryable=True)
            raise EngineError("not_started", "The engine is not running; start it first.")
        return self._worker.session(await self._worker.open(options))

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
        credit, leave = partial(self._worker.credit, number), partial(self._worker.leave, number)
        return AnswerStream(pipe, credit, leave, deadline_s=DEADLINES_S["generate"])

    async def check_text(self, text: str) -> None:
        if self._closed:
            raise _closed()
        await self._worker.request("check_text", session=self._number, text=text)

    async def cancel(self, epoch: int) -> None:
        await self._tell("cancel", epoch=epoch)

    async def heard(self, epoch: int, samples: int, read: int | None = None) -> None:
        await self._tell("heard", epoch=epoch, samples=samples, read=read)

    async def rewind(self, units: int) -> None:
        await self._tell("rewind", units=units)

    def watch(self, listener: Callable[[EngineError | None], None]) -> None:
        self._worker.watch(self._number, listener)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._worker.close(self._number)

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
        self._opening: set[int] = set()
        self._listeners: dict[int, Callable[[EngineError | None], None]] = {}
        self.busy_s = 0.0
        self._started = False
        self._silent_s = 0.0
        self._hung = ""
        self._loop = asyncio.get_running_loop()
        self._tasks = [self._loop.create_task(self._read()), self._loop.create_task(self._log())]
        self._heartbeat = self._loop.create_task(self._watch())

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
        """Send one request and wait for its reply. Raises the EngineError that comes back, ``worker_lost``, or
        ``engine_timeout``."""
        return await self._request(self._number(), op, **fields)

    async def _request(self, number: int, op: str, **fields: Any) -> Any:
        if self.lost:
            raise self.lost
        future = self._requests[number] = self._loop.create_future()
        self._link.send({"op": op, "id": number, **fields})
        deadline_s = DEADLINES_S.get(op, DEADLINE_S)
        try:
            async with asyncio.timeout(deadline_s):
                return await future
        except TimeoutError:
            message = f"The model has not done this within {deadline_s:g} s ({op}); try again, or use a faster machine."
            raise EngineError("engine_timeout", message, retryable=True) from None
        finally:
            self._requests.pop(number, None)

    async def start(self, spec: EngineSpec) -> Any:
        """Have the model loaded."""
        info = await self.request("start", spec=plain(spec))
        self._started = True
        return info

    async def open(self, options: SessionOptions) -> int:
        """The number of a new session. Raises EngineError; nothing is then left of it."""
        if self.stalled:
            raise _stalled()
        number = self._number()
        self._opening.add(number)
        try:
            await self._request(number, "open", options=plain(options))
        except BaseException:
            self._link.send({"op": "close", "id": self._number(), "session": number})
            raise
        finally:
            self._opening.discard(number)
        return number

    async def close(self, session: int) -> None:
        """Forget a session. A worker that does not answer now will find the request when it does."""
        self._listeners.pop(session, None)
        if self.lost:
            return
        if self.stalled:
            self._link.send({"op": "close", "id": self._number(), "session": session})
            return
        try:
            await self.request("close", session=session)
        except EngineError as error:
            log.debug("a session was not closed: %s", error.message)

    def watch(self, session: int, listener: Callable[[EngineError | None], None]) -> None:
        """Tell ``listener`` when the worker does not answer, answers again (None), or is lost."""
        self._listeners[session] = listener
        if self.lost or self.stalled:
            self._loop.call_soon(listener, self.lost or _stalled())

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
        self._heartbeat.cancel()
        self._link.close()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._kill()
        await asyncio.wait([*self._tasks, self._heartbeat])

    async def _read(self) -> None:
        cause = ""
        try:
            while (message := await self._link.receive()) is not None:
                self._lives()
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
        self._heartbeat.cancel()
        ended = self._hung or (f"was killed by signal {-code}" if code < 0 else f"ended with status {code}")
        self.lost = EngineError(
            "worker_lost", f"The engine's worker process {ended}{cause}; open a new session.", retryable=True
        )
        for future in self._requests.values():
            if not future.done():
                future.set_exception(self.lost)
        for pipe in self._answers.values():
            pipe.push(self.lost)
        self._answers.clear()
        self._tell(self.lost)
        self._on_lost(self)

    # ------------------------------------------------------------------------------------------------ signs of life
    @property
    def stalled(self) -> bool:
        """It has started and has not given a sign of life for :data:`SILENT_S`."""
        return self._started and self._silent_s >= SILENT_S

    async def _watch(self) -> None:
        """Ask for signs of life. Silence is counted in rounds of this loop, none for more than two: when it is this
        process that stood still, the worker is not to blame."""
        while not self._hung:
            self._link.send({"op": "ping", "id": HEARTBEAT})
            begun, was_stalled = self._loop.time(), self.stalled
            await asyncio.sleep(PING_EVERY_S)
            self._silent_s += min(self._loop.time() - begun, 2 * PING_EVERY_S)
            if self.stalled and not was_stalled:
                log.warning("the engine's worker %d does not answer", self.pid)
                for number in self._opening:  # its caller holds a place meanwhile
                    if (future := self._requests.get(number)) and not future.done():
                        future.set_exception(_stalled())
                self._tell(_stalled())
            limit_s = HUNG_S if self._started else SILENT_START_S
            if self._silent_s >= limit_s:
                self._hung = f"did not answer for {limit_s:g} s and was ended"
            elif self.busy_s >= STUCK_S:
                self._hung = "was stuck in one step of the model and was ended"
        log.error("the engine's worker %d %s", self.pid, self._hung)
        self._kill()

    def _lives(self) -> None:
        was_stalled, self._silent_s = self.stalled, 0.0
        if was_stalled:
            log.warning("the engine's worker %d answers again", self.pid)
            self._tell(None)

    def _tell(self, change: EngineError | None) -> None:
        for listener in self._listeners.values():
            self._loop.call_soon(listener, change)

    def _take(self, message: Message) -> None:
        number = message["id"]
        if number == HEARTBEAT:
            self.busy_s = float(message["ok"])
        elif "chunk" in message:
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


def _stalled() -> EngineError:
    message = "The model does not answer at the moment. The call goes on when it does; if it does not, try again soon."
    return EngineError("engine_stalled", message, retryable=True)


def _nothing() -> None:
    return None


def _closed() -> EngineError:
    return EngineError("session_closed", "The session was closed; open a new one.")
