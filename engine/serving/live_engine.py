"""The model as an :class:`engine.client.Engine`: many calls share one set of weights.

Lives in the worker process (or, for tests and benchmarks, beside the caller). The event loop's side takes requests and
hands out results; the model's side is the scheduler's thread; pictures and sound are prepared on further threads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image

from engine.chat.offline import Chat, ChatOptions
from engine.checkpoint.devices import free_memory
from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import LoadedModel, LoadedVisionLanguage, build_untrained, has_weights, load_model
from engine.checkpoint.reader import load_reader
from engine.client import (
    DEFAULT_VOICE,
    INPUT_RATE,
    OUTPUT_RATE,
    UNIT_SAMPLES,
    ChatRequest,
    ChatStream,
    EngineError,
    EngineInfo,
    SessionOptions,
)
from engine.config_reader import Reader, read_json
from engine.conversation.captured import record_in_background
from engine.conversation.rows import exact_rows
from engine.conversation.sampling import TextSampling
from engine.conversation.served import ServedModel
from engine.conversation.storage import SessionRoom, choose_room, counted
from engine.conversation.streaming import StreamingModel
from engine.conversation.text import AnswerOptions
from engine.conversation.transcriber import Transcriber
from engine.conversation.window import WindowOptions
from engine.conversation.work import Task, Work
from engine.errors import ConfigError, InputError, LoadError
from engine.processing.dialects import DIALECTS
from engine.processing.prompts import UNIT, Message, Part, TypedText, get_sys_prompt
from engine.serving.admission import CallCosts
from engine.serving.answer import refused
from engine.serving.checks import MAX_PROMPT_CHARS, check_chat, check_options
from engine.serving.live_chat import LiveChats
from engine.serving.live_session import ChatRuntime, LiveSession, Runtime, room_of
from engine.serving.policy import ByDeadline, Limits
from engine.serving.scheduler import Measure, Scheduler, unmeasured
from engine.serving.tracks import tracks_on
from engine.spec import EngineSpec

MINI = Path(__file__).resolve().parents[1] / "mini" / "checkpoint"
PREPARING_THREADS = 2
STOP_S = 0.5
UNTRAINED = "This model is untrained: its weights are random, its answers mean nothing."

log = logging.getLogger(__name__)


class LiveEngine:
    """One loaded model, its scheduler, and the sessions that are open."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._info: EngineInfo | None = None
        self._sessions: set[LiveSession] = set()
        self._voices: dict[str, Path] = {}
        self._told = ""
        self._room = SessionRoom(0, 0, 0)
        self._runtime: ChatRuntime | None = None
        self.costs: CallCosts | None = None
        self._chats: LiveChats | None = None
        self._stopped = threading.Event()

    async def start(self) -> EngineInfo:
        if self._info is not None:
            return self._info
        loaded = await asyncio.to_thread(load, self._spec)
        self._room = room_on(self._spec, loaded)
        stream = await asyncio.to_thread(self._warm, loaded)
        rows = stream.executor.rows
        limits = Limits() if rows is None else Limits(units=1, steps=rows, answers=1)
        devices = {weight.device for weight in loaded.model.parameters()}
        tracks, stopwatch = tracks_on(stream.executor, devices), stopwatch_on(loaded.model.device)
        if isinstance(stream, StreamingModel):
            self.costs = CallCosts(tracks, OUTPUT_RATE / stream.samples_per_code, time.monotonic, rows or 1)
            if self._spec.admit_by_cost:
                await asyncio.to_thread(self._rehearse, stream, self.costs)
                log.info("a call takes %.0f %% of the time here", 100 * self.costs.share(1))
        scheduler = Scheduler(tracks, ByDeadline(limits), measure=self.costs or unmeasured, stopwatch=stopwatch)
        scheduler.start()
        if any(recorder.enabled for recorder in stream.executor.recorders):
            recording = (stream.executor.recorders, self._stopped)
            threading.Thread(target=record_in_background, args=recording, name="record", daemon=True).start()
        directory = _directory(self._spec)
        threads = ThreadPoolExecutor(PREPARING_THREADS, "prepare")
        sampling, called = read_sampling(directory), isinstance(stream, StreamingModel)
        if isinstance(stream, StreamingModel):
            self._runtime = Runtime(stream, scheduler, threads, sampling)
        else:
            self._runtime = ChatRuntime(stream, scheduler, threads, sampling)
        stored = loaded.voices if isinstance(loaded, LoadedModel) else {}
        if called and not stored:
            self._voices = {path.stem: path for path in sorted((directory / "assets" / "voices").glob("*.wav"))}
        self._told = read_text(directory / "prompt.txt", MAX_PROMPT_CHARS)
        self._chats = LiveChats(self._runtime, self._prompt, self._told, self._room.chats)
        self._info = EngineInfo(
            name="mini" if directory == MINI else directory.resolve().name,
            trained=loaded.trained,
            device=str(loaded.model.device),
            parameters=loaded.parameters,
            context_limit=stream.pool.context,
            max_sessions=max(1, self._room.calls),  # a model without a voice says so to who calls it
            voices=tuple(dict.fromkeys([DEFAULT_VOICE, *self._voices, *stored])),
            hears=called,
            sees=loaded.config.takes_pictures,
            one_picture=DIALECTS[loaded.config.generation].one_picture,
            speaks=called,
            note=read_text(directory / "notice.txt", 500) if loaded.trained else UNTRAINED,
            examples=read_examples(directory) if loaded.trained else (),
        )
        return self._info

    @property
    def info(self) -> EngineInfo | None:
        return self._info

    @property
    def busy_s(self) -> float:
        return self._runtime.scheduler.busy_s if self._runtime is not None else 0.0

    async def open(self, options: SessionOptions) -> LiveSession:
        if self._info is None or self._runtime is None:
            raise EngineError("not_started", "The engine is not running; start it first.")
        if not isinstance(self._runtime, Runtime):
            message = f"{self._info.name} neither hears nor speaks; ask it in the chat, or call MiniCPM-o 2.6."
            raise EngineError("bad_options", message)
        check_options(options, self._info)
        prompt = self._prompt(options)
        room = room_of(self._runtime, options, prompt)
        room.check_prompt()
        if len(self._sessions) >= self._info.max_sessions:
            message = f"All {self._info.max_sessions} sessions are taken; try again when a call has ended."
            raise EngineError("full", message, retryable=True)
        if self._spec.admit_by_cost and self.costs is not None and not self.costs.admits(len(self._sessions)):
            count = counted(len(self._sessions), "session")
            message = f"The model has no time for more than its {count}; try again when a call has ended."
            raise EngineError("full", message, retryable=True)
        session = LiveSession(self._runtime, options, prompt, room, self._sessions.discard)
        self._sessions.add(session)
        return session

    def chat(self, request: ChatRequest) -> ChatStream:
        try:
            if self._info is None or self._chats is None:
                raise EngineError("not_started", "The engine is not running; start it first.")
            check_chat(request, self._info)
        except EngineError as error:
            return refused(error)
        return self._chats.ask(request)

    async def sessions(self) -> tuple[LiveSession, ...]:
        return tuple(self._sessions)

    async def stop(self) -> None:
        self._info = None
        self._stopped.set()
        for session in list(self._sessions):
            await session.close()
        if self._chats is not None:
            self._chats.close()
        if runtime := self._runtime:
            self._runtime = None
            if not await asyncio.to_thread(runtime.scheduler.stop, STOP_S):
                log.warning("the model is still in a long step")
            runtime.threads.shutdown(wait=False, cancel_futures=True)

    def _prompt(self, options: SessionOptions) -> Message:
        """The first message of a session. Raises EngineError ``bad_options``."""
        path = self._voices.get(options.voice)
        try:
            message = get_sys_prompt(read_voice(path) if path else None, options.preset, options.language)
        except InputError as error:
            raise EngineError("bad_options", f"The session cannot be opened: {error}.") from None
        if not (told := options.prompt or self._told):
            return message
        # A checkpoint that brings a prompt was made of a model that expects it of the system.
        role = "system" if self._told else message.role
        return Message(role, [TypedText(told), *(part for part in message.content if not isinstance(part, str))])

    @torch.inference_mode()
    def _warm(self, loaded: LoadedVisionLanguage) -> ServedModel:
        """Run everything once, so that the first call finds the memory reserved and the kernels chosen."""
        room, context, rows = self._room, self._room.context, shared_rows(self._spec, loaded)
        if not isinstance(loaded, LoadedModel):
            served = ServedModel(loaded, sessions=room.sessions, context=context, rows=rows)
            question = Message("user", [Image.new("RGB", (448, 448)), TypedText("What is it?")])
            Chat(loaded, stream=served).answer([question], ChatOptions(max_new_tokens=8))
            return served
        window = WindowOptions(high=context, low=context * 3 // 4)
        transcriber = load_transcriber(self._spec, loaded)
        stream = StreamingModel(
            loaded, sessions=room.sessions, context=context, window=window, rows=rows, transcriber=transcriber
        )
        self._rehearse(stream, unmeasured)
        return stream

    @torch.inference_mode()
    def _rehearse(self, stream: StreamingModel, measure: Measure) -> None:
        """A unit, and an answer until it is heard."""
        state = stream.open()
        silence = np.zeros(UNIT_SAMPLES, np.float32)
        seen: list[Part] = [UNIT, Image.new("RGB", (448, 448))] if stream.config.takes_pictures else []
        said = Message("user", [*seen, silence, TypedText("hello")])  # who reads has no answer to silence
        options = AnswerOptions(max_new_tokens=64, min_new_tokens=64, text=read_sampling(_directory(self._spec)))
        _finish(stream, stream.prefill(state, get_sys_prompt(mode="omni", language="en")), measure)
        _finish(stream, stream.prefill(state, said), measure)
        _finish(stream, stream.generate(state, options).task(), measure, outputs=2)
        stream.pool.drop(state)


def load(spec: EngineSpec) -> LoadedVisionLanguage:
    """The weights that ``spec`` names. The shipped mini runs untrained while it has none, any other directory must
    have them. Raises EngineError ``load_failed``."""
    torch.set_num_threads(spec.threads or max(1, (os.cpu_count() or 2) - 1))
    directory = _directory(spec)
    try:
        missing = directory == MINI and not has_weights(directory)
        if missing:
            log.warning("the mini has no weights yet: running it untrained")
        if missing or spec.untrained:
            return build_untrained(directory, device=spec.device, dtype=spec.dtype)
        return load_model(directory, LoadOptions(spec.device, spec.dtype, spec.quantize, spec.adapter))
    except LoadError as error:
        raise EngineError("load_failed", f"The model was not loaded: {error}.") from error


def load_transcriber(spec: EngineSpec, loaded: LoadedModel) -> Transcriber | None:
    """The ears that read for captions, where the options want some and the model has none that read. Raises
    EngineError ``load_failed``."""
    if spec.transcriber is None or loaded.config.reader is not None:
        return None
    try:
        return Transcriber(load_reader(Path(spec.transcriber), loaded.model.device))
    except LoadError as error:
        raise EngineError("load_failed", f"The ears that read were not loaded: {error}.") from error


def read_text(path: Path, most: int) -> str:
    """A line of at most so many characters that the makers of a checkpoint put beside it: ``notice.txt`` is for its
    callers, ``prompt.txt`` is what the model is told at the start of a call that chooses no prompt of its own."""
    return " ".join(path.read_text(encoding="utf-8", errors="replace").split())[:most] if path.is_file() else ""


def read_examples(directory: Path) -> tuple[str, ...]:
    """What a caller can say to a checkpoint, in its makers' words, from ``examples.txt``: a sentence a line, at most
    six of at most 80 characters."""
    path = directory / "examples.txt"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    sentences = [" ".join(line.split())[:80] for line in lines]
    return tuple(sentence for sentence in sentences if sentence)[:6]


def read_sampling(directory: Path) -> TextSampling:
    """How the model's text is drawn: as published, unless its ``generation_config.json`` turns sampling off or bounds
    an answer (``max_new_tokens``)."""
    path = directory / "generation_config.json"
    try:
        config = Reader(read_json(path) if path.is_file() else {}, path)
        greedy = not config.get("do_sample", True)
        penalty = config.get("repetition_penalty", 1.0)
        longest = config.positive("max_new_tokens", 4_096)
        if penalty <= 0:
            raise config.error("repetition_penalty", f"is {penalty}, which must be above 0", "get the file again")
    except ConfigError as error:
        raise EngineError("load_failed", f"The model was not loaded: {error}.") from error
    if greedy:
        return TextSampling(greedy=True, repetition_penalty=penalty, longest=longest)
    return TextSampling(longest=longest)


def read_voice(path: Path) -> NDArray[np.float32]:
    """A voice sample, mono at 16 kHz. Raises EngineError ``bad_options`` for a file that is none."""
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise EngineError("bad_options", f"The voice {path} cannot be read: {error}.") from None
    if rate != INPUT_RATE:
        raise EngineError("bad_options", f"The voice {path} has {rate} Hz; convert it to {INPUT_RATE} Hz.")
    return np.ascontiguousarray(samples.mean(axis=1))


def room_on(spec: EngineSpec, loaded: LoadedVisionLanguage) -> SessionRoom:
    """The calls and chats that there is room for beside the weights, which the operator is told. Storages are made once
    for them, and on a card never move. Raises EngineError ``load_failed`` where not one fits."""
    device = loaded.model.device
    free = free_memory(device)
    wish = {"calls": spec.max_sessions, "context": spec.context}
    try:
        room = choose_room(loaded.config, device, loaded.model.dtype, free, **wish)
    except LoadError as error:
        raise EngineError("load_failed", f"The model was loaded, but cannot serve: {error}.") from error
    log.info("%s has room for %s", device, room)
    if room.calls < spec.max_sessions and isinstance(loaded, LoadedModel):
        log.warning("serving %d calls at once, not %d; give them a smaller context", room.calls, spec.max_sessions)
    return room


def stopwatch_on(device: torch.device) -> Callable[[], float]:
    """What a batch took, in seconds: on a processor, where one thread carries all out, of that thread, so that other
    programs do not count as the model's cost."""
    return time.thread_time if device.type == "cpu" else time.monotonic


def shared_rows(spec: EngineSpec, loaded: LoadedVisionLanguage) -> int | None:
    """Rows of every step of text or speech; None where sessions share whatever they can."""
    on_cpu = loaded.model.device.type == "cpu"
    if not (on_cpu if spec.batch_invariant is None else spec.batch_invariant):
        return None
    rows = exact_rows(loaded.model)
    if rows == 1:
        log.warning("on this device a product depends on who shares it: calls share nothing")
    return rows


def _directory(spec: EngineSpec) -> Path:
    return Path(spec.model) if spec.model else MINI


def _finish(stream: StreamingModel, task: Task[object], measure: Measure, outputs: int | None = None) -> None:
    """Drive a task to its end, or until it has given so many outputs; ``measure`` is told what each piece took."""
    stopwatch = stopwatch_on(stream.model.device)

    def run(works: Sequence[Work]) -> list[Any]:
        begun = stopwatch()
        results = stream.executor.run(works)
        measure(works, stopwatch() - begun)
        return results

    for count, _ in enumerate(stream.executor.drive(task, run), 1):
        if count == outputs:
            return
