"""What was compared, how far apart it was, and whether that is within the tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tolerance:
    """|actual - expected| <= atol + rtol * |expected|."""

    name: str
    atol: float
    rtol: float = 0.0


EXACT = Tolerance("exact", 0.0)
STATES = Tolerance("1e-4 + 1e-4|x|", 1e-4, 1e-4)
"""Hidden states, embeddings, logits, probabilities."""
SPEECH_LOGITS = Tolerance("5e-4 + 1e-4|x|", 5e-4, 1e-4)
SIGNAL = Tolerance("1e-4", 1e-4)
"""Mel features of sound, and waves."""


@dataclass(slots=True)
class StageRow:
    """The outcome of one stage."""

    stage: str
    compared: int = 0
    share: float = 0.0
    """Largest deviation as a share of what is tolerated."""
    deviation: float = 0.0
    """That deviation itself."""
    where: str = "-"
    tolerance: Tolerance = EXACT
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """What was left out although it is no fault, such as what only describes a case in words unknown here."""

    @property
    def holds(self) -> bool:
        return not self.problems and self.compared > 0

    def close(self, key: str, actual: Tensor, expected: Tensor, tolerance: Tolerance = STATES) -> None:
        """Compare real numbers."""
        self.compared += 1
        if actual.shape != expected.shape:
            self.problems.append(f"{key} has the shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
            return
        if not expected.numel():
            return
        actual, expected = actual.double().cpu(), expected.double()
        gap = (actual - expected).abs()
        bound = tolerance.atol + tolerance.rtol * expected.abs()
        worst = float(gap.max())
        share = float((gap / bound).max()) if tolerance.atol else float("inf" if worst else 0)
        if not torch.isfinite(actual).all():
            worst = share = float("inf")
        if share > self.share or self.where == "-":
            self.share, self.deviation, self.where, self.tolerance = share, worst, key, tolerance
        if share > 1:
            self.problems.append(f"{key} deviates by {worst:.2e}, {share:.3g} times what is tolerated")

    def same(self, key: str, actual: Any, expected: Any) -> None:
        """Compare integers, texts and lists of them: they must be identical."""
        self.compared += 1
        ours, theirs = _plain(actual), _plain(expected)
        if ours != theirs:
            self.problems.append(f"{key} is {_first_difference(ours, theirs)}")


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _first_difference(ours: Any, theirs: Any) -> str:
    if isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            return f"{len(ours)} long, expected {len(theirs)}"
        at = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
        return f"different at {at}: {str(ours[at])[:80]}, expected {str(theirs[at])[:80]}"
    return f"{str(ours)[:80]!r}, expected {str(theirs)[:80]!r}"


def table(rows: Sequence[StageRow]) -> str:
    """One line per stage."""
    head = ("stage", "compared", "largest deviation", "of tolerance", "at", "")
    body = [
        (
            row.stage,
            str(row.compared),
            f"{row.deviation:.2e}",
            f"{row.share:.1%} of {row.tolerance.name}" if row.tolerance is not EXACT else EXACT.name,
            row.where,
            "holds" if row.holds else "FAILS",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (head, *body)]
    for row in rows:
        lines += [f"{row.stage}: {problem}" for problem in row.problems[:8]]
        if len(row.problems) > 8:
            lines.append(f"{row.stage}: … and {len(row.problems) - 8} more")
        lines += [f"{row.stage}: (remark) {remark}" for remark in row.remarks]
    return "\n".join(line.rstrip() for line in lines)
