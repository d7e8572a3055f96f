"""One call's session with the model: its requests, in order, as jobs of the scheduler."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from engine.client import (
    MAX_REWIND_UNITS,
    OUTPUT_RATE,
    Chunk,
    EngineError,
    FinishReason,
    Prefilled,
    SessionOptions,
    Unit,
)
from engine.config import OmniConfig
from engine.conversation.message import Fed, Prepared
from engine.conversation.pace import usual_s
from engine.conversation.sampling import Noise, TextSampling
from engine.conversation.served import ServedModel
from engine.conversation.session import Mark, SessionState
from engine.conversation.speech import SpeechChunk
from engine.conversation.speech_live import LiveOptions
from engine.conversation.streaming import StreamingModel
from engine.conversation.text import AnswerOptions
from engine.errors import InputError, NotFiniteError, OutOfMemoryError, is_out_of_memory
from engine.processing.prompts import UNIT, Message, Part, TypedText, turn_header
from engine.serving.answer import AnswerStream
from engine.serving.checks import check_rewind, check_unit, decode_frame
from engine.serving.live_answer import ServedAnswer
from engine.serving.policy import UNIT_DUE_S
from engine.serving.room import Room
from engine.serving.scheduler import Cancelled, Job, Scheduler
from engine.spoken import Starts

T = TypeVar("T")

HD_SLICES = 6
"""Pieces that the last picture of a turn is cut into, at most."""

PACE = LiveOptions(first_text=4, text=4, first_codes=6, first_overlap=1024)
"""Small first blocks: the sooner the first sound. 6 codes give 85 ms of it, in which the next block is made."""
SAFE_PACE = replace(PACE, first_codes=20)
"""For a processor, which has the call's media, and often the browser, to run as well: 384 ms, of which mini is silent
for some 160 that are left out; the rest lasts until the next block is there, which takes some 130 ms of one core."""


@dataclass(frozen=True, slots=True)
class ChatRuntime:
    """What all chats share."""

    stream: ServedModel
    scheduler: Scheduler
    threads: ThreadPoolExecutor
    """Prepare pictures and sound."""
    sampling: TextSampling


@dataclass(frozen=True, slots=True)
class Runtime(ChatRuntime):
    """What all sessions share: a model that can be called."""

    stream: StreamingModel


def pace_on(device: torch.device) -> LiveOptions:
    """How answers are paced on ``device``."""
    return SAFE_PACE if device.type == "cpu" else PACE


class LiveSession:
    """An :class:`engine.client.EngineSession` on a model in this process."""

    def __init__(
        self,
        runtime: Runtime,
        options: SessionOptions,
        prompt: Message,
        room: Room,
        forget: Callable[[LiveSession], None],
    ) -> None:
        """``prompt`` is the first message, ``room`` what :func:`room_of` leaves beside it; ``forget`` is told when the
        session closes."""
        self._runtime, self._stream, self._scheduler = runtime, runtime.stream, runtime.scheduler
        self._options, self._room = options, room
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._lane = self._scheduler.open()
        self._answers: list[ServedAnswer] = []
        self._asked = 0
        self._asked_before: deque[int] = deque(maxlen=MAX_REWIND_UNITS)  # answers asked for before the last units
        self._closed = False
        # Only the scheduler's thread touches these:
        self._state: SessionState | None = None
        self._failed: EngineError | None = None
        self._last: ServedAnswer | None = None  # the answer after which nothing was fed yet
        self._marks: deque[Mark] = deque(maxlen=MAX_REWIND_UNITS)  # before each of the last units
        self._submit(partial(self._begin, prompt), done=self._begun)

    async def prefill(self, unit: Unit) -> Prefilled:
        check_unit(unit)
        if self._closed:
            raise _closed()
        done: asyncio.Future[Prefilled] = self._loop.create_future()
        fed: list[Prefilled] = []

        def finish(error: Exception | None) -> None:
            self._loop.call_soon_threadsafe(_resolve, done, fed, error)

        asked, complete = self._asked, self._scheduler.clock() + UNIT_DUE_S
        # The units before an answer that is asked for already are part of the wait for it.
        self._submit(
            partial(self._feed, unit),
            output=lambda end: fed.append(self._prefilled(unit, end)),
            done=finish,
            due=lambda _: min([complete, *(answer.asked for answer in self._answers)]),
        )
        prefilled = await done
        self._asked_before.append(asked)
        return prefilled

    def generate(self, epoch: int) -> AsyncIterator[Chunk]:
        self._asked += 1
        answer = ServedAnswer(epoch, self._asked, self._scheduler.clock())
        if self._closed:
            answer.pipe.push(_closed())
        else:
            self._answers.append(answer)
            answer.job = self._submit(
                partial(self._speak, answer),
                output=partial(self._push, answer),
                done=partial(self._answered, answer),
                due=lambda _: answer.due(self._scheduler.clock()),
                paused=lambda: answer.is_ahead,
            )
        return AnswerStream(answer.pipe, partial(self._taken, answer), partial(self._cancel, answer))

    async def check_text(self, text: str) -> None:
        ids = await self._loop.run_in_executor(self._runtime.threads, self._stream.builder.typed, text)
        self._room.check_text(len(ids))

    async def cancel(self, epoch: int) -> None:
        for answer in self._answers:
            if answer.epoch == epoch:
                self._cancel(answer)

    async def heard(self, epoch: int, samples: int, read: int | None = None) -> None:
        if not self._closed:
            self._submit(partial(self._settle, epoch, samples, read), due=at_once)

    async def rewind(self, units: int) -> None:
        if self._closed:
            return
        check_rewind(units, len(self._asked_before))
        for _ in range(units):
            self._asked = self._asked_before.pop()
        self._submit(partial(self._rewind, units), due=at_once)

    async def remember(self, text: str, samples: int = 0, starts: Starts = ()) -> None:
        if self._closed:
            raise _closed()
        self._asked += 1
        if not text:
            return
        done: asyncio.Future[None] = self._loop.create_future()

        def finish(error: Exception | None) -> None:
            self._loop.call_soon_threadsafe(_resolve, done, [None], error)

        self._submit(partial(self._remember, text, starts), done=finish)
        await done

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._scheduler.cancel(*self._lane.jobs)
            self._submit(self._drop, done=lambda _: self._scheduler.close(self._lane))
            self._forget(self)

    def watch(self, listener: Callable[[EngineError | None], None]) -> None:
        """Nothing to tell: it ends with its caller."""

    def _taken(self, answer: ServedAnswer) -> None:
        answer.take(self._scheduler.clock())
        self._scheduler.wake()

    def _cancel(self, answer: ServedAnswer) -> None:
        if answer.job is not None:
            self._scheduler.cancel(answer.job)

    def _submit(
        self,
        begin: Callable[[], Generator[Any, Any, None]],
        *,
        output: Callable[[Any], None] = lambda _: None,
        done: Callable[[Exception | None], None] = lambda _: None,
        due: Callable[[float], float] = lambda since: since + UNIT_DUE_S,
        paused: Callable[[], bool] = lambda: False,
    ) -> Job:
        job = Job(begin, output, done, due, paused)
        self._scheduler.submit(self._lane, job)
        return job

    # ------------------------------------------- all that follows runs on the scheduler's thread

    def _begin(self, prompt: Message) -> Generator[Any, Any, None]:
        """Open the session's memory and feed the system prompt."""
        self._state = self._stream.open(self._options.seed, self._options.voice)
        prepared = yield self._prepare(self._state, prompt, 1)
        yield from self._stream.feed(self._state, prepared.result())

    def _begun(self, error: Exception | None) -> None:
        self._failed = None if error is None else refusal(error)

    def _memory(self) -> SessionState:
        if self._state is None or self._failed is not None:
            cause = "it was closed" if self._failed is None else self._failed.message
            raise EngineError("session_closed", f"The session could not begin: {cause} Open a new one.")
        return self._state

    def _feed(self, unit: Unit) -> Generator[Any, Any, None]:
        state = self._memory()
        content = yield self._runtime.threads.submit(_content, unit, self._stream.config)
        message, slices = Message("user", content.result()), HD_SLICES if unit.hd else 1
        prepared = yield self._prepare(state, message, slices)
        self._room.check_unit(len(prepared.result().row), has_text=bool(unit.text))
        self._last, mark = None, state.mark()
        yield from self._stream.feed(state, prepared.result(), ask_end=self._asks_end(unit))
        self._marks.append(mark)

    def _asks_end(self, unit: Unit) -> bool:
        return unit.ask_end and self._stream.message_end is not None

    def _prepare(self, state: SessionState, message: Message, slices: int) -> Future[Prepared]:
        return self._runtime.threads.submit(self._stream.prepare, state, message, max_slices=slices)

    def _prefilled(self, unit: Unit, end: Fed) -> Prefilled:
        used, limit = self._memory().length, self._stream.pool.context
        over = self._stream.end_probability(self._memory(), end) if self._asks_end(unit) else None
        dropped, pictured = end.dropped.tokens, end.picture_tokens
        return Prefilled(end.tokens, used, limit, dropped, over, pictured, end.words, end.rest)

    def _speak(self, answer: ServedAnswer) -> Generator[Any, Any, None]:
        """Begin an answer. Its randomness follows from its number, not from how far the answers before came."""
        state, options = self._memory(), self._options
        state.noise = Noise(options.seed * 1_000_003 + answer.number)
        sampling = self._runtime.sampling
        limit = longest_answer(self._runtime, options)
        pace = pace_on(self._stream.model.device)
        how = AnswerOptions(max_new_tokens=limit, speak=options.speak, text=sampling)
        answer.live, self._last = self._stream.generate(state, how, pace), answer
        return answer.live.task()

    def _push(self, answer: ServedAnswer, piece: SpeechChunk) -> None:
        if (chunk := answer.chunk(piece)) is not None:
            self._loop.call_soon_threadsafe(answer.pipe.push, chunk)

    def _answered(self, answer: ServedAnswer, error: Exception | None) -> None:
        answer.complete = error is None
        end: Chunk | EngineError
        if error is None or isinstance(error, Cancelled):
            finish: FinishReason = answer.live.finish if answer.live and answer.complete else "cancelled"
            end = Chunk(answer.epoch, answer.pushed, finish=finish)
        else:
            end = refusal(error)
        self._loop.call_soon_threadsafe(self._answers.remove, answer)
        self._loop.call_soon_threadsafe(answer.pipe.push, end)

    def _settle(self, epoch: int, samples: int, read: int | None) -> Generator[Any, Any, None]:
        """Cut the context back to what was heard of the last answer, unless something was fed since."""
        answer = self._last
        if answer is not None and answer.epoch == epoch:
            self._last = None
            yield from answer.settle(samples, read)

    def _rewind(self, units: int) -> Generator[Any, Any, None]:
        """Cut the context back to where it was before the last units."""
        for _ in range(units):
            mark = self._marks.pop()
        self._last = None
        self._stream.pool.truncate(self._memory(), mark)
        yield from ()

    def _remember(self, text: str, starts: Starts) -> Generator[Any, Any, None]:
        """Let the context hold an answer as if it had been given here."""
        state, self._last = self._memory(), None
        yield from self._stream.remember(state, text, room=longest_answer(self._runtime, self._options))
        if starts:
            character, sample = starts[-1]
            state.pace = state.pace.after(sample / OUTPUT_RATE, sum(map(usual_s, text[:character])))

    def _drop(self) -> Generator[Any, Any, None]:
        if self._state is not None:
            self._stream.pool.drop(self._state)
        yield from ()


