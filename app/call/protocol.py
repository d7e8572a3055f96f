"""The event protocol on the data channel ``events``: version 1.

Every message is one JSON object ``{"v":1,"type":…,"seq":…,"t":…,"turn":…,"epoch":…,"data":{…}}``; what each type
carries stands in ``protocol.schema.json``. ``seq`` counts from 0 without gaps in each direction, ``t`` is the call's
media time in seconds. A receiver ignores types and members that it does not know, and what an older epoch says.

The first message of a call is ``welcome``. When a new connection takes over a call, the server waits for ``hello``
(at most five seconds of media time): with ``last_seq`` it repeats what was missed and then welcomes again with
``resumed``; without, it welcomes at once and goes on from there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from app.text import JsonError, read_json
from engine.client import INPUT_RATE

VERSION = 1
MAX_MESSAGE_BYTES = 16 * 1024
MAX_TEXT_CHARS = 8_000
"""Longest typed text."""

MAX_DELTA_CHARS = 600
"""Longest piece of an answer in one event, and most starts: below :data:`MAX_MESSAGE_BYTES` in any script, even where
every sign begins at a time of its own."""

SCHEMA: dict[str, Any] = json.loads(Path(__file__).with_name("protocol.schema.json").read_text(encoding="utf-8"))

Side = Literal["client", "server"]


class ProtocolError(ValueError):
    """A message that cannot be understood. ``code`` is a stable word, ``message`` a sentence with the remedy,
    ``ref_seq`` the message's own number where it has one."""

    def __init__(self, code: str, message: str, ref_seq: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.ref_seq = ref_seq


@dataclass(frozen=True, slots=True)
class ClientMessage:
    """A client's message that is well formed. ``known`` is False for a type that this version does not have."""

    type: str
    data: Mapping[str, Any]
    seq: int | None
    known: bool


def parse_message(raw: str) -> ClientMessage:
    """Read one message of the client. Raises :class:`ProtocolError` ``message_too_large``, ``bad_json``,
    ``unsupported_version`` or ``invalid_message``."""
    if len(raw) > MAX_MESSAGE_BYTES or len(raw.encode(errors="replace")) > MAX_MESSAGE_BYTES:
        raise ProtocolError("message_too_large", f"A message may have {MAX_MESSAGE_BYTES} bytes; send it in parts.")
    try:
        message = read_json(raw)
    except JsonError as error:
        raise ProtocolError("bad_json", f"The message is not JSON: {error}. Send one JSON object each time.") from None
    if not isinstance(message, dict):
        raise ProtocolError("bad_json", "The message is not a JSON object; send one JSON object per message.")
    seq = message.get("seq")
    seq = seq if isinstance(seq, int) and not isinstance(seq, bool) and seq >= 0 else None
    if message.get("v") != VERSION:
        raise ProtocolError("unsupported_version", f'This server speaks version {VERSION}; send it as "v".', seq)
    _check(_validator("client_message"), message, "message", seq)
    kind, data = message["type"], message.get("data", {})
    known = kind in SCHEMA["$defs"]["client"]["properties"]
    if known:
        _check(_validator("client", kind), data, f"{kind} message", seq)
    return ClientMessage(kind, data, seq, known)


def make_event(
    kind: str, data: Mapping[str, Any], *, seq: int, t_samples: int, turn: int, epoch: int
) -> dict[str, Any]:
    """An envelope of the server. ``t_samples`` is media time in samples at 16 kHz."""
    t = round(t_samples / INPUT_RATE, 3)
    return {"v": VERSION, "type": kind, "seq": seq, "t": t, "turn": turn, "epoch": epoch, "data": dict(data)}


def encode(envelope: object) -> str:
    """The envelope as it is sent and recorded: compact JSON without line breaks."""
    return json.dumps(envelope, ensure_ascii=False, separators=(",", ":"))


def check_event(envelope: object) -> None:
    """Raise :class:`ProtocolError` ``invalid_message`` unless this is an event that a server of this version sends."""
    _check(_validator("server_message"), envelope, "event", None)
    assert isinstance(envelope, dict)
    _check(_validator("server", envelope["type"]), envelope["data"], f"{envelope['type']} event", None)


@cache
def _validator(*path: str) -> Draft202012Validator:
    """The validator of ``$defs/<name>``, or of one type's data in ``$defs/<side>/properties/<type>``."""
    pointer = "/properties/".join(path)
    return Draft202012Validator({"$ref": f"#/$defs/{pointer}", "$defs": SCHEMA["$defs"]})


def _check(validator: Draft202012Validator, value: object, what: str, seq: int | None) -> None:
    error: ValidationError | None = best_match(validator.iter_errors(value))
    if error is not None:
        where = ".".join(str(part) for part in error.absolute_path)
        fault = error.message if len(error.message) <= 200 else f"it does not satisfy {error.validator!r}"
        at = f" at {where}" if where else ""
        raise ProtocolError("invalid_message", f"The {what} is not valid{at}: {fault}.", seq)
