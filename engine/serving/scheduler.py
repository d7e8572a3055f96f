"""Shares the model among the sessions.

Every request of a session is a task (:mod:`engine.conversation.work`): a generator that asks for pieces of work. The
scheduler lets a policy choose among the pieces that wait (:mod:`engine.serving.policy`), has them carried out in
batches (:mod:`engine.serving.tracks`), and lets the tasks go on. A session has one running task at most, so that its
requests stay in order and no two pieces of a batch touch the same session. Between two pieces a task can be paused (its
consumer is behind) or cancelled. A task may also yield a future of another thread; it goes on, with the future, when
that is done.

Tasks run on the scheduler's thread alone, whatever tracks there are. Without a thread, :meth:`Scheduler.turn` is all
there is of it, and a ``clock`` makes the time: so a simulation runs the same class.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from engine.conversation.work import ModelPart, Task, Work
from engine.serving.policy import Policy, Waiting
from engine.serving.tracks import Failure, Track

Measure = Callable[[Sequence[Work], float], None]
"""Is told what every batch held and how many seconds it took."""


def unmeasured(works: Sequence[Work], seconds: float) -> None:
    """Nobody wants to know."""


class Cancelled(Exception):
    """The job was cancelled before its task came to its end."""


@dataclass(slots=True, eq=False)
class Job:
    """One request of a session on its way through the scheduler. All callbacks run on the scheduler's thread."""

    begin: Callable[[], Task[Any]]
    """Makes the task, once the requests before it are done."""
    output: Callable[[Any], None]
    """Takes what the task yields that is no work."""
    done: Callable[[Exception | None], None]
    """The task came to its end (None), failed, or was cancelled (:class:`Cancelled`)."""
    due: Callable[[float], float]
    """When a piece that has waited since the given time should be under way, on the scheduler's clock."""
    paused: Callable[[], bool] = lambda: False
    """True while the job must not go on because its consumer is behind."""
    cancelled: bool = False
    task: Task[Any] | None = None
    work: Work | None = None
    """The piece that it asks for."""
    running: bool = False
    """That piece is being carried out."""
    waits_for: Future[Any] | None = None
    since: float = 0.0
    """When it began to wait for its present piece."""


class Lane:
    """The requests of one session, in order."""

    def __init__(self, wake: Callable[[Any], None], clock: Callable[[], float]) -> None:
        self.jobs: deque[Job] = deque()
        self._wake, self._clock = wake, clock

    @property
    def movable(self) -> bool:
        if not self.jobs or self.jobs[0].running:
            return False
        job = self.jobs[0]
        return job.cancelled or not (job.paused() or (job.waits_for is not None and not job.waits_for.done()))

    def prepare(self) -> Job | None:
        """Go on to the next piece of work: the job that asks for it, or None while there is none."""
        while self.movable:
            job = self.jobs[0]
            if job.cancelled:
                self.end(job, Cancelled())
            elif job.work is not None:
                return job
            else:
                self.advance(job, job.waits_for)
        return None

    def advance(self, job: Job, result: Any) -> None:
        """Let the task take ``result`` and go on to its next piece, its next output, or its end."""
        job.work = job.waits_for = None
        job.running = False
        try:
            if isinstance(result, Failure):
                raise result.error
            if job.task is None:
                job.task, result = job.begin(), None
            item = job.task.send(result)
            job.since = self._clock()
            if isinstance(item, Work):
                job.work = item
            elif isinstance(item, Future):
                job.waits_for = item
                item.add_done_callback(self._wake)
            else:
                job.output(item)
        except StopIteration:
            self.end(job, None)
        except Exception as error:
            self.end(job, error)

    def end(self, job: Job, error: Exception | None) -> None:
        if job.task is not None:
            job.task.close()
        self.jobs.popleft()
        job.done(error)


Batch = list[tuple[Lane, Job]]


