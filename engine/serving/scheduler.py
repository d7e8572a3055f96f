"""One thread that owns the model and shares it among the sessions.

Every request of a session is a task (:mod:`engine.conversation.work`): a generator that asks for pieces of work. The
scheduler takes the most urgent piece, adds pieces of the same kind from other sessions, has them carried out in one
batch, and goes on. A session has one running task at most, so that its requests stay in order and no two pieces of a
batch touch the same session. Between two pieces a task can be paused (its consumer is behind) or cancelled. A task may
also yield a future of another thread; it goes on, with the future, when that is done.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

import torch

from engine.conversation.work import STEP_WORK, Feed, Hear, Listen, See, Task, Transcribe, Work, batch_key

PATIENCE_S = 1.0
"""A piece that has waited so long is as urgent as speech that runs dry."""

UNIT_WORK = (See, Hear, Listen, Transcribe, Feed)
"""What a unit's prefill is made of: heavy pieces, of which few share a batch, so that no answer waits for long."""

UNITS_PER_BATCH = 4
ANSWERS_PER_BATCH = 64

log = logging.getLogger(__name__)


class Urgency(IntEnum):
    """Why a job wants its turn, the most urgent first."""

    FIRST_AUDIO = 0
    """Somebody waits for an answer to begin."""
    RUNNING_DRY = 1
    """The consumer of an answer has nothing left to play."""
    ANSWER = 2
    UNIT = 3
    """A unit that was said while the turn goes on."""


class WorkRunner(Protocol):
    """What carries out pieces of work: :class:`engine.conversation.executor.Executor`."""

    def run(self, works: Sequence[Work]) -> list[Any]: ...


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
    urgency: Callable[[], Urgency]
    paused: Callable[[], bool] = lambda: False
    """True while the job must not go on because its consumer is behind."""
    cancelled: bool = False
    task: Task[Any] | None = None
    work: Work | None = None
    """The piece that it asks for."""
    waits_for: Future[Any] | None = None
    since: float = field(default_factory=time.monotonic)
    """When it began to wait for its present piece."""

    def rank(self, now: float) -> tuple[int, float]:
        """Sorts jobs by urgency, then by how long they have waited."""
        urgency = self.urgency()
        return min(urgency, Urgency.RUNNING_DRY) if now - self.since > PATIENCE_S else urgency, self.since


class Lane:
    """The requests of one session, in order."""

    def __init__(self, wake: Callable[[Any], None]) -> None:
        self.jobs: deque[Job] = deque()
        self._wake = wake

    @property
    def movable(self) -> bool:
        if not self.jobs:
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
        try:
            if job.task is None:
                job.task, result = job.begin(), None
            item = job.task.send(result)
            job.since = time.monotonic()
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


class Scheduler:
    """Runs the lanes' jobs on its own thread until stopped.

    How many sessions share a batch is bounded by ``batch_units`` for what a unit's prefill is made of, by
    ``batch_steps`` for steps of text or speech, and by ``batch_answers`` for all else.
    """

    def __init__(
        self,
        executor: WorkRunner,
        *,
        batch_units: int = UNITS_PER_BATCH,
        batch_steps: int = ANSWERS_PER_BATCH,
        batch_answers: int = ANSWERS_PER_BATCH,
    ) -> None:
        self._executor = executor
        self._most = dict.fromkeys(UNIT_WORK, batch_units) | dict.fromkeys(STEP_WORK, batch_steps)
        self._most_else = batch_answers
        self._lanes: list[Lane] = []
        self._changed = threading.Condition()
        self._stopped = False
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def open(self) -> Lane:
        lane = Lane(lambda _: self.wake())
        with self._changed:
            self._lanes.append(lane)
        return lane

    def submit(self, lane: Lane, job: Job) -> None:
        """Add a request behind the lane's others."""
        with self._changed:
            lane.jobs.append(job)
            self._changed.notify()

    def wake(self) -> None:
        """Something that a paused job waits for has happened."""
        with self._changed:
            self._changed.notify()

    def cancel(self, *jobs: Job) -> None:
        with self._changed:
            for job in jobs:
                job.cancelled = True
            self._changed.notify()

    def close(self, lane: Lane) -> None:
        """Forget a lane once its last job is done."""
        with self._changed:
            self._lanes.remove(lane)

    @property
    def busy_s(self) -> float:
        """Seconds that the present piece has taken so far; infinite when the thread died."""
        if not self._stopped and not self._thread.is_alive():
            return math.inf
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def stop(self, timeout: float) -> bool:
        """End the thread after its present piece; False if it is still in it after ``timeout`` seconds."""
        self._stopped = True
        self.wake()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @torch.inference_mode()
    def _run(self) -> None:
        while not self._stopped:
            with self._changed:
                lanes = list(self._lanes)
            ready = [(lane, job) for lane in lanes if (job := lane.prepare()) is not None]
            if ready:
                self._step(ready)
                continue
            with self._changed:
                if not self._stopped and not any(lane.movable for lane in self._lanes):
                    self._changed.wait()

    def _step(self, ready: list[tuple[Lane, Job]]) -> None:
        """Carry out the most urgent piece, together with others of its kind."""
        now = time.monotonic()
        ready.sort(key=lambda pair: pair[1].rank(now))
        works = [(pair, pair[1].work) for pair in ready if pair[1].work is not None]
        most, wanted = self._most.get(type(works[0][1]), self._most_else), batch_key(works[0][1])
        # Nothing but what is carried out in one go: a batch that fails must leave no part of itself done.
        batch = [pair for pair, work in works if batch_key(work) == wanted][:most]
        fault: Exception | None = None
        self._busy_since = now
        try:
            results = self._executor.run([job.work for _, job in batch if job.work is not None])
        except Exception as error:
            if len(batch) == 1:
                log.error("a piece of work failed", exc_info=error)
            fault = error.with_traceback(None)  # whose frames would hold on to the memory that ran out
        finally:
            self._busy_since = None
        if fault is not None:
            if len(batch) == 1:
                batch[0][0].end(batch[0][1], fault)
                return
            for pair in batch:  # one of them is at fault: find out which, the others shall not pay for it
                self._step([pair])
            return
        for (lane, job), result in zip(batch, results, strict=True):
            lane.advance(job, result)
