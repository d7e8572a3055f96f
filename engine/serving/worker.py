"""The worker process: hosts one engine and serves it over the socket that the parent handed down.

``python -m engine.serving.worker FD`` is started by :mod:`engine.serving.process` only. It ends when the parent closes
the socket or dies. Whatever is printed here becomes a line of the parent's log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from engine.client import (
    ChatPiece,
    ChatRequest,
    ChatStream,
    Chunk,
    Engine,
    EngineError,
    EngineSession,
    SessionOptions,
    Unit,
)
from engine.serving.answer import AnswerStream
from engine.serving.factory import create_engine
from engine.serving.wire import Link, Message, WireError, error_to_wire, plain, revive, revive_starts
from engine.spec import EngineSpec

NICENESS = 5
"""Media in the parent goes first."""

OPS = (
    "ping",
    "start",
    "open",
    "chat",
    "sessions",
    "prefill",
    "check_text",
    "generate",
    "credit",
    "leave",
    "cancel",
    "heard",
    "rewind",
    "remember",
    "close",
)

log = logging.getLogger("engine.serving.worker")


@dataclass(slots=True)
class _RelayedAnswer:
    """One answer on its way to the parent: a chunk is sent while the parent has credit for it."""

    stream: AnswerStream[Chunk] | AnswerStream[ChatPiece]
    credit: asyncio.Semaphore


class EngineHost:
    """Carries out the parent's requests on an in-process engine. Requests of a session start in the order received."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._engine: Engine | None = None
        self._opening: set[int] = set()
        self._sessions: dict[int, EngineSession] = {}
        self._answers: dict[int, _RelayedAnswer] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until the parent is gone. Raises WireError when it does not speak the protocol."""
        while (message := await self._link.receive()) is not None:
            try:
                self._carry_out(message)
            except (KeyError, TypeError) as error:
                raise WireError(f"the request {message.get('op')!r} lacks or misuses a field: {error}") from None
            await asyncio.sleep(0)  # every request takes its place before the next one is read

    def _carry_out(self, message: Message) -> None:
        op, number = message["op"], message["id"]
        if op not in OPS:
            raise WireError(f"the request {op!r} is unknown")
        if op == "ping":
            self._link.send({"id": number, "ok": self._engine.busy_s if self._engine is not None else 0.0})
        elif op == "start":
            self._reply(number, self._start(revive(EngineSpec, message["spec"])))
        elif op == "open":
            self._reply(number, self._open(number, revive(SessionOptions, message["options"])))
        elif op == "chat":
            assert self._engine is not None
            self._relay(number, self._engine.chat(revive(ChatRequest, message["request"])), message["credit"])
        elif op == "sessions":
            self._link.send({"id": number, "ok": list(self._sessions)})
        elif op == "credit":
            if answer := self._answers.get(number):
                answer.credit.release()
        elif op == "leave":
            if answer := self._answers.get(number):
                self._spawn(answer.stream.aclose())
                answer.credit.release()
        elif op == "close":
            self._reply(number, self._close(message["session"]))
        elif (session := self._sessions.get(message["session"])) is None:
            closed = EngineError("session_closed", "The session was closed; open a new one.")
            self._link.send({"id": number, "error": error_to_wire(closed)})
        elif op == "prefill":
            self._reply(number, self._prefill(session, revive(Unit, message["unit"])))
        elif op == "check_text":
            self._reply(number, session.check_text(message["text"]))
        elif op == "cancel":
            self._reply(number, session.cancel(message["epoch"]))
        elif op == "heard":
            self._reply(number, session.heard(message["epoch"], message["samples"], message["read"]))
        elif op == "rewind":
            self._reply(number, session.rewind(message["units"]))
        elif op == "remember":
            starts = revive_starts(message["starts"])
            self._reply(number, session.remember(message["text"], message["samples"], starts))
        elif op == "generate":
            self._relay(number, session.generate(message["epoch"]), message["credit"])

    def _relay(self, number: int, stream: AsyncIterator[Chunk] | ChatStream, credit: int) -> None:
        assert isinstance(stream, AnswerStream)
        self._answers[number] = _RelayedAnswer(stream, asyncio.Semaphore(credit))
        self._spawn(self._generate(number, self._answers[number]))

    async def _start(self, spec: EngineSpec) -> Message:
        threads = spec.threads or max(1, (os.cpu_count() or 2) - 1)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported, which create_engine does
        self._engine = create_engine(replace(spec, in_process=True, threads=threads))
        return plain(await self._engine.start())

    async def _open(self, number: int, options: SessionOptions) -> int:
        if self._engine is None:
            raise EngineError("not_started", "The engine is not running; start it first.")
        self._opening.add(number)
        try:
            session = await self._engine.open(options)
            if number not in self._opening:  # the parent has not waited for it
                await session.close()
                raise EngineError("session_closed", "The session was closed while it was opened.")
            self._sessions[number] = session
        finally:
            self._opening.discard(number)
        return number

    async def _close(self, number: int) -> None:
        self._opening.discard(number)
        if session := self._sessions.pop(number, None):
            await session.close()

    async def _prefill(self, session: EngineSession, unit: Unit) -> Message:
        return plain(await session.prefill(unit))

    async def _generate(self, number: int, answer: _RelayedAnswer) -> None:
        try:
            async for chunk in answer.stream:
                if chunk.finish is None:
                    await answer.credit.acquire()
                self._link.send({"id": number, "chunk": plain(chunk)})
        except EngineError as error:
            self._link.send({"id": number, "error": error_to_wire(error)})
        finally:
            del self._answers[number]

    def _reply(self, number: int, work: Coroutine[Any, Any, Any]) -> None:
        async def carry_out() -> None:
            try:
                self._link.send({"id": number, "ok": await work})
            except EngineError as error:
                self._link.send({"id": number, "error": error_to_wire(error)})

        self._spawn(carry_out())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A fault that is nobody's request error is a bug: end, so that the parent fails what waits and starts anew."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("the engine failed", exc_info=error)
            self._link.close()


async def _serve(fd: int) -> None:
    link = Link(*await asyncio.open_unix_connection(sock=socket.socket(fileno=fd)))
    try:
        await EngineHost(link).run()
    except WireError as error:
        log.critical("the parent does not speak the protocol: %s", error)
    finally:
        link.close()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is the parent's to decide
    os.nice(NICENESS)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    asyncio.run(_serve(int(sys.argv[1])))
    sys.stderr.flush()
    os._exit(0)  # a model thread may be inside a long step, and nothing here needs an orderly end


if __name__ == "__main__":
    main()