class Scheduler:
    """Runs the lanes' jobs, on a thread of its own once started, until stopped."""

    def __init__(
        self,
        tracks: Mapping[ModelPart, Track],
        policy: Policy,
        *,
        clock: Callable[[], float] = time.monotonic,
        measure: Measure = unmeasured,
        stopwatch: Callable[[], float] | None = None,
    ) -> None:
        """Work of each part of the model is carried out on its track; parts may share one. ``clock`` gives seconds,
        and so does ``stopwatch``, by which ``measure`` is told, where that is another one."""
        self._stopwatch, self._begun = stopwatch or clock, dict[Track, float]()
        self._tracks, self._policy, self.clock, self._measure = tracks, policy, clock, measure
        self._busy: dict[Track, float] = {}  # since when a track carries out its batch
        self._lanes: list[Lane] = []
        self._finished: deque[tuple[Batch, list[Any]]] = deque()
        self._changed = threading.Condition()
        self._poked = self._stopped = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        """Begin to work, on a thread of its own."""
        self._thread.start()

    def open(self) -> Lane:
        lane = Lane(lambda _: self.wake(), self.clock)
        with self._changed:
            self._lanes.append(lane)
        return lane

    def submit(self, lane: Lane, job: Job) -> None:
        """Add a request behind the lane's others."""
        with self._changed:
            job.since = self.clock()
            lane.jobs.append(job)
        self.wake()

    def wake(self) -> None:
        """Something that a job waits for has happened."""
        with self._changed:
            self._poked = True
            self._changed.notify()

    def cancel(self, *jobs: Job) -> None:
        for job in jobs:
            job.cancelled = True
        self.wake()

    def close(self, lane: Lane) -> None:
        """Forget a lane once its last job is done."""
        with self._changed:
            self._lanes.remove(lane)

    @property
    def busy_s(self) -> float:
        """Seconds that the longest of the present batches has taken so far; infinite when the thread died."""
        if not self._stopped and not self._thread.is_alive():
            return math.inf
        now = self.clock()
        return max((now - since for since in list(self._busy.values())), default=0.0)

    def stop(self, timeout: float) -> bool:
        """End the thread after its present batch; False if it is still in it after ``timeout`` seconds."""
        self._stopped = True
        self.wake()
        self._thread.join(timeout)
        for track in set(self._tracks.values()):
            track.stop()
        return not self._thread.is_alive()

    @torch.inference_mode()
    def _run(self) -> None:
        while not self._stopped:
            if not self.turn():
                self.wait()

    def wait(self, timeout: float | None = None) -> None:
        """After a :meth:`turn` without anything to do: wait until there may be, ``timeout`` seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: self._poked or self._stopped, timeout)

    def turn(self) -> bool:
        """Take in what was carried out, let tasks go on, and start a batch on every track that is free. False if there
        was nothing to do: not before something happens will there be."""
        with self._changed:
            self._poked = False
            lanes, finished = list(self._lanes), list(self._finished)
            self._finished.clear()
        for batch, results in finished:
            for (lane, job), result in zip(batch, results, strict=True):
                lane.advance(job, result)
        places: dict[Track, list[tuple[Lane, Job, Work]]] = {}
        for lane in lanes:
            if (asks := lane.prepare()) is not None and asks.work is not None:
                places.setdefault(self._tracks[asks.work.part], []).append((lane, asks, asks.work))
        free = [track for track in places if track not in self._busy]
        begun = [self._begin(track, places[track]) for track in free]
        return any(begun) or bool(finished)

    def _begin(self, track: Track, ready: Sequence[tuple[Lane, Job, Work]]) -> bool:
        """Start what the policy chooses; False if that is nothing."""
        waiting = [Waiting(work, job.due(job.since), job.since) for _, job, work in ready]
        chosen = [ready[index] for index in self._policy.choose(waiting)]
        if not chosen:
            return False
        for _, job, _ in chosen:
            job.running = True
        self._busy[track], self._begun[track] = self.clock(), self._stopwatch()
        batch, works = [(lane, job) for lane, job, _ in chosen], [work for _, _, work in chosen]
        track.start(works, partial(self._end, track, batch, works))
        return True

    def _end(self, track: Track, batch: Batch, works: Sequence[Work], results: list[Any]) -> None:
        del self._busy[track]
        self._measure(works, self._stopwatch() - self._begun[track])
        with self._changed:
            self._finished.append((batch, results))
        self.wake()
