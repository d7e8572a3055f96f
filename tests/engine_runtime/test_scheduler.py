"""The scheduler alone: which pieces of work share a batch, in which order, and what a fault or a cancel does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest
import torch

from engine.conversation.sampling import Noise, SpeechSampling
from engine.conversation.work import Hear, ModelPart, Render, Speak, Voice, Work
from engine.serving.policy import ByDeadline, Limits
from engine.serving.scheduler import Cancelled, Job, Lane, Scheduler
from engine.serving.tracks import InlineTrack, StreamTrack, Track

NOTHING = torch.empty(0)


def piece(kind: str, name: int) -> Work:
    """A piece of work that stands for itself: only its kind and its name matter here."""
    if kind.startswith("steps"):
        return Speak(Voice(name, NOTHING, NOTHING), int(kind.split()[1]), 0, 0, SpeechSampling(), Noise(0))
    return Render(torch.tensor([name])) if kind == "answer" else Hear(name, NOTHING)  # type: ignore[arg-type]


def name_of(work: Work) -> int:
    if isinstance(work, Speak):
        return work.voice.slot
    return int(work.codes[0]) if isinstance(work, Render) else work.state  # type: ignore[return-value, union-attr]


class Recorder:
    """Carries out nothing, notes every batch, and waits for ``go`` before the first one, so that all jobs are there."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered, self.go = threading.Event(), threading.Event()
        self.bad: set[int] = set()

    def run(self, works: Sequence[Work]) -> list[Any]:
        self.entered.set()
        assert self.go.wait(10)
        names = [name_of(work) for work in works]
        assert len({type(work) for work in works}) == 1
        if self.bad.intersection(names):
            raise ValueError(f"one of {names} is bad")
        self.batches.append(names)
        return names


class Board:
    """Submits jobs to a scheduler and remembers what became of them."""

    def __init__(self, limits: Limits) -> None:
        self.recorder = Recorder()
        self.scheduler = Scheduler(dict.fromkeys(ModelPart, InlineTrack(self.recorder)), ByDeadline(limits))
        self.scheduler.start()
        self.outputs: list[Any] = []
        self.ends: dict[int, Exception | None] = {}
        self._open = threading.Semaphore(0)
        self._jobs = 0
        # The thread is held inside one piece until every job of a test is there.
        self.submit(self.scheduler.open(), -1, "unit")
        assert self.recorder.entered.wait(10)

    def submit(
        self,
        lane: Lane,
        name: int,
        *kinds: str,
        due: float = 0.0,
        paused: Callable[[], bool] = lambda: False,
        task: Callable[[], Generator[Any, Any, None]] | None = None,
    ) -> Job:
        def steps() -> Generator[Any, Any, None]:
            for kind in kinds:
                result = yield piece(kind, name)
                yield f"{name}:{result}"

        def done(error: Exception | None) -> None:
            self.ends[name] = error
            self._open.release()

        job = Job(task or steps, self.outputs.append, done, lambda _: due, paused)
        self._jobs += 1
        self.scheduler.submit(lane, job)
        return job

    def finish(self) -> list[list[int]]:
        """Let everything run to its end; the batches after the one that held the thread."""
        self.recorder.go.set()
        for _ in range(self._jobs):
            assert self._open.acquire(timeout=10)
        return self.recorder.batches[1:]


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board(Limits(units=2, answers=3))
    yield board
    board.recorder.go.set()
    assert board.scheduler.stop(5)


def test_pieces_of_one_kind_share_batches_up_to_the_limit(board: Board) -> None:
    for name in range(4):
        board.submit(board.scheduler.open(), name, "answer")
    for name in range(4, 7):
        board.submit(board.scheduler.open(), name, "unit")
    assert board.finish() == [[0, 1, 2], [3], [4, 5], [6]]


def test_steps_share_batches_up_to_a_limit_of_their_own() -> None:
    """Blocks of different lengths, too."""
    board = Board(Limits(steps=2, answers=1))
    for name, steps in enumerate((25, 12, 25, 25, 12)):
        board.submit(board.scheduler.open(), name, f"steps {steps}")
    assert board.finish() == [[0, 1], [2, 3], [4]]
    assert board.scheduler.stop(5)


def test_what_is_due_first_goes_first(board: Board) -> None:
    for name, due in enumerate((4.0, 3.0, 2.0, 1.0)):
        board.submit(board.scheduler.open(), name, "unit", due=due)
    assert board.finish() == [[3, 2], [1, 0]]


def test_a_lane_keeps_its_order(board: Board) -> None:
    lane = board.scheduler.open()
    board.submit(lane, 0, "unit", "unit")
    board.submit(lane, 1, "answer", due=-1.0)
    board.submit(lane, 2, "unit")
    assert board.finish() == [[0], [0], [1], [2]]
    assert board.outputs[1:] == ["0:0", "0:0", "1:1", "2:2"]


