"""A model that computes NaN or runs out of memory fails the request of that call, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch
from torch import Tensor

from engine.client import Chunk, EngineError, EngineSession, SessionOptions, Unit
from engine.conversation.executor import Executor
from engine.conversation.work import Decode, Feed, Render, Speak, Work
from engine.serving.factory import create_engine
from engine.serving.live_engine import LiveEngine
from engine.serving.live_session import LiveSession
from engine.serving.policy import Waiting
from engine.serving.scheduler import Scheduler
from engine.spec import EngineSpec
from tests.engine_runtime.conftest import unit

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[LiveEngine]:
    spec = EngineSpec(threads=1, untrained=True, in_process=True, context=512, batch_invariant=False, max_sessions=4)
    engine = create_engine(spec)
    assert isinstance(engine, LiveEngine)
    await engine.start()
    yield engine
    await engine.stop()


class Sabotage:
    """Breaks the pieces of work of one session, whichever batch they are in."""

    def __init__(self, executor: Executor, kind: type[Work], fault: Callable[[], None] | None) -> None:
        """``fault`` raises what the device would; None makes the numbers NaN where they are made."""
        self.kind, self.fault, self.batches = kind, fault, list[int]()
        self._run = executor._run[kind]
        self._executor = executor
        executor._run[kind] = self.run

    def mend(self) -> None:
        self._executor._run[self.kind] = self._run

    def run(self, works: Sequence[Any]) -> list[Any]:
        self.batches.append(len(works))
        bad = [index for index, work in enumerate(works) if is_bad(work)]
        if not bad:
            return self._run(works)
        if self.fault is not None:
            self.fault()
        if self.kind is Feed:
            poisoned = [Feed(w.state, w.embeds * float("nan")) if i in bad else w for i, w in enumerate(works)]
            return self._run(poisoned)
        model = self._executor.model
        module: Any = {Decode: model.llm.lm_head, Speak: model.tts, Render: self._executor.vocos}[self.kind]
        with nan_rows(module, "step" if self.kind is Speak else "forward", bad):
            return self._run(works)


@contextmanager
def fed_together(scheduler: Scheduler, count: int) -> Iterator[None]:
    """The scheduler feeds nothing until so many sessions have something to feed; all else goes on.

    How far each unit is prepared by then is up to the machine's threads, so a batch of several is not left to chance.
    """
    policy, complete = scheduler._policy, False

    class Patient:
        def choose(self, waiting: Sequence[Waiting]) -> list[int]:
            nonlocal complete
            others = [index for index, piece in enumerate(waiting) if not isinstance(piece.work, Feed)]
            complete = complete or len(waiting) - len(others) >= count
            ready = range(len(waiting)) if complete else others
            return [ready[index] for index in policy.choose([waiting[index] for index in ready])] if ready else []

    scheduler._policy = Patient()
    try:
        yield
    finally:
        scheduler._policy = policy


class nan_rows:
    """What a module gives is NaN in some rows of the batch."""

    def __init__(self, module: Any, method: str, rows: list[int]) -> None:
        self.module, self.method, self.rows = module, method, rows

    def __enter__(self) -> None:
        honest = getattr(self.module, self.method)

        def poisoned(*args: Any, **kwargs: Any) -> Tensor:
            out: Tensor = honest(*args, **kwargs).clone()
            out[self.rows] = float("nan")
            return out

        setattr(self.module, self.method, poisoned)

    def __exit__(self, *_: object) -> None:
        delattr(self.module, self.method)


BAD_SLOTS: set[int] = set()


def is_bad(work: Any) -> bool:
    if isinstance(work, Feed | Decode):
        return work.state.slot in BAD_SLOTS
    return True  # speech is made for the bad session alone


def cpu_is_full() -> None:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory")


def python_is_full() -> None:
    raise MemoryError


def card_is_full() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


async def answer(session: EngineSession, epoch: int) -> list[Chunk]:
    return [chunk async for chunk in session.generate(epoch)]


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def clean_engine(engine: LiveEngine) -> AsyncIterator[None]:
    """Nobody is bad yet, and a test that fails leaves the next one every session."""
    BAD_SLOTS.clear()
    yield
    for session in list(engine._sessions):
        await session.close()


FAULTS = {"nan": None, "cpu": cpu_is_full, "python": python_is_full, "card": card_is_full}
CODES = {"nan": "model_fault", "cpu": "out_of_memory", "python": "out_of_memory", "card": "out_of_memory"}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_unit_at_fault_is_refused_alone(engine: LiveEngine, fault: str) -> None:
    sessions, slots = await opened(engine, 3)
    expected = [await session.prefill(unit(0.5)) for session in sessions]
    BAD_SLOTS.add(slots[1])
    runtime = engine._runtime
    assert runtime is not None
    sabotage = Sabotage(runtime.stream.executor, Feed, FAULTS[fault])
    try:
        with fed_together(runtime.scheduler, 3):
            results = await asyncio.gather(*(s.prefill(unit(0.5)) for s in sessions), return_exceptions=True)
    finally:
        sabotage.mend()
    assert sabotage.batches[0] == 3, "they were fed together"
    error = results[1]
    assert isinstance(error, EngineError)
    assert error.code == CODES[fault]
    assert error.message.endswith(".")
    for index in (0, 2):
        assert not isinstance(results[index], BaseException)
    BAD_SLOTS.clear()
    again = await sessions[1].prefill(unit(0.5))
    assert again.context_used == expected[1].context_used + again.tokens, "as if the unit had never come"
    for session in sessions:
        assert (await answer(session, 1))[-1].finish in ("stop", "length")
        await session.close()
    no_rubbish(engine)


@pytest.mark.parametrize("kind", [Decode, Speak, Render])
@pytest.mark.parametrize("fault", ["nan", "cpu"])
async def test_an_answer_at_fault_fails_alone(engine: LiveEngine, kind: type[Work], fault: str) -> None:
    (bad, good), slots = await opened(engine, 2, speak=(True, False))
    await asyncio.gather(bad.prefill(unit(0.5)), good.prefill(unit(0.5)))
    BAD_SLOTS.add(slots[0])
    sabotage = Sabotage(stream_of(engine).executor, kind, FAULTS[fault])
    try:
        failed, fine = await asyncio.gather(answer(bad, 1), answer(good, 1), return_exceptions=True)
    finally:
        sabotage.mend()
    assert isinstance(failed, EngineError)
    assert failed.code == CODES[fault]
    assert isinstance(fine, list)
    assert fine[-1].finish in ("stop", "length")
    BAD_SLOTS.clear()
    await bad.heard(1, 0)
    await bad.prefill(Unit(text="go on"))
    assert (await answer(bad, 2))[-1].finish in ("stop", "length")
    await bad.close()
    await good.close()
    no_rubbish(engine)


async def test_a_session_that_finds_no_memory_frees_its_place(
    engine: LiveEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = stream_of(engine).pool
    free = engine.info.max_sessions if engine.info else 0
    with monkeypatch.context() as patch:
        patch.setattr(pool.audio, "allocate", python_is_full)
        session = await engine.open(SessionOptions())
        with pytest.raises(EngineError, match="ran out of memory") as caught:
            await session.prefill(unit())
        assert caught.value.code == "session_closed"
        await session.close()
    sessions, _ = await opened(engine, free)
    for session in sessions:
        assert (await session.prefill(unit(0.5))).tokens > 0
        await session.close()


async def opened(
    engine: LiveEngine, count: int, speak: Sequence[bool] | None = None
) -> tuple[list[LiveSession], list[int]]:
    """Sessions that have begun, and their slots."""
    speak = speak or [False] * count
    sessions = [
        await engine.open(SessionOptions(seed=seed, speak=says, max_new_tokens=3)) for seed, says in enumerate(speak)
    ]
    for session in sessions:
        await session.prefill(Unit(audio=np.zeros(8_000, np.int16)))
    slots = [session._state.slot for session in sessions if session._state is not None]
    return sessions, slots


def stream_of(engine: LiveEngine) -> Any:
    assert engine._runtime is not None
    return engine._runtime.stream


def no_rubbish(engine: LiveEngine) -> None:
    """No slot holds a NaN that its next session would multiply by."""
    pool = stream_of(engine).pool
    for arena in (pool.llm, pool.audio, pool.speech):
        for tensor in (*arena.keys, *arena.values):
            assert tensor[:, :, :-1].isfinite().all()
