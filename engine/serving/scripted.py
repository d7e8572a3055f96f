"""An engine without a model, for tests of the call and for work on the page. Never the default.

It answers with sentences from a script and speaks them as a soft melody, one note a word, so that nobody takes it
for a voice. The same requests give the same chunks. Delays run on the event loop's clock only, so that it also works
under a virtual-time loop.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.client import (
    INPUT_RATE,
    MAX_REWIND_UNITS,
    OUTPUT_RATE,
    ChatRequest,
    ChatStream,
    Chunk,
    EngineError,
    EngineInfo,
    FinishReason,
    Prefilled,
    SessionOptions,
    Unit,
)
from engine.serving.answer import CHUNKS_AHEAD, AnswerPipe, AnswerStream, refused
from engine.serving.checks import check_chat, check_options, check_rewind, check_unit, decode_frame
from engine.serving.melody import Spoken, speak
from engine.serving.room import Room
from engine.serving.scripted_chat import ScriptedChats
from engine.spoken import SpokenText, Starts

CONTEXT_LIMIT = 8_192
AUDIO_TOKENS_PER_S = 25
FRAME_TOKENS = 66
MAX_ANSWER_TOKENS = CONTEXT_LIMIT // 2
VOICED_RMS = 300.0
"""A 20 ms frame whose int16 RMS is above this counts as voiced."""

DEFAULT_ANSWERS = ("I heard {voiced} seconds of sound in {units} units.", 'You typed "{typed}".')
EXAMPLES = ("Hello, how are you?", "What is three plus four?", "What do you see?", "Tell me a joke.")


@dataclass(frozen=True, slots=True)
class Script:
    """What a scripted engine says and how slowly (seconds of the event loop's clock).

    ``answers`` are said in turn, the last one is followed by the first. Each may use ``{turn}``, ``{units}``,
    ``{seconds}``, ``{voiced}``, ``{frames}``, ``{typed}`` (all since the answer before), ``{heard}`` (seconds of the
    answer before that were played) and ``{said}`` (what it remembers of that answer). Without
    answers the engine tells what it was given. ``words`` are read in the units of a turn, one piece in each, and are
    certain one unit later.
    """

    answers: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    prefill_s: float = 0.0
    first_chunk_s: float = 0.0
    chunk_s: float = 0.0

    @classmethod
    def load(cls, path: str | Path) -> Script:
        """Read ``{"answers": ["…"], "words": ["…"], "prefill_s": 0, "first_chunk_s": 0, "chunk_s": 0}``; every key may
        be missing.

        Raises EngineError ``load_failed``.
        """
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
            json.dumps(raw, ensure_ascii=False, allow_nan=False).encode()  # half a surrogate pair cannot be sent
        except (OSError, ValueError, RecursionError) as error:
            raise EngineError("load_failed", f"The script {path} cannot be read as JSON: {error}.") from None
        if not isinstance(raw, dict) or (unknown := set(raw) - set(cls.__slots__)):
            found = f"unknown keys {sorted(unknown)}" if isinstance(raw, dict) else type(raw).__name__
            raise EngineError("load_failed", f"The script {path} must be an object of {cls.__slots__}; found {found}.")
        answers, words = raw.pop("answers", []), raw.pop("words", [])
        for texts in (answers, words):
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise EngineError("load_failed", f"The script {path}: answers and words must be lists of strings.")
        if not all(isinstance(value, int | float) and value >= 0 for value in raw.values()):
            raise EngineError("load_failed", f"The script {path}: the delays must be seconds, not negative.")
        script = cls(answers=tuple(answers), words=tuple(words), **raw)
        try:
            for answer in script.answers:
                answer.format(**_Fed().as_words(0))
        except (KeyError, IndexError, ValueError) as error:
            raise EngineError("load_failed", f"The script {path} has an answer with a wrong field: {error}.") from None
        return script


class ScriptedEngine:
    """An :class:`engine.client.Engine` that reads its answers from a :class:`Script`."""

    def __init__(self, script: Script | None = None, max_sessions: int = 16) -> None:
        self._script = script or Script()
        self._max_sessions = max_sessions
        self._sessions: set[ScriptedSession] = set()
        self._info: EngineInfo | None = None
        self._chats = ScriptedChats(self._script.answers or DEFAULT_ANSWERS[1:], self._script.chunk_s)

    async def start(self) -> EngineInfo:
        self._info = EngineInfo(
            name="scripted",
            trained=False,
            device="cpu",
            parameters=0,
            context_limit=CONTEXT_LIMIT,
            max_sessions=self._max_sessions,
            hears=False,
            note="Scripted answers and tones for tests: there is no model here, and nobody listens.",
            examples=EXAMPLES,
        )
        return self._info

    @property
    def info(self) -> EngineInfo | None:
        return self._info

    @property
    def busy_s(self) -> float:
        return 0.0

    async def open(self, options: SessionOptions) -> ScriptedSession:
        if self._info is None:
            raise EngineError("not_started", "The engine is not running; start it first.")
        check_options(options, self._info)
        room_for(options.prompt).check_prompt()
        if len(self._sessions) >= self._max_sessions:
            raise EngineError(
                "full", f"All {self._max_sessions} sessions are taken; try again when a call has ended.", retryable=True
            )
        session = ScriptedSession(options, self._script, self._sessions.discard)
        self._sessions.add(session)
        return session

    def chat(self, request: ChatRequest) -> ChatStream:
        try:
            if self._info is None:
                raise EngineError("not_started", "The engine is not running; start it first.")
            check_chat(request, self._info)
        except EngineError as error:
            return refused(error)
        return self._chats.ask(request)

    async def sessions(self) -> tuple[ScriptedSession, ...]:
        return tuple(self._sessions)

    async def stop(self) -> None:
        for session in list(self._sessions):
            await session.close()
        self._chats.close()
        self._info = None


@dataclass(slots=True)
class _Fed:
    """What was fed since the last answer."""

    units: int = 0
    samples: int = 0
    voiced_frames: int = 0
    frames: int = 0
    typed: list[str] = field(default_factory=list)
    before_s: float = 0.0
    before: str = ""

    def as_words(self, turn: int) -> dict[str, str]:
        return {
            "turn": str(turn),
            "units": str(self.units),
            "seconds": f"{self.samples / INPUT_RATE:.1f}",
            "voiced": f"{self.voiced_frames / 50:.1f}",
            "frames": str(self.frames),
            "typed": " ".join(self.typed),
            "heard": f"{self.before_s:.1f}",
            "said": self.before,
        }


@dataclass(slots=True)
class _ScriptedAnswer:
    """One running or waiting answer, from the engine's side."""

    epoch: int
    pipe: AnswerPipe[Chunk] = field(default_factory=AnswerPipe)
    cancelled: bool = False
    credit: int = CHUNKS_AHEAD
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def taken(self) -> None:
        self.credit += 1
        self.wake.set()

    def cancel(self) -> None:
        self.cancelled = True
        self.wake.set()

    async def room(self) -> None:
        """Wait until a chunk may be made or the answer is cancelled."""
        while self.credit <= 0 and not self.cancelled:
            self.wake.clear()
            await self.wake.wait()
        self.credit -= 1

    async def pause(self, seconds: float) -> None:
        """Wait, unless cancelled meanwhile."""
        await asyncio.sleep(0)
        if seconds and not self.cancelled:
            self.wake.clear()
            try:
                async with asyncio.timeout(seconds):
                    while not self.cancelled:
                        await self.wake.wait()
                        self.wake.clear()
            except TimeoutError:
                pass


class ScriptedSession:
    """One scripted call. A queue with one task behind it keeps the requests' order."""

    def __init__(self, options: SessionOptions, script: Script, forget: Callable[[ScriptedSession], None]) -> None:
        self._options = options
        self._script = script
        self._forget = forget
        self._requests: asyncio.Queue[Callable[[], Awaitable[None]] | None] = asyncio.Queue()
        self._runner = asyncio.get_running_loop().create_task(self._run())
        self._answers: list[_ScriptedAnswer] = []
        self._closed = False
        self._heard = _Fed()
        self._turn = 0
        self._context = 0
        self._before: deque[tuple[_Fed, int, int]] = deque(maxlen=MAX_REWIND_UNITS)
        self._last: tuple[int, SpokenText] | None = None

    async def prefill(self, unit: Unit) -> Prefilled:
        check_unit(unit)
        if unit.text:
            await self.check_text(unit.text)
        if self._closed:
            raise _closed()
        done: asyncio.Future[Prefilled] = asyncio.get_running_loop().create_future()

        async def carry_out() -> None:
            try:
                result = await self._prefill(unit)
            except EngineError as error:
                if not done.done():
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(result)

        self._requests.put_nowait(carry_out)
        return await done

    def generate(self, epoch: int) -> AsyncIterator[Chunk]:
        answer = _ScriptedAnswer(epoch)
        if self._closed:
            answer.pipe.push(_closed())
        else:
            self._answers.append(answer)
            self._requests.put_nowait(lambda: self._answer(answer))
        return AnswerStream(answer.pipe, answer.taken, answer.cancel)

    async def check_text(self, text: str) -> None:
        room_for(self._options.prompt).check_text(len(text.split()))

    async def cancel(self, epoch: int) -> None:
        for answer in self._answers:
            if answer.epoch == epoch:
                answer.cancel()

    async def heard(self, epoch: int, samples: int, read: int | None = None) -> None:
        if self._last is None or self._last[0] != epoch:
            return
        said = self._last[1]
        if read is None and not self._options.speak:
            read = len(said.text)
        kept = said.text[: said.heard_chars(samples) if read is None else read]
        self._context -= len(said.text.split()) - len(kept.split())
        self._heard.before_s, self._heard.before, self._last = samples / OUTPUT_RATE, kept, None

    async def rewind(self, units: int) -> None:
        if self._closed:
            return
        check_rewind(units, len(self._before))

        async def carry_out() -> None:
            for _ in range(units):
                self._heard, self._turn, self._context = self._before.pop()

        self._requests.put_nowait(carry_out)

    async def remember(self, text: str, samples: int = 0, starts: Starts = ()) -> None:
        if self._closed:
            raise _closed()

        async def carry_out() -> None:
            self._turn += 1
            self._heard = _Fed(before_s=samples / OUTPUT_RATE, before=text)
            self._context = min(CONTEXT_LIMIT, self._context + len(text.split()))
            self._last = None

        self._requests.put_nowait(carry_out)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            for answer in self._answers:
                answer.cancel()
            self._requests.put_nowait(None)
            self._forget(self)

    def watch(self, listener: Callable[[EngineError | None], None]) -> None:
        """Nothing to tell: it ends with its caller."""

    async def _run(self) -> None:
        while (request := await self._requests.get()) is not None:
            await request()

    async def _prefill(self, unit: Unit) -> Prefilled:
        if unit.frame is not None:
            decode_frame(unit.frame)
        await asyncio.sleep(self._script.prefill_s)
        if self._closed:
            raise _closed()
        heard = self._heard
        self._before.append((replace(heard, typed=list(heard.typed)), self._turn, self._context))
        certain, words = max(0, heard.units - 1), self._script.words
        read, rest = words[certain : heard.units], words[heard.units : heard.units + 1]
        heard.units += 1
        heard.samples += len(unit.audio)
        heard.voiced_frames += _voiced_frames(unit.audio)
        heard.frames += unit.frame is not None
        if unit.text:
            heard.typed.append(unit.text)
        tokens = round(len(unit.audio) / INPUT_RATE * AUDIO_TOKENS_PER_S) + len((unit.text or "").split())
        picture = FRAME_TOKENS if unit.frame is not None else 0
        tokens += picture
        dropped = max(0, self._context + tokens - CONTEXT_LIMIT)
        self._context += tokens - dropped
        said, more = "".join(read), "".join(rest)
        return Prefilled(tokens, self._context, CONTEXT_LIMIT, dropped, picture_tokens=picture, words=said, rest=more)

    async def _answer(self, answer: _ScriptedAnswer) -> None:
        words, finish = self._words()
        await answer.pause(self._script.first_chunk_s)
        silent: list[Spoken] = [(" ".join(words), np.zeros(0, np.int16), ())]
        spoken = speak(words) if self._options.speak else silent
        said, index = SpokenText(), 0
        for text, _, starts in spoken:
            said.add(text, starts)
        self._last = answer.epoch, said
        for text, pcm, starts in spoken:
            await answer.room()
            if answer.cancelled:
                break
            answer.pipe.push(Chunk(answer.epoch, index, text, pcm, starts))
            index += 1
            await answer.pause(self._script.chunk_s)
        answer.pipe.push(Chunk(answer.epoch, index, finish="cancelled" if answer.cancelled else finish))
        self._answers.remove(answer)

    def _words(self) -> tuple[list[str], FinishReason]:
        heard = self._heard
        self._turn += 1
        if self._script.answers:
            text = self._script.answers[(self._turn - 1) % len(self._script.answers)]
        else:
            text = " ".join(DEFAULT_ANSWERS[: 2 if heard.typed else 1])
        words = text.format(**heard.as_words(self._turn)).split()
        self._heard = _Fed()
        limit = self._options.max_new_tokens
        self._context = min(CONTEXT_LIMIT, self._context + min(len(words), limit))
        return words[:limit], "length" if len(words) > limit else "stop"


def _voiced_frames(audio: NDArray[np.int16]) -> int:
    """How many whole 20 ms frames are louder than :data:`VOICED_RMS`."""
    size = INPUT_RATE // 50
    frames = audio[: len(audio) // size * size].reshape(-1, size).astype(np.float32)
    return int((np.sqrt((frames**2).mean(axis=1)) > VOICED_RMS).sum()) if len(frames) else 0


def room_for(prompt: str) -> Room:
    """The model that is not here takes a word for a token."""
    return Room(CONTEXT_LIMIT, len(prompt.split()), MAX_ANSWER_TOKENS, header=0, picture=7 * FRAME_TOKENS)


def _closed() -> EngineError:
    return EngineError("session_closed", "The session was closed; open a new one.")
