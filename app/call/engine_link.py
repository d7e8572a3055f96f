"""A call's line to its engine session: requests go out in order, results come back as numbered inputs of the call.

The call is synchronous and deterministic, the engine is neither. Between them stands one task per call: it carries out
one request after the other and hands each result to the call at a definite place in the order of the call's inputs.
What belongs to an answer that the call has cancelled is no result: it is swallowed here, so that the results of a call
do not depend on how fast its engine stopped. That an answer fails, or the session is lost, is no result either: it
depends on the machine, so that it is an input of its own, a fault, which a replay repeats whatever its engine does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from engine.client import Chunk, EngineError, EngineSession, Prefilled, Unit

log = logging.getLogger(__name__)

REMEMBERED_REFUSALS = 64
"""Refused units that are remembered, in case they were fed on trial."""

FATAL_CODES = ("session_closed", "worker_lost")


# --------------------------------------------------------------------------------------------------------- results
@dataclass(frozen=True, slots=True)
class UnitPrefilled:
    """The session holds unit number ``index``; ``frame_error`` says why it holds it without its picture."""

    index: int
    unit: Unit
    prefilled: Prefilled
    frame_error: EngineError | None = None


@dataclass(frozen=True, slots=True)
class UnitRefused:
    """Unit number ``index`` is not in the session."""

    index: int
    error: EngineError


@dataclass(frozen=True, slots=True)
class GenerationBegun:
    """The engine is asked for the answer of ``epoch`` now. A result, so that a replay knows which of the answers that
    were cancelled early had been begun: the session's memory may differ."""

    epoch: int


@dataclass(frozen=True, slots=True)
class ChunkArrived:
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class GenerationStopped:
    """The engine has left the answer of ``epoch``, which the call had cancelled."""

    epoch: int


Result = UnitPrefilled | UnitRefused | GenerationBegun | ChunkArrived | GenerationStopped


# -------------------------------------------------------------------------------------------------------- requests
@dataclass(frozen=True, slots=True)
class _Prefill:
    index: int
    unit: Unit


@dataclass(frozen=True, slots=True)
class _Generate:
    epoch: int


@dataclass(frozen=True, slots=True)
class _Heard:
    epoch: int
    samples: int
    read: int | None


@dataclass(frozen=True, slots=True)
class _TakeBack:
    epoch: int
    units: range


_Request = _Prefill | _Generate | _Heard | _TakeBack


