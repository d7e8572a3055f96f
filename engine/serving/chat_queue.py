"""Which of the chats that were asked for are answered now, and which wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from engine.client import EngineError

MAX_WAITING_CHATS = 16
C = TypeVar("C")


class ChatQueue(Generic[C]):
    """First come, first served."""

    def __init__(self, start: Callable[[C], None], most: int) -> None:
        """``start`` begins to answer a chat, whose end :meth:`done` is then told; ``most`` are answered at once."""
        self._start, self._most = start, most
        self._waiting: deque[C] = deque()
        self.running: set[C] = set()

    def add(self, chat: C) -> None:
        """Raises EngineError ``full``."""
        if len(self._waiting) >= MAX_WAITING_CHATS:
            message = f"{MAX_WAITING_CHATS} requests wait for the model already; try again in a few seconds."
            raise EngineError("full", message, retryable=True)
        self._waiting.append(chat)
        self._next()

    def give_up(self, chat: C) -> bool:
        """Whether the chat was still waiting; it is forgotten then."""
        waited = chat in self._waiting
        if waited:
            self._waiting.remove(chat)
        return waited

    def done(self, chat: C) -> None:
        """The chat is over, and the next one may begin."""
        self.running.discard(chat)
        self._next()

    def clear(self) -> None:
        """Nobody waits any longer."""
        self._waiting.clear()

    def _next(self) -> None:
        while self._waiting and len(self.running) < self._most:
            chat = self._waiting.popleft()
            self.running.add(chat)
            self._start(chat)
