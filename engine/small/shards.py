"""Writes a safetensors file tensor by tensor, so that no more than a piece of one is in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoint.adapter import Adapter

KINDS = {torch.bfloat16: "BF16", torch.float16: "F16"}


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor that will be written."""

    key: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[Tensor]]
    """Gives it, cut along its first dimension or whole."""
    dtype: torch.dtype = torch.bfloat16
    """bfloat16 or float16, as which it is written."""

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return 2 * prod(self.shape)


def planned(key: str, tensor: Tensor) -> Planned:
    """One that is in memory already; float16 stays what it is."""
    dtype = torch.float16 if tensor.dtype == torch.float16 else torch.bfloat16
    return Planned(key, tuple(tensor.shape), lambda: [tensor], dtype)


def with_adapter(tensors: Sequence[Planned], adapter: Adapter) -> list[Planned]:
    """The same tensors, with an adapter in those that it is for. Raises CheckpointError, now or when they are written,
    for one that does not fit."""
    adapter.check_keys({tensor.key for tensor in tensors})

    def changed(tensor: Planned) -> Iterator[Tensor]:
        yield adapter(tensor.key, torch.cat(list(tensor.pieces())))

    changes = {*adapter.pairs, *adapter.whole}
    return [replace(t, pieces=partial(changed, t)) if t.key in changes else t for t in tensors]


def write_shard(path: Path, tensors: Sequence[Planned], told: Callable[[int], object]) -> None:
    """Write ``path``; it appears when it is complete. ``told`` hears of every number of bytes that was written.

    Raises OSError where the disk refuses, ValueError when pieces do not add up to a tensor's shape.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        kind, place = KINDS[tensor.dtype], [at, at + tensor.size]
        header[tensor.key] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": place}
        at += tensor.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    unfinished = path.with_name(f"{path.name}.partial")
    with unfinished.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            written = 0
            for piece in tensor.pieces():
                data = piece.to(tensor.dtype).contiguous().view(torch.int16).numpy()
                file.write(data)  # type: ignore[arg-type]
                written += data.nbytes
                told(data.nbytes)
            if written != tensor.size:
                raise ValueError(f"{tensor.key}: {written} bytes were written for the shape {list(tensor.shape)}")
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
