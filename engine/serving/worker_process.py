"""One worker process, seen from its parent: the requests that wait for it, and the answers that it is giving.

The other end of the wire is :mod:`engine.serving.worker`. When the worker dies, or is given up because it gives no sign
of life, everything that waits for it fails with EngineError ``worker_lost``. No request waits for ever, see
:data:`DEADLINES_S`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.client import ChatPiece, ChatRequest, Chunk, EngineError, SessionOptions
from engine.serving.heartbeat import Heartbeat
from engine.serving.wire import Link, Message, WireError, error_from_wire, plain, revive
from engine.spec import EngineSpec

STOP_S = 0.7
"""How long a worker that was told to end may take before it is killed."""

DEADLINES_S = {"start": 3_600.0, "prefill": 120.0}
"""How long a request may take; all others :data:`DEADLINE_S`."""

DEADLINE_S = 20.0

HEARTBEAT = 0
"""The number of all pings; requests count from 1."""

ROOT = Path(__file__).resolve().parents[2]

log = logging.getLogger("engine")


Sink = Callable[[Chunk | EngineError], None]
"""Takes an answer's chunks, and the error that ends it."""

ChatSink = Callable[[ChatPiece | EngineError], None]


class WorkerProcess:
    """Make one with :meth:`spawn`. Every method belongs on the event loop."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        link: Link,
        on_lost: Callable[[WorkerProcess], None],
        on_change: Callable[[EngineError | None], None],
    ) -> None:
        self.lost: EngineError | None = None
        """Why it is gone."""
        self._process = process
        self._link = link
        self._on_lost = on_lost
        self._on_change = on_change
        self._next = 0
        self._requests: dict[int, asyncio.Future[Any]] = {}
        self._answers: dict[int, tuple[type[Any], Callable[[Any], None]]] = {}  # what they come in, and who takes it
        self._opening: set[int] = set()
        self._given_up = ""
        self._loop = asyncio.get_running_loop()
        self._heartbeat = Heartbeat(self._ping, self._stalls, self._recovers)
        self._tasks = [self._loop.create_task(self._read()), self._loop.create_task(self._log())]
        self._watch = self._loop.create_task(self._give_up_when_hung())

    @classmethod
    async def spawn(
        cls, on_lost: Callable[[WorkerProcess], None], on_change: Callable[[EngineError | None], None]
    ) -> WorkerProcess:
        """Start the process. ``on_lost`` is told once when it is gone, before anything that waited for it fails;
        ``on_change`` that it does not answer (``engine_stalled``) and that it answers again (None)."""
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
        return cls(process, Link(*await asyncio.open_unix_connection(sock=ours)), on_lost, on_change)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stalled(self) -> bool:
        return self._heartbeat.stalled

    @property
    def busy_s(self) -> float:
        return self._heartbeat.busy_s

    # ---------------------------------------------------------------------------------------------------- requests
    def submit(self, op: str, **fields: Any) -> asyncio.Future[Any]:
        """Send one request now. Its future gets the reply, or the EngineError that comes back, ``worker_lost``, or
        ``engine_timeout``."""
        return self._submit(self._number(), op, **fields)

    def _submit(self, number: int, op: str, **fields: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.lost:
            _fail(future, self.lost)
            return future
        self._requests[number] = future
        self._link.send({"op": op, "id": number, **fields})
        deadline = self._loop.call_later(DEADLINES_S.get(op, DEADLINE_S), self._too_late, op, future)

        def over(_: object) -> None:
            deadline.cancel()
            self._requests.pop(number, None)

        future.add_done_callback(over)
        return future

    @staticmethod
    def _too_late(op: str, future: asyncio.Future[Any]) -> None:
        deadline_s = DEADLINES_S.get(op, DEADLINE_S)
        message = f"The model has not done this within {deadline_s:g} s ({op}); try again, or use a faster machine."
        _fail(future, EngineError("engine_timeout", message, retryable=True))

    async def start(self, spec: EngineSpec) -> Any:
        """Have the model loaded; the EngineInfo as it comes over the wire."""
        info = await self.submit("start", spec=plain(spec))
        self._heartbeat.started = True
        return info

    async def open(self, options: SessionOptions) -> int:
        """The number of a new session. Raises EngineError; nothing is then left of it."""
        if self.stalled:
            raise stalled()
        number = self._number()
        self._opening.add(number)
        try:
            await self._submit(number, "open", options=plain(options))
        except BaseException:
            self._link.send({"op": "close", "id": self._number(), "session": number})
            raise
        finally:
            self._opening.discard(number)
        return number

    async def close(self, session: int) -> None:
        """Forget a session. A worker that does not answer now will find the request when it does."""
        if self.lost:
            return
        if self.stalled:
            self._link.send({"op": "close", "id": self._number(), "session": session})
            return
        try:
            await self.submit("close", session=session)
        except EngineError as error:
            log.debug("a session was not closed: %s", error.message)

    def answer(self, sink: Sink, **fields: Any) -> int:
        """Ask for an answer, whose chunks go into ``sink``; its number is for :meth:`credit` and :meth:`leave`."""
        return self._stream("generate", Chunk, sink, **fields)

    def chat(self, sink: ChatSink, request: ChatRequest, credit: int) -> int:
        """Ask for a chat's answer, as with :meth:`answer`; ``credit`` pieces may be made before the first is taken."""
        return self._stream("chat", ChatPiece, sink, request=plain(request), credit=credit)

    def _stream(self, op: str, kind: type[Any], sink: Callable[[Any], None], **fields: Any) -> int:
        number = self._number()
        if self.lost:
            sink(self.lost)
        else:
            self._answers[number] = kind, sink
            self._link.send({"op": op, "id": number, **fields})
        return number

    def credit(self, number: int) -> None:
        """The answer may be one chunk further ahead."""
        if number in self._answers:
            self._link.send({"op": "credit", "id": number})

    def leave(self, number: int) -> None:
        """Nobody wants the rest of the answer."""
        if self._answers.pop(number, None):
            self._link.send({"op": "leave", "id": number})

    async def stop(self) -> None:
        """End the child: it leaves when the socket closes, and is killed when it does not."""
        self._watch.cancel()
        self._link.close()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._kill()
        await asyncio.wait([*self._tasks, self._watch])

    # ----------------------------------------------------------------------------------------------------- its end
    async def _read(self) -> None:
        cause = ""
        try:
            while (message := await self._link.receive()) is not None:
                self._heartbeat.beat()
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
        self._watch.cancel()
        ended = self._given_up or (f"was killed by signal {-code}" if code < 0 else f"ended with status {code}")
        sentence = f"The engine's worker process {ended}{cause}."
        self.lost = EngineError("worker_lost", sentence, retryable=True)
        self._on_lost(self)
        for future in list(self._requests.values()):
            _fail(future, self.lost)
        answers, self._answers = self._answers, {}
        for _, sink in answers.values():
            sink(self.lost)

    async def _give_up_when_hung(self) -> None:
        self._given_up = await self._heartbeat.failure()
        log.error("the engine's worker %d %s", self.pid, self._given_up)
        self._kill()

    def _ping(self) -> None:
        self._link.send({"op": "ping", "id": HEARTBEAT})

    def _stalls(self) -> None:
        log.warning("the engine's worker %d does not answer", self.pid)
        for number in self._opening:  # its caller holds a place meanwhile
            if number in self._requests:
                _fail(self._requests[number], stalled())
        self._on_change(stalled())

    def _recovers(self) -> None:
        log.warning("the engine's worker %d answers again", self.pid)
        self._on_change(None)

    def _take(self, message: Message) -> None:
        number = message["id"]
        if number == HEARTBEAT:
            self._heartbeat.busy_s = float(message["ok"])
        elif "chunk" in message:
            if answer := self._answers.get(number):
                chunk = revive(answer[0], message["chunk"])
                if chunk.finish is not None:
                    del self._answers[number]
                answer[1](chunk)
        elif answer := self._answers.pop(number, None):
            answer[1](error_from_wire(message["error"]))
        elif (future := self._requests.get(number)) and not future.done():
            if "error" in message:
                _fail(future, error_from_wire(message["error"]))
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


def stalled() -> EngineError:
    """What callers are told while the worker does not answer."""
    message = "The model does not answer at the moment. The call goes on when it does; if it does not, try again soon."
    return EngineError("engine_stalled", message, retryable=True)


def _fail(future: asyncio.Future[Any], error: EngineError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # it may be that nobody waits for it any more
