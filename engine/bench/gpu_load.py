"""Calls that come at their own times, measured: the scheduler, its tracks, the tasks and the model, in real time.

What the calls do is what they do in the simulation (:mod:`engine.bench.callers`). Random weights never end an answer by
themselves: its text has a set number of tokens, and its speech is stopped after the codes that these would take.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from engine.bench.callers import CONTEXT, TURN_S, Caller, CallOutcomes
from engine.bench.machine import WallClock
from engine.bench.sections import ENDLESS, Bench
from engine.bench.simulation import percentile
from engine.conversation.captured import record_in_background
from engine.conversation.session import SessionState
from engine.conversation.speech import SpeechChunk
from engine.conversation.streaming import StreamingModel
from engine.conversation.text import AnswerOptions
from engine.conversation.window import KVWindow, WindowOptions
from engine.conversation.work import Work
from engine.processing.prompts import Message
from engine.serving.admission import CODES_PER_TOKEN
from engine.serving.live_session import PACE
from engine.serving.policy import ByDeadline
from engine.serving.scheduler import Scheduler
from engine.serving.tracks import tracks_on

WARM_UP_S = 5.0
SHORT_TURN_S = (1, 2)
PREPARING_THREADS = 4


@dataclass(frozen=True, slots=True)
class Served:
    """What calls were given. ``busy`` is the share of the time that each part of the model worked."""

    outcome: CallOutcomes
    seconds: float
    busy: dict[str, float]

    def rows(self) -> Iterator[tuple[str, str, float, float | None]]:
        """What, unit, value (the median where there is a 95th percentile) and that."""
        sounds = (
            ("request to first sound", self.outcome.first_sounds),
            ("last unit to first sound", self.outcome.turn_sounds),
        )
        for what, seconds in (pair for pair in sounds if pair[1]):
            yield what, "ms", 1e3 * percentile(seconds, 50), 1e3 * percentile(seconds, 95)
        yield "answers", "", float(self.outcome.answers), None
        yield "underruns an answer", "", self.outcome.underruns / max(1, self.outcome.answers), None
        yield "units waiting", "", percentile(self.outcome.backlog, 50), percentile(self.outcome.backlog, 95)
        for part, share in self.busy.items():
            yield f"{part} works", "of 1", share, None


class MeasuredSession:
    """Requests of a session with the model."""

    def __init__(self, stream: StreamingModel, state: SessionState, unit: Message, threads: ThreadPoolExecutor) -> None:
        self._stream, self._state, self._unit, self._threads = stream, state, unit, threads

    def fed(self) -> Generator[Any, Any, None]:
        prepared = yield self._threads.submit(self._stream.prepare, self._state, self._unit)
        yield from self._stream.feed(self._state, prepared.result())

    def said(self, tokens: int) -> Generator[Any, Any, None]:
        options = AnswerOptions(tokens, tokens, speech=ENDLESS)
        task = self._stream.generate(self._state, options, PACE).task()
        left, result = round(tokens * CODES_PER_TOKEN) * self._stream.samples_per_code, None
        try:
            while left > 0:
                item = task.send(result)
                result = yield item
                left -= len(item.wave) if isinstance(item, SpeechChunk) else 0
        except StopIteration:
            return
        finally:
            task.close()


def load(bench: Bench, calls: int, *, seconds: float, short: bool) -> Served:
    """So many calls for so long, after a while that is not counted. ``short``: with turns of a second or two."""
    stream = bench.stream
    context = stream.pool.context
    llm = stream.config.llm
    stream.window = KVWindow(stream.pool.llm, llm.head_dim, llm.rope_theta, WindowOptions(context, context * 3 // 4))
    clock, warm_up = WallClock(), WARM_UP_S if not short else 0.0
    busy: dict[str, float] = {}

    def measure(works: Sequence[Work], took: float) -> None:
        part = works[0].part.value
        busy[part] = busy.get(part, 0.0) + took

    devices = {weight.device for weight in stream.model.parameters()}
    tracks = tracks_on(stream.executor, devices)
    scheduler = Scheduler(tracks, ByDeadline(), clock=lambda: clock.now, measure=measure)
    threads = ThreadPoolExecutor(PREPARING_THREADS)
    outcome = CallOutcomes(warm_up)
    callers: list[Caller] = []
    stopped = threading.Event()
    recording = threading.Thread(target=record_in_background, args=(stream.executor.recorders, stopped), daemon=True)
    recording.start()
    try:
        for number, (state, mark) in enumerate(zip(bench.states[:calls], bench.marks, strict=False)):
            stream.pool.truncate(state, mark)
            remember(state, min(CONTEXT[0] + number * 61 % (CONTEXT[1] - CONTEXT[0]), context * 3 // 4))
            session = MeasuredSession(stream, state, bench.unit, threads)
            turn_s = SHORT_TURN_S if short else TURN_S
            callers.append(Caller(clock, scheduler, session, outcome, number, turn_s=turn_s))
        clock.run(scheduler, warm_up + seconds)
        for caller in callers:
            caller.hang_up()
        while not all(caller.is_over for caller in callers):
            if not scheduler.turn():
                scheduler.wait(0.1)
    finally:
        stopped.set()
        recording.join()
        threads.shutdown()
        for track in set(tracks.values()):
            track.stop()
    total = warm_up + seconds
    return Served(outcome, total, {part: took / total for part, took in sorted(busy.items())})


def remember(state: SessionState, tokens: int) -> None:
    """Let a session have a past of so many tokens, in units of sound."""
    while state.length < tokens:
        state.book = replace(state.book, unit=state.book.unit + 1)
        state.note("audio", min(28, tokens - state.length))
