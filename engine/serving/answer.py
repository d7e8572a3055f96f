"""The two ends of an answer on its way from an engine to a caller: bounded, cancellable, left at any time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, Protocol, TypeVar

from engine.client import EngineError, FinishReason

CHUNKS_AHEAD = 2
"""How many chunks an engine makes before the consumer takes the first of them (about 1 s of speech)."""


class _Finishing(Protocol):
    @property
    def finish(self) -> FinishReason | None: ...


P = TypeVar("P", bound=_Finishing)
"""What an answer comes in: the chunks of a call's, the pieces of a chat's."""


class AnswerPipe(Generic[P]):
    """The engine's end: it pushes chunks, the last one with ``finish``, or the error that ends the answer."""

    def __init__(self) -> None:
        self._items: deque[P | EngineError] = deque()
        self._arrived = asyncio.Event()

    def push(self, item: P | EngineError) -> None:
        self._items.append(item)
        self._arrived.set()

    async def pop(self) -> P | EngineError:
        while not self._items:
            self._arrived.clear()
            await self._arrived.wait()
        return self._items.popleft()


class AnswerStream(AsyncIterator[P]):
    """The caller's end: the iterator that ``generate`` hands out. Both ends live on one event loop.

    ``taken`` is called for every chunk that the caller takes (the engine may make one more), ``left`` once when the
    caller goes away before the finishing chunk: by ``aclose()`` or by dropping the iterator. So that dropping is seen
    at once, the engine holds the pipe only, never this object.
    """

    def __init__(
        self,
        pipe: AnswerPipe[P],
        taken: Callable[[], None],
        left: Callable[[], None],
        *,
        deadline_s: float | None = None,
        excused: Callable[[], bool] = lambda: False,
    ) -> None:
        """``deadline_s`` is how long the next chunk may take; later, the answer ends with ``engine_timeout``, unless
        the engine is ``excused()``."""
        self._loop = asyncio.get_running_loop()
        self._pipe = pipe
        self._taken = taken
        self._left = left
        self._deadline_s = deadline_s
        self._excused = excused
        self._over = False

    def __aiter__(self) -> AnswerStream[P]:
        return self

    async def __anext__(self) -> P:
        if self._over:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout(self._deadline_s):
                item = await self._pipe.pop()
        except TimeoutError:
            if self._excused():
                return await anext(self)
            await self.aclose()
            message = f"The model has not gone on with its answer for {self._deadline_s:g} s; ask again."
            raise EngineError("engine_timeout", message, retryable=True) from None
        self._over = isinstance(item, EngineError) or item.finish is not None
        if isinstance(item, EngineError):
            raise item
        self._taken()
        return item

    async def aclose(self) -> None:
        """Leave the answer; the engine stops at the next chunk boundary."""
        if not self._over:
            self._over = True
            self._left()

    def __del__(self) -> None:
        if not self._over and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._left)


def refused(error: EngineError) -> AnswerStream[P]:
    """An answer that fails before it begins."""
    pipe: AnswerPipe[P] = AnswerPipe()
    pipe.push(error)
    return AnswerStream(pipe, lambda: None, lambda: None)
