"""One call's session in a worker process, which outlives the worker.

What the session was given, and what of its answers was heard, is kept in a journal. When the worker dies, the session
is away; in a new worker it is fed from the journal, and what had not been done yet is asked for again. An answer that
was under way is made once more: it follows from the same memory and the same random numbers, so that it goes on behind
what had come of it. Where it does not come out the same, it fails with ``answer_lost``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from engine.client import Chunk, EngineError, Prefilled, SessionOptions, Unit
from engine.serving.answer import AnswerStream
from engine.serving.checks import check_unit
from engine.serving.journal import Answered, Journal
from engine.serving.pending import PendingAnswer, PendingRequest, Place
from engine.serving.wire import plain, revive
from engine.serving.worker_process import WorkerProcess, stalled
from engine.spoken import SpokenText, Starts

MAX_WAITING = 64
"""Units of one session that may wait for their turn."""

MAX_LOSSES = 3
"""So many workers in a row may die at a session's work before it is given up: it may be what kills them."""

TRIAL_S = 5.0
"""How long a session that may be what kills workers has the last of them for itself."""

CHUNK_DEADLINE_S = 120.0
"""How long the next chunk of an answer may take."""

Listener = Callable[[EngineError | None], None]


class ProcessSession:
    """An :class:`engine.client.EngineSession`. Its engine tells it of the worker: :meth:`lost`, :meth:`rebuild`."""

    def __init__(self, options: SessionOptions, place: Place, forget: Callable[[ProcessSession], None]) -> None:
        """``forget`` is told when the session is closed or given up."""
        self.options = options
        self.place: Place | None = place
        """None while it is away."""
        self.journal = Journal()
        self._forget = forget
        self._listener: Listener | None = None
        self._pending: list[PendingRequest | PendingAnswer] = []  # in order
        self._owed: Answered | None = None  # the last answer, which the present worker does not know yet
        self._rebuilding = False
        self._losses = 0
        self._moved = asyncio.Event()  # the worker has done something, or is gone
        self._end: EngineError | None = None
        self._restoring: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Something was asked of it that is not done yet."""
        return bool(self._pending)

    @property
    def is_suspect(self) -> bool:
        """The next worker that dies at its work is the last."""
        return self._losses == MAX_LOSSES - 1

    # ------------------------------------------------------------------------------------------- what a call asks for
    async def prefill(self, unit: Unit) -> Prefilled:
        check_unit(unit)
        waiting = sum(isinstance(work, PendingRequest) and work.op == "prefill" for work in self._pending)
        if waiting >= MAX_WAITING:
            raise EngineError("busy", f"{waiting} units are waiting already; wait for their answers.", retryable=True)

        def keep(reply: Any) -> Prefilled:
            prefilled = revive(Prefilled, reply)
            self.journal.feed(unit, prefilled)
            return prefilled

        prefilled: Prefilled = await self._ask("prefill", {"unit": plain(unit)}, keep)
        return prefilled

    def generate(self, epoch: int) -> AsyncIterator[Chunk]:
        answer = PendingAnswer(self, Answered(epoch, self.options.speak))
        if self._end is not None:
            answer.pipe.push(self._end)
        else:
            self._submit(answer)
            self.journal.begin(answer.entry)
        away = lambda: self.place is None  # noqa: E731
        return AnswerStream(answer.pipe, answer.taken, answer.leave, deadline_s=CHUNK_DEADLINE_S, excused=away)

    async def check_text(self, text: str) -> None:
        await self._ask("check_text", {"text": text})

    async def cancel(self, epoch: int) -> None:
        answers = [work for work in self._pending if isinstance(work, PendingAnswer) and work.entry.epoch == epoch]
        if not all(answer.cancel() for answer in answers):
            await self._tell("cancel", epoch=epoch)

    async def heard(self, epoch: int, samples: int, read: int | None = None) -> None:
        answer = self.journal.unsettled(epoch)
        if answer is None:
            return
        answer.settle(samples, read)
        if answer is not self._owed:
            await self._tell("heard", epoch=epoch, samples=samples, read=read)

    async def rewind(self, units: int) -> None:
        if self._end is None:
            await self._ask("rewind", {"units": units}, lambda _: self.journal.rewind(units))

    async def remember(self, text: str, samples: int = 0, starts: Starts = ()) -> None:
        said = SpokenText()
        said.add(text, starts)
        answer = Answered(0, self.options.speak, said, made=samples, finish="stop", heard=samples)
        await self._ask("remember", answer.as_remembered(), lambda _: self.journal.begin(answer))

    def watch(self, listener: Listener) -> None:
        self._listener = listener
        if self.place is None:
            self.tell(self._end or restarting())
        elif self.place[0].stalled:
            self.tell(stalled())

    async def close(self) -> None:
        place = self.place
        self.abandon(_closed())
        if place is not None:
            await place[0].close(place[1])

    # ----------------------------------------------------------------------------------------- what its engine tells it
    def tell(self, change: EngineError | None) -> None:
        """Pass on to who watches the session how its engine is."""
        if self._listener is not None:
            asyncio.get_running_loop().call_soon(self._listener, change)

    def lost(self) -> None:
        """The worker is gone."""
        self._losses += self._rebuilding or (self.place is not None and self.is_busy)
        self.place = self._owed = None
        self._moved.set()
        if self._losses >= MAX_LOSSES:
            self.give_up("The model stopped again and again at the work of this call, which is therefore over.")
            return
        for work in list(self._pending):
            if isinstance(work, PendingAnswer) and work.cancelled:
                work.cancel()
        self.tell(restarting())

    def give_up(self, cause: str) -> None:
        """Nothing brings the session back; ``cause`` is a sentence for people."""
        error = EngineError("worker_lost", cause, retryable=True)
        self.tell(error)
        self.abandon(error)

    def abandon(self, error: EngineError) -> None:
        """Whatever waits, or is asked for later, fails with ``error``."""
        if self._end is None:
            self._end, self.place = error, None
            pending, self._pending = self._pending, []
            for work in pending:
                work.abort(error)
            self._forget(self)

    async def rebuild(self, worker: WorkerProcess) -> None:
        """Bring the session to where it was, in a worker that is new, and go on. A suspect is given the time to show
        that it does no harm. Raises EngineError; the session is away then as before."""
        self._rebuilding = True
        try:
            place = worker, await worker.open(self.options)
            try:
                owed = await self._replay(place)
            except EngineError:
                await worker.close(place[1])
                raise
        finally:
            self._rebuilding = False
        if self._end is not None:
            await worker.close(place[1])
            return
        self.place, self._owed = place, owed
        if self._pending:
            self._pay(place)
        self._moved.clear()
        for work in self._pending:
            work.send(place)
        self.tell(None)
        if self._pending and self.is_suspect:
            with suppress(TimeoutError):
                async with asyncio.timeout(TRIAL_S):
                    await self._moved.wait()

    async def _replay(self, place: Place) -> Answered | None:
        """Feed the journal; returns the last answer if nobody has said yet how much of it was heard."""
        worker, number = place
        running = [work.entry for work in self._pending if isinstance(work, PendingAnswer)]
        entries = [entry for entry in self.journal.entries if entry not in running]
        owed: Answered | None = None
        if entries and isinstance(last := entries[-1], Answered) and not last.is_settled:
            owed = last
            entries.pop()
        for _ in range(self.journal.forgotten_answers):
            await worker.submit("remember", session=number, **NOTHING.as_remembered())
        for entry in entries:
            if self._end is not None:
                break
            if isinstance(entry, Answered):
                await worker.submit("remember", session=number, **entry.as_remembered())
            elif not entry.is_empty:
                await worker.submit("prefill", session=number, unit=plain(entry.unit))
        return owed

    # --------------------------------------------------------------------------------------- for what is pending
    def done(self, work: PendingRequest | PendingAnswer) -> None:
        if work in self._pending:
            self._pending.remove(work)

    def progress(self) -> None:
        self._losses = 0
        self._moved.set()

    def restore(self) -> None:
        if self.place is not None:
            place, self.place, self._owed = self.place, None, None
            self._restoring = asyncio.get_running_loop().create_task(self._restore(*place))

    async def _restore(self, worker: WorkerProcess, number: int) -> None:
        try:
            await worker.close(number)
            await self.rebuild(worker)
        except EngineError as error:
            if worker.lost is None:
                self.give_up(f"What the model knew of this call is lost: {error.message}")

    # ---------------------------------------------------------------------------------------------------- helpers
    async def _ask(self, op: str, fields: dict[str, Any], keep: Callable[[Any], Any] = lambda reply: reply) -> Any:
        if self._end is not None:
            raise self._end
        request = PendingRequest(self, op, fields, keep)
        self._submit(request)
        return await request.future

    def _submit(self, work: PendingRequest | PendingAnswer) -> None:
        self._pending.append(work)
        if self.place is not None:
            self._pay(self.place)
            work.send(self.place)

    def _pay(self, place: Place) -> None:
        """Tell the worker of the answer that was heard before it was there."""
        if self._owed is not None:
            answer, self._owed = self._owed, None
            place[0].submit("remember", session=place[1], **answer.as_remembered())

    async def _tell(self, op: str, **fields: Any) -> None:
        """A request that has nothing left to do when the session or the worker is gone."""
        if self.place is None:
            return
        worker, number = self.place
        try:
            await worker.submit(op, session=number, **fields)
        except EngineError as error:
            if error.code not in ("worker_lost", "session_closed"):
                raise


NOTHING = Answered(0, speak=True, heard=0)
"""An answer of which nothing was heard: it counts as given all the same."""


def restarting() -> EngineError:
    """What callers are told while there is no worker."""
    message = "The model stopped and is being restarted. The call goes on when it is back."
    return EngineError("engine_restarting", message, retryable=True)


def _closed() -> EngineError:
    return EngineError("session_closed", "The session was closed; open a new one.")
