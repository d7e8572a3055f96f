"""One call's session with the model: its requests, in order, as jobs of the scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.answer import CHUNKS_AHEAD, AnswerPipe, AnswerStream
from engine.checks import check_unit, decode_frame
from engine.client import Chunk, EngineError, FinishReason, Prefilled, SessionOptions, Unit
from engine.errors import InputError
from engine.processing.prompts import UNIT, Message, Part
from engine.scheduler import Cancelled, Job, Scheduler, Urgency
from engine.session import SessionState
from engine.speech import SpeechChunk
from engine.stream import Fed, Prepared, Stream
from engine.text import AnswerOptions

LEAST_SAMPLES = 400
"""Shorter sound is filled up with silence: the encoder needs three frames of 10 ms."""

HD_SLICES = 6
"""Pieces that the last picture of a turn is cut into, at most."""


@dataclass(slots=True, eq=False)
class _Answer:
    """One answer, seen from both sides: the model's thread counts what it pushed, the event loop what was taken."""

    epoch: int
    pipe: AnswerPipe
    pushed: int = 0
    taken: int = 0
    spoken: int = 0
    """Samples (24 kHz) pushed."""
    job: Job | None = None
    cancelled: bool = False

    @property
    def ahead(self) -> int:
        return self.pushed - self.taken

    def urgency(self) -> Urgency:
        if not self.spoken:
            return Urgency.FIRST_AUDIO
        return Urgency.ANSWER if self.ahead else Urgency.RUNNING_DRY