class EngineLink:
    """Belongs to one call and one session; create it on a running event loop.

    With ``held`` results wait until :meth:`release` lets them take effect, one by one: a replay gives each its recorded
    place among the inputs. Without, each takes effect when it comes.
    """

    def __init__(
        self,
        session: EngineSession,
        deliver: Callable[[int, Result], None],
        has_room: Callable[[], bool],
        *,
        fault: Callable[[int | None, EngineError], None],
        engine_changed: Callable[[EngineError | None], None],
        held: bool = False,
    ) -> None:
        """``deliver(n, result)`` applies result number n (gapless, from 0) to the call. ``has_room()`` says whether the
        call takes more speech now; whoever makes room calls :meth:`room_made`. ``fault(epoch, error)`` is told that the
        answer of ``epoch`` failed, which the call then cancels, or with None and one of :data:`FATAL_CODES` that the
        session is gone and no result follows. ``engine_changed`` is told at once, whatever is asked of the engine, that
        it does not answer, and that it answers again (None)."""
        self._session = session
        self._deliver = deliver
        self._has_room = has_room
        self._held = held
        self._requests: deque[_Request] = deque()
        self._refused: deque[int] = deque(maxlen=REMEMBERED_REFUSALS)
        self._cancelled: set[int] = set()
        self._generating: int | None = None
        self._units = 0
        self._results = 0
        self._waiting: Result | None = None
        self._failure: EngineError | None = None
        self._fault = fault
        self._engine_changed = engine_changed
        self._wake = asyncio.Event()
        self._blocked = asyncio.Event()
        self._errands: set[asyncio.Task[None]] = set()
        self._closed = False
        session.watch(self._on_change)
        self._worker = asyncio.get_running_loop().create_task(self._work())

    # ------------------------------------------------------------------------------------------- the call's side
    @property
    def pending_units(self) -> int:
        """Units that the session does not hold yet."""
        return sum(isinstance(request, _Prefill) for request in self._requests)

    def prefill(self, unit: Unit) -> int:
        """Queue a unit; its number, from 1. Answered by UnitPrefilled or UnitRefused."""
        self._units += 1
        self._submit(_Prefill(self._units, unit))
        return self._units

    def generate(self, epoch: int) -> None:
        """Queue an answer. Answered by GenerationBegun and ChunkArrived up to the finishing one, or by a fault, and
        from its cancellation on by nothing but GenerationStopped."""
        self._submit(_Generate(epoch))

    def cancel(self, epoch: int) -> None:
        """Have the engine stop the answer of ``epoch``, which has not been finished, at its next chunk boundary."""
        self._cancelled.add(epoch)
        if self._generating == epoch:
            self._run_errand(self._cancel(epoch))
        self._poke()

    def heard(self, epoch: int, samples: int, read: int | None = None) -> None:
        """Tell the session how much of an answer was played (24 kHz), and how many characters of one that was stopped
        count as heard, before whatever is requested next."""
        self._submit(_Heard(epoch, samples, read))

    def take_back(self, epoch: int, units: range, *, running: bool) -> None:
        """The answer of ``epoch``, which may be ``running``, and these units before it were never asked for."""
        if running:
            self.cancel(epoch)
        self._submit(_TakeBack(epoch, units))

    def check_text(self, text: str, then: Callable[[EngineError | None], None]) -> None:
        """Have the engine see whether typed text fits, now, before whatever was requested; ``then`` is told what it
        says against it. What else may be wrong with the engine is left to the request that the text is for."""
        self._run_errand(self._check_text(text, then))
        self._poke()

    def room_made(self) -> None:
        """``has_room()`` may have become true."""
        if not self._blocked.is_set() or not self._has_room():
            return
        self._poke()

    def _on_change(self, error: EngineError | None) -> None:
        if self._closed:
            return
        if error is not None and error.code in FATAL_CODES:
            self._lose(error)
        else:
            self._engine_changed(error)

    def _lose(self, error: EngineError) -> None:
        """The session is gone: no later request waits for it."""
        if self._failure is None:
            self._failure = error
            if not self._held:
                self._fault(None, error)

    # ----------------------------------------------------------------------------------------- the replay's side
    async def idle(self) -> None:
        """Return when nothing can happen without a new input of the call: every request is done, or waits for room,
        or, with ``held``, its result waits for :meth:`release`."""
        while not self._closed and not (self._blocked.is_set() and not self._errands):
            if self._errands:
                await asyncio.wait(self._errands)
            else:
                await self._blocked.wait()
            await asyncio.sleep(0)

    async def release(self, n: int) -> bool:
        """Let result number ``n``, the next one, take effect as soon as it is there. False when it will not come
        without another input, or is another one: the engine does not do what it did in the recording."""
        await self.idle()
        if self._waiting is None or n != self._results:
            return False
        result, self._waiting = self._waiting, None
        self._apply(result)
        self._poke()
        return True

    async def close(self) -> None:
        """Leave whatever runs, and close the session. Twice is no error."""
        if self._closed:
            return
        self._closed = True
        self._blocked.set()
        tasks = {self._worker, *self._errands}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self._session.close()
        except EngineError as error:
            log.debug("closing a session that is gone: %s", error)

    # -------------------------------------------------------------------------------------------------- the task
    async def _work(self) -> None:
        while True:
            await self._until(lambda: bool(self._requests))
            request = self._requests.popleft()
            try:
                match request:
                    case _Prefill():
                        await self._prefill(request)
                    case _Generate(epoch):
                        await self._generate(epoch)
                    case _Heard(epoch, samples, read):
                        if self._failure is None:
                            await self._session.heard(epoch, samples, read)
                    case _TakeBack(epoch, units):
                        await self._take_back(epoch, units)
            except EngineError as error:
                log.debug("the engine did not take %s: %s", request, error)

    async def _prefill(self, request: _Prefill) -> None:
        unit = request.unit
        refused: EngineError | None = None
        result: Result
        try:
            try:
                prefilled = await self._guarded(self._session.prefill(unit))
            except EngineError as error:
                if error.code != "bad_unit" or unit.frame is None or not (len(unit.audio) or unit.text):
                    raise
                refused = error  # a broken picture must not cost a word that was spoken
                unit = replace(unit, frame=None)
                prefilled = await self._guarded(self._session.prefill(unit))
            result = UnitPrefilled(request.index, unit, prefilled, refused)
        except EngineError as error:
            self._refused.append(request.index)
            result = UnitRefused(request.index, error)
        await self._hand_over(result)

    async def _take_back(self, epoch: int, units: range) -> None:
        if self._failure is not None:
            return
        await self._session.heard(epoch, 0, 0)
        if fed := sum(index not in self._refused for index in units):
            await self._session.rewind(fed)

    async def _generate(self, epoch: int) -> None:
        if epoch not in self._cancelled:
            self._generating = epoch
            try:
                await self._chunks(epoch)
            except EngineError as error:
                if epoch not in self._cancelled and not self._held and self._failure is None:
                    self._fault(epoch, error)
            finally:
                self._generating = None
        if epoch in self._cancelled:
            self._cancelled.discard(epoch)
            await self._hand_over(GenerationStopped(epoch))

    async def _chunks(self, epoch: int) -> None:
        """Hand over the chunks of one answer; from its cancellation on, only wait for its end."""
        if self._failure is not None:
            raise self._failure
        await self._hand_over(GenerationBegun(epoch))
        if epoch in self._cancelled:
            return
        chunks = self._session.generate(epoch)
        while True:
            await self._until(lambda: self._has_room() or epoch in self._cancelled)
            try:
                chunk = await self._guarded(anext(chunks))
            except StopAsyncIteration:
                raise EngineError("engine_fault", "The engine's answer broke off. Try again.", retryable=True) from None
            if epoch not in self._cancelled:
                await self._hand_over(ChunkArrived(chunk))
            if chunk.finish is not None:
                return

    async def _guarded(self, request: Any) -> Any:
        """The answer to a request. Whatever goes wrong in the engine ends as EngineError."""
        if self._failure is not None:
            if asyncio.iscoroutine(request):
                request.close()
            raise self._failure
        try:
            return await request
        except EngineError as error:
            if error.code in FATAL_CODES:
                self._lose(error)
            raise
        except (StopAsyncIteration, asyncio.CancelledError):
            raise
        except Exception as error:
            log.exception("a fault inside the engine")
            raise EngineError("engine_fault", f"The engine failed: {type(error).__name__}. Try again.") from error

    async def _hand_over(self, result: Result) -> None:
        """Apply ``result``, when its time has come and it still is one."""
        if self._failure is not None:
            return
        if self._held:
            self._waiting = result
            await self._until(lambda: self._waiting is None or self._is_stale(result))
            self._waiting = None
        elif not self._is_stale(result):
            self._apply(result)

    def _is_stale(self, result: Result) -> bool:
        """Whether the call has cancelled the answer that ``result`` belongs to."""
        if isinstance(result, ChunkArrived):
            return result.chunk.epoch in self._cancelled
        return isinstance(result, GenerationBegun) and result.epoch in self._cancelled

    def _apply(self, result: Result) -> None:
        n = self._results
        self._results += 1
        self._deliver(n, result)

    # -------------------------------------------------------------------------------------------------- waiting
    def _submit(self, request: _Request) -> None:
        self._requests.append(request)
        self._poke()

    def _poke(self) -> None:
        """Something has changed: let the task look."""
        self._blocked.clear()
        self._wake.set()

    async def _until(self, ready: Callable[[], bool]) -> None:
        while not ready():
            self._wake.clear()
            self._blocked.set()
            await self._wake.wait()
        self._blocked.clear()

    async def _check_text(self, text: str, then: Callable[[EngineError | None], None]) -> None:
        refusal: EngineError | None = None
        try:
            await self._guarded(self._session.check_text(text))
        except EngineError as error:
            refusal = error if error.code == "text_too_long" else None
        then(refusal)

    async def _cancel(self, epoch: int) -> None:
        try:
            await self._session.cancel(epoch)
        except EngineError as error:
            log.debug("the engine could not cancel answer %d: %s", epoch, error)

    def _run_errand(self, errand: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
