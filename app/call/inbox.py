"""The messages of a client on their way into its call: in order, and only such as can be understood and taken in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from app.call import turn
from app.call.commands import CallCommand, Command, Hello, Ping, Remark, Unknown, command_of
from app.call.config import OptionError
from app.call.engine_link import EngineLink
from app.call.outbox import Outbox
from app.call.protocol import VERSION, ProtocolError, parse_message
from engine.client import EngineError

SURELY_FITS = 8
"""A message with fewer bytes than an eighth of the context's tokens need not be measured: a token is a byte at least,
some models write figures out, and an engine leaves more than that for what is typed."""


@dataclass(frozen=True, slots=True)
class _Message:
    """What a client sent, as it came and as it was understood."""

    raw: str
    seq: int | None
    command: Command | ProtocolError


class Inbox:
    """Lets one message after the other take effect.

    A long typed text does, or is refused, when the engine has measured it; what comes behind it waits. One that cannot
    be understood or carried out gets an ``error`` that names it, one of an unknown type a ``warning``; neither changes
    anything else.
    """

    def __init__(
        self,
        link: EngineLink,
        outbox: Outbox,
        context_limit: int | None,
        *,
        arrived: Callable[[str], None],
        apply: Callable[[CallCommand], None],
    ) -> None:
        """``context_limit`` is the engine's, in tokens, None where there is none to keep. ``arrived(raw)`` is told of
        every message before it takes effect. ``apply(command)`` changes the call; it may raise OptionError."""
        self._link = link
        self._outbox = outbox
        self._context_limit = context_limit
        self._arrived = arrived
        self._apply = apply
        self._waiting: deque[_Message] = deque()
        self._measuring = False
        self._closed = False

    def push(self, raw: str) -> None:
        """A message has come."""
        self._waiting.append(_read(raw))
        self._go_on()

    def close(self) -> None:
        """Forget what waits; no message takes effect any more."""
        self._waiting.clear()
        self._closed = True

    def _go_on(self) -> None:
        while self._waiting and not self._measuring:
            message = self._waiting.popleft()
            command = message.command
            if isinstance(command, turn.Typed) and self._is_long(message.raw):
                self._measuring = True
                self._link.check_text(command.text, partial(self._measured, message))
            else:
                self._take(message, None)

    def _measured(self, message: _Message, refusal: EngineError | None) -> None:
        self._measuring = False
        if not self._closed:
            self._take(message, refusal)
            self._go_on()

    def _is_long(self, raw: str) -> bool:
        limit = self._context_limit
        return limit is not None and len(raw.encode(errors="replace")) > limit // SURELY_FITS

    def _take(self, message: _Message, refusal: EngineError | None) -> None:
        """Let a message take effect, or answer it with the engine's ``refusal`` of its text."""
        self._arrived(message.raw)
        try:
            if isinstance(message.command, ProtocolError):
                raise message.command
            if refusal is not None:
                raise ProtocolError(refusal.code, refusal.message)
            self._carry_out(message.command, message.seq)
        except ProtocolError as error:
            self._outbox.error(error.code, error.message, ref_seq=message.seq)
        except OptionError as error:
            self._outbox.error("bad_options", str(error), ref_seq=message.seq)

    def _carry_out(self, command: Command, seq: int | None) -> None:
        """Answer what concerns the line; the rest is the call's."""
        match command:
            case Hello(last_seq, version):
                self._outbox.hello(last_seq)
                if version != VERSION:
                    message = f"This server speaks version {VERSION} of the protocol."
                    raise ProtocolError("unsupported_version", message)
            case Ping(nonce):
                self._outbox.event("pong", {"nonce": nonce})
            case Remark():
                pass
            case Unknown(kind):
                message = f"Messages of type {kind!r} are unknown to this server and were ignored."
                self._outbox.warn("unknown_type", message, ref_seq=seq)
            case turn.Typed(text):
                self._outbox.event("user.text", {"text": text})
                self._apply(command)
            case _:
                self._apply(command)


def _read(raw: str) -> _Message:
    seq: int | None = None
    try:
        message = parse_message(raw)
        seq = message.seq
        return _Message(raw, seq, command_of(message))
    except ProtocolError as error:
        return _Message(raw, error.ref_seq if seq is None else seq, error)
