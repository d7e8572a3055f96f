"""Whisper as CTranslate2 stores it → tensors under the names of Hugging Face's WhisperModel.

Format (version 6, little endian): uint32 version, string name of the model, uint32 revision, uint32 number of
variables; each variable: string name, uint8 rank, uint32 × rank sizes, uint8 type, uint32 bytes, data; then uint32
number of aliases, pairs of strings. A string is a uint16 length with its closing zero, and its bytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.errors import CheckpointError

VERSION, SPEC = 6, "WhisperSpec"
TYPES = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}
AGAIN = "get the file again"
HALVES = {
    r"/position_encodings/encodings$": ".embed_positions.weight",
    r"decoder/embeddings/weight$": "decoder.embed_tokens.weight",
    r"/self_attention/layer_norm/": ".self_attn_layer_norm.",
    r"/self_attention/linear_0/": ".self_attn.qkv.",
    r"/self_attention/linear_1/": ".self_attn.out_proj.",
    r"/attention/layer_norm/": ".encoder_attn_layer_norm.",
    r"/attention/linear_0/": ".encoder_attn.q_proj.",
    r"/attention/linear_1/": ".encoder_attn.kv.",
    r"/attention/linear_2/": ".encoder_attn.out_proj.",
    r"/ffn/layer_norm/": ".final_layer_norm.",
    r"/ffn/linear_0/": ".fc1.",
    r"/ffn/linear_1/": ".fc2.",
    r"/layer_(\d+)": r".layers.\1",
    r"gamma$": "weight",
    r"beta$": "bias",
    r"/": ".",
}
"""Patterns of CTranslate2's names and what stands there in Hugging Face's, applied in order."""


@dataclass(frozen=True, slots=True)
class Variable:
    """Where a variable lies in its file."""

    dtype: str
    shape: tuple[int, ...]
    start: int


def read_variables(path: Path) -> dict[str, Variable]:
    """The variables of a CTranslate2 model file, of Whisper's kind. Raises CheckpointError."""
    with path.open("rb") as file:
        size = path.stat().st_size

        def number(kind: str) -> int:
            data = file.read(struct.calcsize(kind))
            if len(data) < struct.calcsize(kind):
                raise CheckpointError(path, f"is truncated ({size} bytes)", AGAIN)
            return int(struct.unpack(f"<{kind}", data)[0])

        def text() -> str:
            return file.read(number("H")).rstrip(b"\0").decode("utf-8", "replace")

        version, name = number("I"), text()
        if (version, name) != (VERSION, SPEC):
            problem = f"is {name[:40]!r} in version {version}, not {SPEC} in version {VERSION} of CTranslate2"
            raise CheckpointError(path, problem, "use the file that was examined")
        number("I")
        found: dict[str, Variable] = {}
        for _ in range(number("I")):
            key = text()
            shape = tuple(number("I") for _ in range(number("B")))
            kind, length = number("B"), number("I")
            dtype = TYPES.get(kind, "")
            if not dtype or length != np.dtype(dtype).itemsize * int(np.prod(shape)):
                problem = f"is of type {kind} with {length} bytes for {list(shape)}, which is not understood"
                raise CheckpointError(path, problem, AGAIN, key=key)
            found[key] = Variable(dtype, shape, file.tell())
            if file.seek(length, 1) > size:
                raise CheckpointError(path, f"is truncated ({size} bytes)", AGAIN, key=key)
        for _ in range(2 * number("I")):
            text()
        if file.tell() != size:
            raise CheckpointError(path, f"has {size - file.tell()} bytes too many", AGAIN)
    return found


def whisper_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """All weights as float tensors under the names of Hugging Face, ``encoder.…`` and ``decoder.…``.

    Fused projections are split; the bias of the keys, which Whisper has not and CTranslate2 stores as zeros, is left
    out. Raises CheckpointError.
    """
    for name, variable in read_variables(path).items():
        if not variable.shape:  # sizes and switches
            continue
        data = np.memmap(path, variable.dtype, "r", variable.start, variable.shape)
        key = name
        for pattern, replacement in HALVES.items():
            key = re.sub(pattern, replacement, key)
        tensor = torch.from_numpy(np.array(data))
        fused = re.search(r"\.(qkv|kv)\.(weight|bias)$", key)
        if fused is None:
            yield key, tensor
            continue
        for letter, piece in zip(fused[1], tensor.chunk(len(fused[1])), strict=True):
            if (letter, fused[2]) != ("k", "bias"):
                yield f"{key[: fused.start()]}.{letter}_proj.{fused[2]}", piece
