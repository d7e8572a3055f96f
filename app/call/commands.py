"""What a client can ask: a value of its own type for each type of message.

Reading a message changes nothing. What concerns the line between client and call is answered by
:mod:`app.call.inbox`, the rest is applied by the call; what concerns turns is an event of the turn machine and goes
there as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.call import turn
from app.call.protocol import VERSION, ClientMessage, ProtocolError


@dataclass(frozen=True, slots=True)
class Hello:
    """A connection has been made; its client saw event ``last_seq`` last and speaks this version of the protocol."""

    last_seq: int | None
    version: int


@dataclass(frozen=True, slots=True)
class UpdateOptions:
    """Options that change, as a nested JSON object; not checked yet."""

    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SwitchCamera:
    """While the camera is off, units go without a picture."""

    off: bool


@dataclass(frozen=True, slots=True)
class ReportPlayback:
    """The listener has that much of the answer of ``epoch`` in its own buffer."""

    epoch: int
    buffered_ms: float


@dataclass(frozen=True, slots=True)
class TestSound:
    """Play a chime and measure what comes back through the microphone."""


@dataclass(frozen=True, slots=True)
class Ping:
    nonce: Any


@dataclass(frozen=True, slots=True)
class Bye:
    """The client ends the call."""


@dataclass(frozen=True, slots=True)
class Remark:
    """A message that changes nothing in the call; whoever records it keeps it."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A message of a later version."""

    type: str


LineCommand = Hello | Ping | Remark | Unknown
TurnCommand = turn.Typed | turn.Commit | turn.Discard | turn.Present | turn.Muted | turn.CancelAnswer
CallCommand = UpdateOptions | SwitchCamera | ReportPlayback | TestSound | Bye | TurnCommand
Command = LineCommand | CallCommand


def command_of(message: ClientMessage) -> Command:
    """What a message asks for. Raises ProtocolError ``invalid_message`` for what its schema cannot tell."""
    return _READERS[message.type](message.data) if message.known else Unknown(message.type)


def _typed(data: Mapping[str, Any]) -> Command:
    text = data["text"].strip()
    if not text:
        raise ProtocolError("invalid_message", "The text is empty; type a word.")
    return turn.Typed(text, data.get("speak", True))


_READERS: dict[str, Callable[[Mapping[str, Any]], Command]] = {
    "hello": lambda data: Hello(data.get("last_seq"), data.get("protocol", VERSION)),
    "session.update": UpdateOptions,
    "input.text": _typed,
    "input.commit": lambda _: turn.Commit(),
    "input.discard": lambda _: turn.Discard(),
    "input.present": lambda _: turn.Present(),
    "mic.state": lambda data: turn.Muted(data["muted"]),
    "camera.state": lambda data: SwitchCamera(data["muted"]) if "muted" in data else Remark(),
    "response.cancel": lambda _: turn.CancelAnswer(),
    "playback.report": lambda data: ReportPlayback(data["epoch"], data.get("buffered_ms", 0.0)),
    "echo.test": lambda _: TestSound(),
    "feedback": lambda _: Remark(),
    "ping": lambda data: Ping(data.get("nonce")),
    "bye": lambda _: Bye(),
}
