"""Tensors of torch files (``*.bin``, ``*.pt``), read without running anything in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import CheckpointError


def read_pickle(path: Path, remedy: str) -> dict[str, Tensor]:
    """A dictionary of plain tensors on the CPU. Those of a file in torch's present format are mapped, not read: what
    is never looked at takes no memory. Raises CheckpointError with ``remedy``."""
    try:
        try:
            held: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            held = torch.load(path, map_location="cpu", weights_only=True)  # torch's format before 1.6
    except pickle.UnpicklingError as error:
        problem = "holds more than plain tensors, or is damaged"
        raise CheckpointError(path, problem, remedy) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(path, "is truncated or no torch file", remedy) from error
    if not isinstance(held, dict) or not all(isinstance(tensor, Tensor) for tensor in held.values()):
        raise CheckpointError(path, "is not a dictionary of tensors", remedy)
    return held
