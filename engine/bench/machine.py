"""The time of a simulation, with a card that takes time and computes nothing; and the time of a measurement."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from engine.bench.costs import Costs, Demand
from engine.conversation.work import Work
from engine.serving.scheduler import Scheduler
from engine.serving.tracks import Finished, Track


@dataclass(slots=True, eq=False)
class _Running:
    demand: Demand
    left: float
    finished: Callable[[], None]


class _Events:
    """What will happen when."""

    def __init__(self) -> None:
        self._events: list[tuple[float, int, Callable[[], Any]]] = []
        self._order = count()

    def at(self, time: float, event: Callable[[], Any]) -> None:
        """Let something happen."""
        heapq.heappush(self._events, (time, next(self._order), event))


class WallClock(_Events):
    """Seconds since it was made."""

    def __init__(self) -> None:
        super().__init__()
        self._start = time.monotonic()

    @property
    def now(self) -> float:
        return time.monotonic() - self._start

    def run(self, scheduler: Scheduler, until: float) -> None:
        """Drive a scheduler that was not started."""
        while (now := self.now) < until:
            while self._events and self._events[0][0] <= now:
                heapq.heappop(self._events)[2]()
            if not scheduler.turn():
                event = min(self._events[0][0] if self._events else until, until)
                scheduler.wait(max(0.0, event - self.now))


class Machine(_Events):
    """A clock, what will happen when, and a card whose tracks share arithmetic, memory and the host.

    Batches go on at their own pace as long as together they ask for no more of any of the three than there is, and are
    all slowed down alike where they ask for more.
    """

    def __init__(self, costs: Costs) -> None:
        super().__init__()
        self.now = 0.0
        self._costs = costs
        self._running: list[_Running] = []

    def track(self) -> Track:
        return _CardTrack(self)

    def begin(self, works: Sequence[Work], finished: Callable[[], None]) -> None:
        demand = self._costs(works)
        self._running.append(_Running(demand, demand.alone, finished))

    def run(self, scheduler: Scheduler, until: float) -> None:
        """Let time pass."""
        while self.now < until:
            while scheduler.turn():
                pass
            pace = self._pace()
            first = min(self._running, key=lambda running: running.left, default=None)
            end = until if first is None else self.now + first.left / pace
            event = self._events[0][0] if self._events else until
            following = min(end, event, until)
            for running in self._running:
                running.left -= (following - self.now) * pace
            self.now = following
            if first is not None and end == following:
                self._running.remove(first)
                first.finished()
            elif event == following and self._events:
                heapq.heappop(self._events)[2]()

    def _pace(self) -> float:
        """Seconds of a batch's own time per second."""
        demands = [running.demand for running in self._running]
        host = sum(demand.host / demand.alone for demand in demands)
        arithmetic = sum(demand.arithmetic / demand.alone for demand in demands)
        return 1 / max(1.0, host, arithmetic, sum(demand.memory / demand.alone for demand in demands))


class _CardTrack:
    """One track of a :class:`Machine`. Results are what the pieces' own tasks make of them: none are computed."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def start(self, works: Sequence[Work], finished: Finished) -> None:
        self._machine.begin(works, partial(finished, [None] * len(works)))

    def stop(self) -> None: ...
