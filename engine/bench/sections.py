"""What is measured. Every section runs on the same weights as the reference pattern, in the same process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from engine.bench.emulator import CODES_PER_BLOCK, Emulator, Snapshot
from engine.bench.measure import Clock, Stopwatch, Timing, in_turns, row
from engine.checkpoint.loader import LoadedModel
from engine.client import INPUT_RATE, OUTPUT_RATE
from engine.conversation.executor import Executor
from engine.conversation.rows import ROWS
from engine.conversation.sampling import Noise, SpeechSampling, TextSampling
from engine.conversation.session import SessionState
from engine.conversation.speech import SpeechChunk
from engine.conversation.speech_live import silence_of
from engine.conversation.streaming import StreamingModel
from engine.conversation.text import AnswerOptions
from engine.conversation.work import Decode, Read, Render, Speak, Voice, Work
from engine.processing.prompts import UNIT, Message, get_sys_prompt
from engine.serving.live_session import pace_on

CODES_PER_SECOND = OUTPUT_RATE / 512
UNITS_BEFORE = 4
"""Units that every session holds before anything is measured."""

TEXT_TOKENS = 24
TEXT_BEFORE = 40
"""Text tokens that a voice has read before its speech is measured."""

UNITS_PER_BATCH = 4
ENDLESS = SpeechSampling(min_tokens=1 << 30)
"""Never draws the end of speech, so that lengths are fixed."""


class Bench:
    """One loaded model, driven by the engine's functions and by the reference pattern."""

    def __init__(self, loaded: LoadedModel, sessions: Sequence[int], repeats: int, clock: Clock) -> None:
        self.loaded, self.sizes, self.repeats = loaded, sorted(sessions), repeats
        self.watch = Stopwatch(clock, loaded.model.device)
        context = min(8192, loaded.config.llm.max_positions)
        self.stream = StreamingModel(loaded, sessions=max(self.sizes), context=context)
        self.pace = pace_on(loaded.model.device)
        noise = np.random.default_rng(0)
        self.sound = (0.1 * noise.standard_normal(INPUT_RATE)).astype(np.float32)
        self.picture = Image.fromarray(noise.integers(0, 255, (480, 640, 3), np.uint8))
        self.unit = Message("user", [UNIT, self.picture, self.sound])
        with torch.inference_mode():
            self.states = [self.stream.open(seed) for seed in range(max(self.sizes))]
            self._prefill(self.states, get_sys_prompt(mode="omni", language="en"))
            for _ in range(UNITS_BEFORE):
                self._prefill(self.states, self.unit)
            self.marks = [state.mark() for state in self.states]

    @cached_property
    def emulator(self) -> Emulator:
        """The reference pattern, with as many units behind it; made at first use."""
        emulator = Emulator(self.loaded)
        for _ in range(UNITS_BEFORE):
            emulator.prefill(self.sound, self.picture)
        return emulator

    @cached_property
    def before(self) -> Snapshot:
        """What the reference pattern held when it was made."""
        return self.emulator.snapshot()

    def sections(self) -> Iterator[list[Timing]]:
        """The rows, section by section, the most telling first."""
        for section in (self.first_audio, self.speech, self.text, self.prefill, self.vocoder, self.sharing):
            with torch.inference_mode():
                yield list(section())

    def first_audio(self) -> Iterator[Timing]:
        """From the request for an answer to its first sound; and from a last unit that comes with the request. Silence
        that is handed out in front of it is waited for, too."""

        def ours(size: int, unit: bool) -> float:
            silent: list[float] = []
            self._together([self._turn(state, unit, silent) for state in self._rewound(size)])
            return max(silent)

        def reference(unit: bool) -> float:
            self.emulator.restore(self.before)
            if unit:
                self.emulator.prefill(self.sound, self.picture)
            _, wave = next(self.emulator.speak())
            return silence_of(torch.from_numpy(wave)) / OUTPUT_RATE

        for what, unit in (("request to first sound", False), ("last unit to first sound", True)):
            for size in self.sizes:
                theirs = partial(reference, unit) if size == 1 else None
                times = in_turns(self.watch, partial(ours, size, unit), theirs, self.repeats)
                yield row("time to first audio", what, size, "ms", 1e3, *times)

    def speech(self) -> Iterator[Timing]:
        """Audio codes and their wave, as seconds of work per second of sound."""
        seconds = CODES_PER_BLOCK / CODES_PER_SECOND

        def ours(voices: Sequence[Voice]) -> None:
            self.stream.executor.run([self._block(voice) for voice in voices])
            context = CODES_PER_BLOCK + self.stream.wave_context
            self.stream.executor.run([Render(voice.codes[-context:]) for voice in voices])

        for size in self.sizes:
            voices = [self._voice() for _ in range(size)]
            speaking = self.emulator.blocks(TEXT_BEFORE)
            times = in_turns(self.watch, partial(ours, voices), partial(next, speaking), self.repeats)
            yield row("speech", "codes and wave", size, "s/s", 1 / seconds, *times, shared=True)
            for voice in voices:
                self.stream.pool.speech.release(voice.slot)

    def text(self) -> Iterator[Timing]:
        """Text tokens of an answer that is not spoken."""
        options = AnswerOptions(TEXT_TOKENS, TEXT_TOKENS, speak=False)

        def ours(size: int) -> None:
            self._together([self.stream.generate(state, options, self.pace).task() for state in self._rewound(size)])

        def reference() -> None:
            self.emulator.restore(self.before)
            source = self.emulator.text()
            for _ in range(TEXT_TOKENS // 3):
                next(source)

        for size in self.sizes:
            times = in_turns(self.watch, partial(ours, size), reference, self.repeats)
            yield row("text", "per token", size, "ms", 1e3 / TEXT_TOKENS, *times, shared=True)

    def prefill(self) -> Iterator[Timing]:
        """One unit of a picture and a second of sound, decoded pictures and samples in, states out."""

        def reference() -> None:
            self.emulator.restore(self.before)
            self.emulator.prefill(self.sound, self.picture)

        def ours(size: int) -> None:
            self._prefill(self._rewound(size), self.unit)

        for size in self.sizes:
            times = in_turns(self.watch, partial(ours, size), reference, self.repeats)
            yield row("prefill", "per unit", size, "ms", 1e3, *times, shared=True)

    def vocoder(self) -> Iterator[Timing]:
        """A block of codes to its wave. Ours decodes all codes again that the block depends on, the reference four."""
        codes = torch.randint(0, 625, (CODES_PER_BLOCK + self.stream.wave_context, 4))
        reference = partial(self.emulator.wave, codes[: CODES_PER_BLOCK + 4].to(self.loaded.model.device))
        for size in self.sizes:
            ours = partial(self.stream.executor.run, [Render(codes)] * size)
            times = in_turns(self.watch, ours, reference, self.repeats)
            yield row("vocoder", "block of 0.53 s", size, "ms", 1e3, *times, shared=True)

    def sharing(self) -> Iterator[Timing]:
        """Steps of exactly :data:`ROWS` rows, whose results nobody else changes, against one session after the other:
        the gain of several sessions, and the price that one pays for it."""
        executor = Executor(
            self.stream.model, self.stream.vocos, self.stream.pool, sorted(self.stream.executor.stop_ids), rows=ROWS
        )
        sampling = TextSampling(greedy=True)

        def codes(voices: Sequence[Voice]) -> list[Work]:
            return [self._block(voice) for voice in voices]

        def tokens(states: Sequence[SessionState]) -> list[Work]:
            blank = self.stream.blank_seen()
            return [
                Decode(state, (0,), TEXT_TOKENS, sampling, blank.clone(), Noise(0), TEXT_TOKENS) for state in states
            ]

        def shared(make: Callable[[], list[Work]]) -> None:
            executor.run(make())

        def by_turns(make: Callable[[], list[Work]]) -> None:
            for work in make():
                self.stream.executor.run([work])

        for size in sorted({1, min(ROWS, self.sizes[-1])}):
            voices = [self._voice() for _ in range(size)]
            makes = [
                ("codes", CODES_PER_BLOCK, partial(codes, voices)),
                ("tokens", TEXT_TOKENS, partial(tokens, self._rewound(size))),
            ]
            for what, steps, make in makes:
                ours, theirs = in_turns(self.watch, partial(shared, make), partial(by_turns, make), self.repeats)
                yield row("sharing exactly", what, size, "ms", 1e3 / steps / size, ours, theirs)
            for voice in voices:
                self.stream.pool.speech.release(voice.slot)

    # ------------------------------------------------------------------------------------------------ helpers
    def _rewound(self, size: int) -> list[SessionState]:
        """Sessions as they were before anything was measured."""
        for state, mark in zip(self.states[:size], self.marks, strict=False):
            self.stream.pool.truncate(state, mark)
        return self.states[:size]

    def _prefill(self, states: Sequence[SessionState], message: Message) -> None:
        for start in range(0, len(states), UNITS_PER_BATCH):
            group = states[start : start + UNITS_PER_BATCH]
            self._together([self.stream.prefill(state, message) for state in group])

    def _turn(self, state: SessionState, unit: bool, silent: list[float]) -> Generator[Any, Any, None]:
        """An answer up to its first sound, after a last ``unit`` or none; ``silent`` is told the seconds of silence in
        front of it."""
        if unit:
            yield from self.stream.prefill(state, self.unit)
        task = self.stream.generate(state, AnswerOptions(64, 64, speech=ENDLESS), self.pace).task()
        result = None
        try:
            while True:
                item = task.send(result)
                result = None
                if not isinstance(item, SpeechChunk):
                    result = yield item
                elif len(item.wave):
                    silent.append(silence_of(item.wave) / OUTPUT_RATE)
                    return
        finally:
            task.close()

    def _together(self, tasks: Sequence[Generator[Any, Any, Any]]) -> None:
        """Drive tasks to their ends, work of one kind in one batch."""
        waiting: dict[int, Work] = {}
        for index, task in enumerate(tasks):
            self._advance(waiting, index, task, None)
        while waiting:
            kind = type(waiting[min(waiting)])
            members = [index for index, work in waiting.items() if type(work) is kind]
            results = self.stream.executor.run([waiting.pop(index) for index in members])
            for index, result in zip(members, results, strict=True):
                self._advance(waiting, index, tasks[index], result)

    def _advance(self, waiting: dict[int, Work], index: int, task: Generator[Any, Any, Any], result: Any) -> None:
        try:
            item = task.send(result)
            while not isinstance(item, Work):
                item = task.send(None)
            waiting[index] = item
        except StopIteration:
            pass

    def _voice(self) -> Voice:
        """A voice that has read some text and spoken a block."""
        config, weight = self.loaded.config.tts, self.loaded.model.tts.model.norm.weight
        speaker = torch.nn.functional.normalize(torch.ones_like(weight), dim=0)
        codes = torch.empty(0, config.num_vq, dtype=torch.int64)
        voice = Voice(self.stream.pool.speech.allocate(), speaker, codes)
        self.stream.executor.run([Read(voice, 0, (*self.stream.speech_tokens.head, *range(10, 10 + TEXT_BEFORE)))])
        self.stream.executor.run([self._block(voice)])
        return voice

    def _block(self, voice: Voice) -> Speak:
        return Speak(voice, CODES_PER_BLOCK, TEXT_BEFORE, CODES_PER_BLOCK, ENDLESS, Noise(len(voice.codes)))
