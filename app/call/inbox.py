"""The messages of a client on their way into its call: in order, and only such as the engine can take in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from app.call import turn
from app.call.commands import command_of
from app.call.engine_link import EngineLink
from app.call.protocol import ProtocolError, parse_message
from engine.client import EngineError

SURELY_FITS = 8
"""A message with fewer bytes than an eighth of the context's tokens need not be measured: a token is a byte at least,
some models write figures out, and an engine leaves more than that for what is typed."""

Take = Callable[[str, EngineError | None], None]


class Inbox:
    """Lets one message after the other take effect. A long typed text does, or is refused, when the engine has measured
    it; what comes behind it waits."""

    def __init__(self, link: EngineLink, context_limit: int | None, take: Take) -> None:
        """``context_limit`` is the engine's, in tokens, None where there is none to keep. ``take(raw, refusal)`` lets a
        message take effect, or answers it with the engine's refusal of its text."""
        self._link = link
        self._context_limit = context_limit
        self._take = take
        self._waiting: deque[str] = deque()
        self._measuring = False

    def push(self, raw: str) -> None:
        """A message has come."""
        self._waiting.append(raw)
        self._go_on()

    def close(self) -> None:
        """Forget what waits."""
        self._waiting.clear()

    def _go_on(self) -> None:
        while self._waiting and not self._measuring:
            raw = self._waiting.popleft()
            if (text := self._long_text(raw)) is None:
                self._take(raw, None)
            else:
                self._measuring = True
                self._link.check_text(text, partial(self._measured, raw))

    def _measured(self, raw: str, refusal: EngineError | None) -> None:
        self._measuring = False
        self._take(raw, refusal)
        self._go_on()

    def _long_text(self, raw: str) -> str | None:
        """The text that this message types, if it may be more than the engine can take in."""
        if self._context_limit is None or len(raw.encode(errors="replace")) <= self._context_limit // SURELY_FITS:
            return None
        try:
            command = command_of(parse_message(raw))
        except ProtocolError:
            return None
        return command.text if isinstance(command, turn.Typed) else None
