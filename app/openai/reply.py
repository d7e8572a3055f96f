"""A chat's pieces → the objects of OpenAI's protocol: one completion, or chunks of one."""

from __future__ import annotations

import base64
import struct
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.client import OUTPUT_RATE, ChatPiece

EXPIRES_S = 3_600


def usage(prompt_tokens: int, tokens: int) -> dict[str, int]:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}


def wav(pcm: bytes) -> bytes:
    """int16 mono at 24 kHz with the header of a WAV file."""
    size, rate = len(pcm), OUTPUT_RATE
    riff = struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE")
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return riff + form + struct.pack("<4sI", b"data", size) + pcm


def pictures(grids: Sequence[tuple[int, int]]) -> list[dict[str, int]]:
    """How the engine cut each picture: columns and rows of cells. An addition to the protocol."""
    return [{"columns": columns, "rows": rows} for columns, rows in grids]


@dataclass(slots=True)
class Reply:
    """One answer of ``model``. ``sound`` is the format of a spoken one."""

    model: str
    sound: str | None = None
    include_usage: bool = False
    number: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))
    prompt_tokens: int = 0

    def completion(self, pieces: Sequence[ChatPiece]) -> dict[str, Any]:
        """The whole answer."""
        first, last, text = pieces[0], pieces[-1], "".join(piece.text for piece in pieces)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if self.sound is not None:
            pcm = np.concatenate([piece.pcm for piece in pieces]).astype("<i2").tobytes()
            data = wav(pcm) if self.sound == "wav" else pcm
            spoken = {"id": f"audio_{self.number}", "expires_at": self.created + EXPIRES_S, "transcript": text}
            message |= {"content": None, "audio": spoken | {"data": base64.b64encode(data).decode()}}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": last.finish}
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": usage(first.prompt_tokens, last.tokens),
            "pictures": pictures(first.grids),
        }

    def chunks(self, piece: ChatPiece) -> list[dict[str, Any]]:
        """What one piece becomes, in order."""
        made = []
        if piece.prompt_tokens:
            self.prompt_tokens = piece.prompt_tokens
            opening = self._chunk({"role": "assistant", "content": "" if self.sound is None else None})
            made.append(opening | {"pictures": pictures(piece.grids)})
        if self.sound is None:
            made += [self._chunk({"content": piece.text})] if piece.text else []
        else:
            name = f"audio_{self.number}"
            if piece.text:
                made.append(self._chunk({"audio": {"id": name, "transcript": piece.text}}))
            if len(piece.pcm):
                data = base64.b64encode(piece.pcm.astype("<i2").tobytes()).decode()
                made.append(self._chunk({"audio": {"id": name, "data": data}}))
            if piece.finish is not None:
                made.append(self._chunk({"audio": {"id": name, "expires_at": self.created + EXPIRES_S}}))
        if piece.finish is not None:
            made.append(self._chunk({}, piece.finish))
            if self.include_usage:
                used = usage(self.prompt_tokens, piece.tokens)
                made.append(self._head("chat.completion.chunk") | {"choices": [], "usage": used})
        return made

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": f"chatcmpl-{self.number}", "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        body = self._head("chat.completion.chunk") | {"choices": [choice]}
        return body | {"usage": None} if self.include_usage else body