def test_a_faulty_piece_harms_nobody_else(board: Board) -> None:
    board.recorder.bad = {1}
    for name in range(3):
        board.submit(board.scheduler.open(), name, "answer", "answer")
    board.finish()
    assert isinstance(board.ends[1], ValueError)
    assert board.ends[0] is board.ends[2] is None


def test_a_cancelled_job_ends_at_the_next_piece_and_closes_its_task(board: Board) -> None:
    begun, closed = threading.Event(), threading.Event()

    def task() -> Generator[Any, Any, None]:
        try:
            while True:
                yield piece("unit", 5)
                begun.set()
        finally:
            closed.set()

    lane = board.scheduler.open()
    job = board.submit(lane, 5, task=task)
    waiting = board.submit(lane, 6, "unit")
    board.submit(lane, 7, "unit")
    board.recorder.go.set()
    assert begun.wait(10)
    board.scheduler.cancel(job, waiting)
    board.finish()
    assert closed.is_set()
    assert isinstance(board.ends[5], Cancelled)
    assert isinstance(board.ends[6], Cancelled)
    assert board.ends[7] is None


def test_a_paused_job_waits_for_its_consumer_and_holds_up_nobody(board: Board) -> None:
    held = threading.Event()
    held.set()
    board.submit(board.scheduler.open(), 0, "answer", paused=held.is_set)
    other = board.scheduler.open()
    board.submit(other, 1, "answer")

    def release() -> Generator[Any, Any, None]:
        held.clear()
        yield piece("unit", 2)

    board.submit(other, 2, task=release)
    assert board.finish() == [[1], [2], [0]] or board.recorder.batches[1:] == [[1], [0], [2]]


def test_a_task_may_wait_for_another_thread(board: Board) -> None:
    future: Future[int] = Future()

    def task() -> Generator[Any, Any, None]:
        yield piece("unit", (yield future).result())

    board.submit(board.scheduler.open(), 0, task=task)
    board.submit(board.scheduler.open(), 1, "unit")
    board.recorder.go.set()
    threading.Timer(0.05, future.set_result, [9]).start()
    assert board.finish() == [[1], [9]]


def test_what_another_thread_raises_ends_the_task(board: Board) -> None:
    future: Future[int] = Future()
    future.set_exception(ValueError("no picture"))

    def task() -> Generator[Any, Any, None]:
        yield piece("unit", (yield future).result())

    board.submit(board.scheduler.open(), 0, task=task)
    board.finish()
    assert str(board.ends[0]) == "no picture"


class Meeting:
    """Carries out a batch only while the other tracks carry out theirs."""

    def __init__(self, parties: int) -> None:
        self.barrier = threading.Barrier(parties)

    def run(self, works: Sequence[Work]) -> list[Any]:
        self.barrier.wait(10)
        return [name_of(work) for work in works]


def test_parts_of_the_model_work_at_the_same_time() -> None:
    """Three sessions' pieces meet inside three parts; on one track they would wait for each other for ever."""
    meeting, device = Meeting(3), torch.device("cpu")
    tracks: dict[ModelPart, Track] = {part: StreamTrack(meeting, device, part.value) for part in ModelPart}
    scheduler = Scheduler(tracks, ByDeadline())
    outputs: list[Any] = []
    ends: list[Exception | None] = []
    over = threading.Semaphore(0)

    def task(kind: str, name: int) -> Generator[Any, Any, None]:
        yield (yield piece(kind, name))

    def done(error: Exception | None) -> None:
        ends.append(error)
        over.release()

    for name, kind in enumerate(("unit", "answer", "steps 3")):
        scheduler.submit(scheduler.open(), Job(partial(task, kind, name), outputs.append, done, lambda _: 0.0))
    scheduler.start()
    for _ in range(3):
        assert over.acquire(timeout=10)
    assert ends == [None] * 3
    assert sorted(outputs) == [0, 1, 2]
    assert scheduler.stop(5)


def test_a_job_that_is_cancelled_inside_a_piece_ends_after_it() -> None:
    """The piece of another thread still touches the session: nothing may be taken from it before."""
    inside, go, over = threading.Event(), threading.Event(), threading.Event()

    class Slow:
        def run(self, works: Sequence[Work]) -> list[Any]:
            inside.set()
            assert go.wait(10)
            return [None] * len(works)

    order: list[str] = []
    scheduler = Scheduler(dict.fromkeys(ModelPart, StreamTrack(Slow(), torch.device("cpu"), "slow")), ByDeadline())

    def task() -> Generator[Any, Any, None]:
        try:
            yield piece("unit", 0)
            order.append("carried out")
            yield piece("unit", 0)
        finally:
            order.append("closed")

    def done(error: Exception | None) -> None:
        order.append(type(error).__name__)
        over.set()

    job = Job(task, lambda _: None, done, lambda _: 0.0)
    scheduler.submit(scheduler.open(), job)
    scheduler.start()
    assert inside.wait(10)
    scheduler.cancel(job)
    go.set()
    assert over.wait(10)
    assert order == ["carried out", "closed", "Cancelled"]
    assert scheduler.stop(5)
