"""An engine in its own process, so that model work never delays media. No torch here.

The parent's side of :mod:`engine.serving.worker`. When the worker dies or hangs, a new one is started (unless told
otherwise), and every session is built again in it, one after the other. :attr:`ProcessEngine.info` is None meanwhile,
so that nobody new comes in between. What cannot come back is given up with EngineError ``worker_lost``.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial

from engine.client import ChatPiece, ChatRequest, ChatStream, EngineError, EngineInfo, SessionOptions
from engine.serving.answer import AnswerPipe, AnswerStream, refused
from engine.serving.checks import check_chat
from engine.serving.process_session import ProcessSession, restarting
from engine.serving.wire import revive
from engine.serving.worker_process import WorkerProcess, stalled
from engine.spec import EngineSpec

FIRST_RESTART_S = 0.5
LONGEST_RESTART_S = 30.0

MAX_FAILED_STARTS = 3
"""After so many in a row sessions are given up. The engine itself is tried again for new ones."""

CHAT_CREDIT = 16
CHAT_DEADLINE_S = 600.0
"""How long the next piece of a chat may take: others are before it, and calls before all of them."""

log = logging.getLogger("engine")


class ProcessEngine:
    """An :class:`engine.client.Engine` whose model lives in a worker process."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._worker: WorkerProcess | None = None
        self._info: EngineInfo | None = None
        self._sessions: list[ProcessSession] = []
        self._restarting: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> EngineInfo:
        self._stopping = False
        self._worker, self._info = await self._start()
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
        worker = self._ready()
        try:
            number = await worker.open(options)
        except EngineError as error:
            raise restarting() if error.code == "worker_lost" else error from None
        session = self._session(worker, number)
        session.options = options
        return session

    def chat(self, request: ChatRequest) -> ChatStream:
        """A chat does not outlive its worker: who asked has all that it takes to ask again."""
        try:
            worker = self._ready()
            if (info := self.info) is None:
                raise stalled()
            check_chat(request, info)
        except EngineError as error:
            return refused(error)
        pipe: AnswerPipe[ChatPiece] = AnswerPipe()
        number = worker.chat(pipe.push, request, CHAT_CREDIT)
        take, leave = partial(worker.credit, number), partial(worker.leave, number)
        return AnswerStream(pipe, take, leave, deadline_s=CHAT_DEADLINE_S)

    async def sessions(self) -> tuple[ProcessSession, ...]:
        """Raises EngineError while the worker is away: nobody knows then."""
        if self._worker is None and self._restarting is None:
            return ()
        worker = self._ready()
        return tuple(self._session(worker, number) for number in await worker.submit("sessions"))

    async def stop(self) -> None:
        self._stopping = True
        if self._restarting is not None:
            self._restarting.cancel()
            await asyncio.wait([self._restarting])
        worker, self._worker, self._info = self._worker, None, None
        for session in list(self._sessions):
            session.abandon(EngineError("worker_lost", "The engine was stopped."))
        if worker is not None:
            await worker.stop()

    def _ready(self) -> WorkerProcess:
        if self._worker is not None and self._info is not None:
            return self._worker
        if self._restarting is not None:
            raise restarting()
        raise EngineError("not_started", "The engine is not running; start it first.")

    def _session(self, worker: WorkerProcess, number: int) -> ProcessSession:
        """The one object for the worker's session of this number."""
        for session in self._sessions:
            if session.place == (worker, number):
                return session
        session = ProcessSession(SessionOptions(), (worker, number), self._sessions.remove)
        self._sessions.append(session)
        return session

    async def _start(self) -> tuple[WorkerProcess, EngineInfo]:
        """A new worker, with the model loaded. Raises EngineError ``load_failed``."""
        worker = await WorkerProcess.spawn(self._lost, self._changed)
        try:
            info = revive(EngineInfo, await worker.start(self._spec))
            # Whatever memory a later worker finds, a session that goes on must find the same context.
            self._spec = replace(self._spec, max_sessions=info.max_sessions, context=info.context_limit)
            return worker, info
        except BaseException as error:
            await worker.stop()
            if isinstance(error, EngineError) and error.code == "worker_lost":
                raise EngineError("load_failed", f"The model was not loaded: {error.message}") from None
            raise

    # -------------------------------------------------------------------------------------------- when it is lost
    def _changed(self, change: EngineError | None) -> None:
        for session in self._sessions:
            session.tell(change)

    def _lost(self, worker: WorkerProcess) -> None:
        if worker is not self._worker:
            return
        self._worker = self._info = None
        if self._stopping:
            return
        if not self._spec.restart:
            self._give_up(f"{worker.lost.message if worker.lost else ''} The call is over.".lstrip())
            return
        for session in list(self._sessions):
            session.lost()
        if self._restarting is None:
            self._restarting = asyncio.get_running_loop().create_task(self._restart())

    async def _restart(self) -> None:
        delay_s, failed = FIRST_RESTART_S, 0
        try:
            while self._info is None:
                try:
                    log.warning("starting a new engine worker")
                    self._worker, info = await self._start()
                except EngineError as error:
                    failed += 1
                    if failed == MAX_FAILED_STARTS:
                        self._give_up("The model stopped and could not be started again, so that the call is over.")
                    log.error("the engine cannot be started again, next try in %g s: %s", delay_s, error.message)
                    await asyncio.sleep(delay_s)
                    delay_s = min(2 * delay_s, LONGEST_RESTART_S)
                    continue
                delay_s, failed = FIRST_RESTART_S, 0
                await self._rebuild(self._worker)
                if self._worker is not None:
                    self._info = info
        finally:
            self._restarting = None

    async def _rebuild(self, worker: WorkerProcess) -> None:
        """Bring all sessions into a new worker: first those whose callers wait for something, last those that may be
        what killed the old one."""
        for session in sorted(self._sessions, key=lambda session: (session.is_suspect, not session.is_busy)):
            try:
                await session.rebuild(worker)
            except EngineError as error:
                if worker.lost is not None:
                    return
                log.error("a session cannot be built again: %s", error.message)
                session.give_up(f"What the model knew of this call could not be brought back: {error.message}")

    def _give_up(self, cause: str) -> None:
        for session in list(self._sessions):
            session.give_up(cause)