class LiveSession:
    """An :class:`engine.client.EngineSession` on a model in this process."""

    def __init__(
        self,
        stream: Stream,
        scheduler: Scheduler,
        threads: ThreadPoolExecutor,
        options: SessionOptions,
        prompt: Message,
        forget: Callable[[LiveSession], None],
    ) -> None:
        self._stream, self._scheduler, self._threads = stream, scheduler, threads
        self._options = options
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._lane = scheduler.open()
        self._answers: list[_Answer] = []
        self._closed = False
        self._state: SessionState | None = None
        self._failed: Exception | None = None
        self.heard_samples: dict[int, int] = {}
        """Samples (24 kHz) of each answer that the person heard, by epoch."""
        self._submit(partial(self._begin, prompt), lambda fed: None, self._begun, lambda: Urgency.UNIT)

    async def prefill(self, unit: Unit) -> Prefilled:
        check_unit(unit)
        if self._closed:
            raise _closed()
        done: asyncio.Future[Prefilled] = self._loop.create_future()
        fed: list[Prefilled] = []

        def finish(error: Exception | None) -> None:
            self._loop.call_soon_threadsafe(_settle, done, fed, error)

        self._submit(
            partial(self._feed, unit), lambda end: fed.append(self._prefilled(end)), finish, self._unit_urgency
        )
        return await done

    def generate(self, epoch: int) -> AsyncIterator[Chunk]:
        answer = _Answer(epoch, AnswerPipe())
        if self._closed:
            answer.pipe.push(_closed())
        else:
            self._answers.append(answer)
            answer.job = self._submit(
                self._speak,
                partial(self._push, answer),
                partial(self._answered, answer),
                answer.urgency,
                lambda: answer.ahead >= CHUNKS_AHEAD,
            )
        return AnswerStream(answer.pipe, partial(self._taken, answer), partial(self._cancel, answer))

    async def cancel(self, epoch: int) -> None:
        for answer in self._answers:
            if answer.epoch == epoch:
                self._cancel(answer)

    async def heard(self, epoch: int, samples: int) -> None:
        self.heard_samples[epoch] = samples

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._scheduler.cancel(*self._lane.jobs)
            self._submit(self._drop, lambda _: None, lambda _: self._scheduler.close(self._lane), lambda: Urgency.UNIT)
            self._forget(self)

    # --- the model's side: everything below runs on the scheduler's thread, unless it says otherwise ---

    def _begin(self, prompt: Message) -> Generator[Any, Any, None]:
        """Open the session's memory and feed the system prompt."""
        self._state = self._stream.open(self._options.seed)
        yield from self._stream.feed(self._state, (yield self._prepare(self._state, prompt, 1)).result())

    def _begun(self, error: Exception | None) -> None:
        self._failed = error

    def _memory(self) -> SessionState:
        if self._state is None or self._failed is not None:
            raise EngineError("failed", f"The session could not begin: {self._failed}; open a new one.")
        return self._state

    def _feed(self, unit: Unit) -> Generator[Any, Any, None]:
        state = self._memory()
        content = yield self._threads.submit(_content, unit)
        message, slices = Message("user", content.result()), HD_SLICES if unit.hd else 1
        prepared = yield self._prepare(state, message, slices)
        yield from self._stream.feed(state, prepared.result())

    def _prefilled(self, end: Fed) -> Prefilled:
        state = self._memory()
        return Prefilled(end.tokens, state.length, self._stream.pool.context)

    def _prepare(self, state: SessionState, message: Message, slices: int) -> Future[Prepared]:
        return self._threads.submit(self._stream.prepare, state, message, max_slices=slices)

    def _speak(self) -> Generator[Any, Any, None]:
        options = AnswerOptions(max_new_tokens=self._options.max_new_tokens, speak=self._options.speak)
        return self._stream.generate(self._memory(), options).task()

    def _push(self, answer: _Answer, piece: SpeechChunk) -> None:
        pcm = to_pcm(piece.wave)
        if piece.text or len(pcm):
            self._hand_over(answer, Chunk(answer.epoch, answer.pushed, piece.text, pcm, piece.audio_start))
            answer.pushed += 1
            answer.spoken += len(pcm)

    def _answered(self, answer: _Answer, error: Exception | None) -> None:
        if error is not None and not isinstance(error, Cancelled):
            self._hand_over(answer, _refusal(error))
        else:
            finish: FinishReason = "cancelled"
            if error is None:
                finish = "stop" if self._memory().book.completed else "length"
            self._hand_over(answer, Chunk(answer.epoch, answer.pushed, audio_start=answer.spoken, finish=finish))
        self._loop.call_soon_threadsafe(self._answers.remove, answer)

    def _drop(self) -> Generator[Any, Any, None]:
        if self._state is not None:
            self._stream.pool.drop(self._state)
        yield from ()

    def _unit_urgency(self) -> Urgency:
        """The units before an answer that is asked for already are part of the wait for it."""
        return Urgency.FIRST_AUDIO if self._answers else Urgency.UNIT

    def _hand_over(self, answer: _Answer, item: Chunk | EngineError) -> None:
        self._loop.call_soon_threadsafe(answer.pipe.push, item)

    # --- helpers of the event loop's side ---

    def _submit(
        self,
        begin: Callable[[], Generator[Any, Any, None]],
        output: Callable[[Any], None],
        done: Callable[[Exception | None], None],
        urgency: Callable[[], Urgency],
        paused: Callable[[], bool] = lambda: False,
    ) -> Job:
        job = Job(begin, output, done, urgency, paused)
        self._scheduler.submit(self._lane, job)
        return job

    def _taken(self, answer: _Answer) -> None:
        answer.taken += 1
        self._scheduler.wake()

    def _cancel(self, answer: _Answer) -> None:
        if answer.job is not None:
            self._scheduler.cancel(answer.job)


def to_pcm(wave: Tensor) -> NDArray[np.int16]:
    """Wave float32 [N] in [-1, 1] -> int16 [N]; louder is clipped."""
    return (wave.clamp(-1, 1) * 32767).round().numpy().astype(np.int16)


def _content(unit: Unit) -> list[Part]:
    """A unit as the parts of a message: mark, picture and sound as the model was trained, then typed text."""
    parts: list[Part] = []
    if unit.frame is not None:
        parts += [UNIT, decode_frame(unit.frame)]
    if len(unit.audio):
        silence = max(0, LEAST_SAMPLES - len(unit.audio))
        parts.append(np.pad(unit.audio.astype(np.float32) / 32768, (0, silence)))
    if unit.text:
        parts.append(unit.text)
    return parts


def _settle(done: asyncio.Future[Prefilled], fed: list[Prefilled], error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(fed[0])
    else:
        done.set_exception(_refusal(error))


def _refusal(error: Exception) -> EngineError:
    """What the caller is told about a request that came to nothing."""
    if isinstance(error, EngineError):
        return error
    if isinstance(error, Cancelled):
        return _closed()
    if isinstance(error, InputError):
        return EngineError("bad_unit", f"The unit is refused: {error}.")
    return EngineError("failed", f"The model failed on this request ({type(error).__name__}: {error}).")


def _closed() -> EngineError:
    return EngineError("session_closed", "The session was closed; open a new one.")
