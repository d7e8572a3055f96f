"""What travels between the call's process and the engine's worker: length-prefixed msgpack over a socket.

A frame is four bytes of length (big endian) and one msgpack map. Requests carry ``id`` and ``op``; replies carry the
same ``id`` and either ``ok``, ``chunk`` or ``error``. Arrays travel as little-endian bytes.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import asdict, fields
from typing import Any, TypeVar

import msgpack
import numpy as np
from numpy.typing import NDArray

from engine.client import (
    MAX_CHAT_BYTES,
    ChatMessage,
    ChatPart,
    ChatPiece,
    ChatRequest,
    Chunk,
    EngineError,
    EngineInfo,
    Unit,
)
from engine.spoken import Starts

MAX_FRAME = MAX_CHAT_BYTES + (4 << 20)
"""Largest frame in bytes: the largest chat, or a unit with the largest picture twice."""

Message = dict[str, Any]
T = TypeVar("T")
_LENGTH = struct.Struct(">I")


class WireError(Exception):
    """The other side sent something that is no frame of this protocol; the connection is of no more use."""


class Link:
    """One end of the connection. Sending never blocks: requests and credits bound what can be under way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, message: Message) -> None:
        """Raises WireError if the message is too large; a lost connection is noticed by :meth:`receive`."""
        data = pack(message)
        if not self._writer.is_closing():
            self._writer.write(data)

    async def receive(self) -> Message | None:
        """The next message, or None when the other side is gone. Raises WireError."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > MAX_FRAME:
                raise WireError(f"a frame of {length} bytes was announced, allowed are {MAX_FRAME}")
            return unpack(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        self._writer.close()


def pack(message: Message) -> bytes:
    """One frame. Raises WireError if it is larger than :data:`MAX_FRAME`."""
    body: bytes = msgpack.packb(message)
    if len(body) > MAX_FRAME:
        raise WireError(f"a message of {len(body)} bytes does not fit into a frame of {MAX_FRAME}")
    return _LENGTH.pack(len(body)) + body


def unpack(body: bytes) -> Message:
    """The message in a frame's body. Raises WireError if it is not one map with text keys."""
    try:
        message = msgpack.unpackb(body)
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError(f"a frame does not hold msgpack: {error}") from None
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise WireError("a frame does not hold a map with text keys")
    return message


def plain(value: Any) -> Message:
    """A dataclass as a map; int16 arrays become bytes."""
    return {name: _bytes(item) if isinstance(item, np.ndarray) else item for name, item in asdict(value).items()}


def revive(kind: type[T], message: Any) -> T:
    """The dataclass ``kind`` from what :func:`plain` made. Raises WireError if the fields do not fit."""
    if not isinstance(message, dict):
        raise WireError(f"{kind.__name__} is not a map")
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    if not set(message) <= known:
        raise WireError(f"{kind.__name__} has unknown fields {sorted(set(message) - known)}")
    values = dict(message)
    try:
        for name in {Unit: ("audio",), Chunk: ("pcm",), ChatPiece: ("pcm",)}.get(kind, ()):
            values[name] = np.frombuffer(values[name], "<i2").astype(np.int16)
        if kind is Chunk:
            values["starts"] = revive_starts(values["starts"])
        if kind is ChatPiece:
            values["grids"] = tuple((int(columns), int(rows)) for columns, rows in values["grids"])
        if kind is ChatRequest:
            values["messages"] = tuple(_message(item) for item in values["messages"])
            values["stop"] = tuple(values["stop"])
        if kind is EngineInfo:
            values |= {name: tuple(values[name]) for name in ("voices", "examples")}
        return kind(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"{kind.__name__} is damaged: {error}") from None


def _message(message: Any) -> ChatMessage:
    """Raises KeyError, TypeError or WireError."""
    return ChatMessage(message["role"], tuple(revive(ChatPart, part) for part in message["parts"]))


def revive_starts(pairs: Any) -> Starts:
    """Starts from what msgpack made of them. Raises TypeError or ValueError."""
    return tuple((int(character), int(sample)) for character, sample in pairs)


def error_to_wire(error: EngineError) -> Message:
    return {"code": error.code, "message": error.message, "retryable": error.retryable}


def error_from_wire(message: Message) -> EngineError:
    return EngineError(str(message["code"]), str(message["message"]), retryable=bool(message["retryable"]))


def _bytes(array: NDArray[np.int16]) -> bytes:
    return array.astype("<i2", copy=False).tobytes()
