"""Time two ways of doing the same thing in turns, so that whatever slows the machine slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

Clock = Literal["wall", "cpu"]


@dataclass(frozen=True, slots=True)
class Timing:
    """One line of the result. ``ours`` and ``reference`` are medians in ``unit``; less is better in all of them."""

    section: str
    what: str
    sessions: int
    unit: str
    ours: float
    ours_p95: float
    reference: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times less than the reference pattern."""
        return None if self.reference is None else self.reference / self.ours

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}


class Stopwatch:
    """Seconds of the wall clock, or of this process's time on all CPUs (for a machine that has other work to do)."""

    def __init__(self, clock: Clock, device: torch.device) -> None:
        self._read = time.perf_counter if clock == "wall" else time.process_time
        self._wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def __call__(self, work: Callable[[], object]) -> float:
        """Of ``work``; a float that it returns are seconds that somebody waits for its result besides."""
        self._wait()
        start = self._read()
        besides = work()
        self._wait()
        return self._read() - start + (besides if isinstance(besides, float) else 0.0)


def in_turns(
    watch: Stopwatch, ours: Callable[[], object], reference: Callable[[], object] | None, repeats: int, warm: int = 1
) -> tuple[list[float], list[float]]:
    """Seconds of ``repeats`` runs of each, after ``warm`` runs that do not count."""
    first: list[float] = []
    second: list[float] = []
    for turn in range(warm + repeats):
        times = watch(ours), watch(reference) if reference else 0.0
        if turn >= warm:
            first.append(times[0])
            second.append(times[1])
    return first, second


def row(
    section: str, what: str, sessions: int, unit: str, scale: float, ours: list[float], reference: list[float],
    *, shared: bool = False,
) -> Timing:  # fmt: skip
    """Medians and the 95th percentile, seconds times ``scale``. ``shared``: our time served all sessions, so that each
    has its part of it; the reference pattern serves one."""
    part = scale / sessions if shared else scale
    p95 = sorted(ours)[min(len(ours) - 1, int(0.95 * len(ours)))]
    base = statistics.median(reference) * scale
    return Timing(section, what, sessions, unit, statistics.median(ours) * part, p95 * part, base or None)
