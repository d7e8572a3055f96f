"""What a session was asked for and has not done: kept, so that it can be asked for again in a new worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from engine.client import Chunk, EngineError
from engine.serving.answer import CHUNKS_AHEAD, AnswerPipe
from engine.serving.journal import Answered
from engine.serving.worker_process import WorkerProcess

SAME_WITHIN = 64
"""Steps of int16 by which a sample may differ when a chunk is made again: rounding, and no other word."""

Place = tuple[WorkerProcess, int]
"""Where a session is: a worker, and the session's number there."""


class Owner(Protocol):
    """The session that was asked."""

    @property
    def place(self) -> Place | None: ...

    def done(self, work: PendingRequest | PendingAnswer) -> None:
        """It need not be asked for again."""
        ...

    def progress(self) -> None:
        """The present worker has done something for the session."""
        ...

    def restore(self) -> None:
        """What the worker holds is not what the journal says."""
        ...


class PendingRequest:
    """A request with one reply. ``keep`` makes the result of it, and writes down what has changed."""

    def __init__(
        self, owner: Owner, op: str, fields: dict[str, Any], keep: Callable[[Any], Any] = lambda reply: reply
    ) -> None:
        self.op = op
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._owner, self._fields, self._keep = owner, fields, keep

    def send(self, place: Place) -> None:
        worker, number = place
        reply = worker.submit(self.op, session=number, **self._fields)
        reply.add_done_callback(partial(self._replied, place))

    def _replied(self, place: Place, reply: asyncio.Future[Any]) -> None:
        error = reply.exception()
        if self._owner.place != place or (isinstance(error, EngineError) and error.code == "worker_lost"):
            return  # it is sent again
        self._owner.done(self)
        self._owner.progress()
        if error is None:
            result = self._keep(reply.result())
            if not self.future.done():
                self.future.set_result(result)
        elif not self.future.done():
            self.future.set_exception(error)

    def abort(self, error: EngineError) -> None:
        """It will never be done."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()


class PendingAnswer:
    """An answer until its last chunk has come. Made again, it goes on behind the chunks that have come."""

    def __init__(self, owner: Owner, entry: Answered) -> None:
        self.pipe: AnswerPipe[Chunk] = AnswerPipe()
        self.entry = entry
        self._owner = owner
        self._came: list[Chunk] = []
        self._again = 0
        """So many chunks the present worker has made."""
        self._taken = 0
        self._sent = 0
        self._over = False
        self.cancelled = False

    def send(self, place: Place) -> None:
        self._again = 0
        worker, number = place
        fields = {"session": number, "epoch": self.entry.epoch, "credit": CHUNKS_AHEAD + self._taken}
        self._sent = worker.answer(partial(self._push, place), **fields)

    def _push(self, place: Place, item: Chunk | EngineError) -> None:
        if self._owner.place != place or self._over:
            return
        if isinstance(item, EngineError):
            if item.code != "worker_lost":
                self._end(item)
        elif item.finish == "cancelled":
            self._end(replace(item, index=len(self._came)))
        elif self._again < len(self._came):
            if _is_same(item, self._came[self._again]):
                self._again += 1
            else:
                message = "The model was started again, and does not go on with its answer as it began. Ask again."
                self._break_off(EngineError("answer_lost", message, retryable=True))
        else:
            self._again += 1
            self._came.append(item)
            self.entry.add(item)
            self._owner.progress()
            if item.finish is None:
                self.pipe.push(item)
            else:
                self._end(item)

    def taken(self) -> None:
        """The caller has taken a chunk."""
        self._taken += 1
        if self._owner.place is not None:
            self._owner.place[0].credit(self._sent)

    def cancel(self) -> bool:
        """End it at once where no worker has to stop; else False."""
        self.cancelled = True
        if self._over:
            return True
        if self._owner.place is not None and self._again == len(self._came):
            return False
        self._break_off(Chunk(self.entry.epoch, len(self._came), finish="cancelled"))
        return True

    def leave(self) -> None:
        """The caller goes away."""
        if not self.cancel():
            assert self._owner.place is not None
            self._owner.place[0].leave(self._sent)
            self._over = True
            self._owner.done(self)

    def abort(self, error: EngineError) -> None:
        """It will never be done."""
        closed = error.code == "session_closed"
        self._end(Chunk(self.entry.epoch, len(self._came), finish="cancelled") if closed else error)

    def _break_off(self, end: Chunk | EngineError) -> None:
        """End it before a worker that makes it again has come to where it was."""
        self._end(end)
        if self._owner.place is not None:
            self._owner.restore()

    def _end(self, end: Chunk | EngineError) -> None:
        if not self._over:
            self._over = True
            if isinstance(end, Chunk):
                self.entry.finish = end.finish
            self._owner.done(self)
            self.pipe.push(end)


def _is_same(ours: Chunk, theirs: Chunk) -> bool:
    if (ours.text, len(ours.pcm), ours.finish) != (theirs.text, len(theirs.pcm), theirs.finish):
        return False
    return int(np.abs(ours.pcm.astype(np.int32) - theirs.pcm).max(initial=0)) <= SAME_WITHIN
