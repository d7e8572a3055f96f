"""Tensors of which a set keeps a part: every n-th row, the first ones, only those of some units.

Which rows were kept is written in the key (``_every4th``, ``_first100``), in the manifest of one set or nowhere; it is
found from the shape and the values, so that no wording is needed. Wrong values fit no choice of rows.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.parity.goldens import GoldenSet
from engine.parity.ledger import STATES, StageRow, Tolerance

PART = r"(?:_(?:every\d+(?:st|nd|rd|th)?|first\d*|last\d+|head\d*|tail\d*|rows?|sub|sampled)(?:_[a-z]+)?)?"
"""Endings of a key that holds a part of a tensor; no ending at all is one of them."""
MAX_CHOICES = 64


def kept_close(
    goldens: GoldenSet, row: StageRow, key: str, own: Tensor, tolerance: Tolerance = STATES, parts: str = PART
) -> None:
    """Compare whatever the set keeps of a tensor of real numbers: all, a part, several parts or nothing."""
    for name, _ in goldens.keys(re.escape(key) + parts):
        expected = goldens.take(name)
        row.close(name, sampled(own, expected), expected, tolerance)


def kept_same(goldens: GoldenSet, row: StageRow, key: str, own: Any, parts: str = PART) -> None:
    """The same for integers."""
    for name, _ in goldens.keys(re.escape(key) + parts):
        expected = goldens.take(name)
        values = own.copy() if isinstance(own, np.ndarray) else own
        row.same(name, sampled(torch.as_tensor(values), expected), expected)


def sampled(own: Tensor, expected: Tensor) -> Tensor:
    """The part of ``own`` that has the shape of ``expected`` and comes closest to it; ``own`` where there is none."""
    if own.dim() == expected.dim() + 1 and own.shape[0] == 1:
        own = own[0]
    elif own.dim() + 1 == expected.dim() and expected.shape[0] == 1:
        own = own[None]
    if own.dim() != expected.dim():
        return own
    for axis in range(own.dim()):
        own = _along(own, expected, axis)
    return own


def gap(own: Tensor, expected: Tensor) -> float:
    """How far the part of ``own`` that comes closest to ``expected`` is from it; infinite where none has its shape."""
    part = sampled(own, expected)
    return _gap(part, expected) if part.shape == expected.shape else float("inf")


def _along(own: Tensor, expected: Tensor, axis: int) -> Tensor:
    """``own`` with as many rows along ``axis`` as ``expected``; later axes, still whole, are judged by their front."""
    total, kept = own.shape[axis], expected.shape[axis]
    if total <= kept or not kept:
        return own
    steps = [step for step in range(1, total + 1) if -(-total // step) == kept]
    steps = sorted(steps, key=lambda step: (step & (step - 1) != 0, step))[:MAX_CHOICES]
    places = [torch.arange(0, total, step) for step in steps]
    places += [torch.arange(kept), torch.arange(total - kept, total)]
    if axis == 0 and own.dim() > 1 and own.shape[1:] == expected.shape[1:]:
        places += _closest_rows(own, expected)
    return min((own.index_select(axis, rows) for rows in places), key=lambda part: _gap(part, expected))


def _closest_rows(own: Tensor, expected: Tensor) -> list[Tensor]:
    """Rows of any choice in the order of ``own``: each expected row's closest. None where the order is another."""
    flat, wanted = own.flatten(1).double().cpu(), expected.flatten(1).double()
    rows = torch.cdist(wanted, flat).argmin(1)
    return [rows] if (rows.diff() > 0).all() else []


def _gap(part: Tensor, expected: Tensor) -> float:
    shared = tuple(slice(min(a, b)) for a, b in zip(part.shape, expected.shape, strict=True))
    gap = (part[shared].double().cpu() - expected[shared].double()).abs()
    return float(gap.max()) if gap.numel() else 0.0