def at_once(since: float) -> float:
    """The deadline of what an answer waits for."""
    return since


def longest_answer(runtime: Runtime, options: SessionOptions) -> int:
    """Tokens that an answer may have: half of the context at most, since the other half is for what it answers."""
    return min(options.max_new_tokens, runtime.sampling.longest, runtime.stream.pool.context // 2)


def room_of(runtime: Runtime, options: SessionOptions, prompt: Message) -> Room:
    """How a session with this first message shares out its context."""
    stream, build = runtime.stream, runtime.stream.builder
    return Room(
        context=stream.pool.context,
        prompt=stream.message.prompt_length(prompt),
        answer=len(stream.answer_prompt) + longest_answer(runtime, options),
        header=len(build.text(turn_header(answered=True, completed=False))),
        picture=len(build.text(UNIT)) + len(build.image((1, HD_SLICES), None)),
    )


def least_samples(config: OmniConfig) -> int:
    """Samples (16 kHz) of the shortest sound of which the encoder makes a vector: it pools so many frames of 20 ms."""
    return max(3, 2 * config.audio.pool_step - 1) * config.mel.hop_length


def _content(unit: Unit, config: OmniConfig) -> list[Part]:
    """A unit as the parts of a message: mark, picture and sound as the model was trained, then typed text.

    Sound of less than :func:`least_samples` is filled up with silence. A model without eyes gets no picture.
    """
    parts: list[Part] = []
    if unit.frame is not None and config.takes_pictures:
        parts += [UNIT, decode_frame(unit.frame)]
    if len(unit.audio):
        silence = max(0, least_samples(config) - len(unit.audio))
        parts.append(np.pad(unit.audio.astype(np.float32) / 32768, (0, silence)))
    if unit.text:
        parts.append(TypedText(unit.text))
    return parts


def _resolve(done: asyncio.Future[T], made: list[T], error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(made[0])
    else:
        done.set_exception(refusal(error))


def refusal(error: Exception) -> EngineError:
    """What the caller is told about a request that came to nothing."""
    if isinstance(error, EngineError):
        return error
    if isinstance(error, Cancelled):
        return _closed()
    if isinstance(error, InputError):
        return EngineError("bad_unit", f"The unit is refused: {error}.")
    if isinstance(error, NotFiniteError):
        return EngineError("model_fault", f"This came to nothing: {error}.")
    if is_out_of_memory(error):
        return EngineError("out_of_memory", f"This came to nothing: {OutOfMemoryError()}.", retryable=True)
    return EngineError("failed", f"The model failed on this request ({type(error).__name__}: {error}).")


def _closed() -> EngineError:
    return EngineError("session_closed", "The session was closed; open a new one.")
