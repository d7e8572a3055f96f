"""Blocks of steps over rows that stay where they are: every block fills the rows with its sessions, launches so many
steps, and reads once what was drawn.

The number of rows is a power of two, and so is that of the keys that are looked at: a few sizes, each of which can be
recorded. Rows that no session has are computed, too, and change nothing. Sessions may come and go between blocks, and
one that wants fewer steps than the others shares their block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from engine.conversation.captured import GraphRecorder, Key
from engine.conversation.sampling import SpeechSampling, TextSampling
from engine.conversation.speech_steps import SpeechRows, draw_codes
from engine.conversation.text_steps import TextRows, draw_text
from engine.conversation.work import Decode, Speak
from engine.model.kv import KVArena, Sight, causal
from engine.model.kv_steps import KVSteps, reads_pages
from engine.model.omni import OmniModel
from engine.model.transfer import download, upload
from engine.model.tts import CodeTables
from engine.model.vision_language import VisionLanguageModel

LEAST_SPAN = 256
SPAN_GRAIN = 64
LEAST_STEPS = 32


def power_of_two(count: int, most: int) -> int:
    """The smallest power of two that holds ``count``, or ``most``."""
    return min(1 << (count - 1).bit_length(), most)


@dataclass(frozen=True, slots=True)
class Rows:
    """What a block has of the static tensors."""

    count: int
    span: int
    places: list[int]
    """The row of each session."""


class StepRows:
    """The places of the rows of one storage: which slot a row has, and where its token goes."""

    def __init__(self, arena: KVArena, *, paged: bool) -> None:
        self.arena, self.paged = arena, paged
        self.places = KVSteps.make(arena, arena.max_slots, paged=self.paged)
        self._caches: dict[tuple[int, int], KVSteps] = {}

    def choose(self, slots: Sequence[int], ends: Sequence[int]) -> Rows:
        """Rows for sessions in ``slots`` whose sequences will be as long as ``ends``. Raises KVFullError."""
        arena = self.arena
        arena.reserve(max(ends))
        places = list(range(len(slots))) if self.paged else list(slots)
        count = power_of_two(max(places) + 1, arena.slots)
        span = arena.capacity if self.paged else self._span(max(*ends, LEAST_SPAN))
        return Rows(count, span, places)

    def _span(self, end: int) -> int:
        """Keys that are looked at for ``end`` of them: few sizes for recordings, and few keys where there are none."""
        if self.arena.device.type == "cpu":
            return min(-(-end // SPAN_GRAIN) * SPAN_GRAIN, self.arena.capacity)
        return power_of_two(end, self.arena.capacity)

    @property
    def sizes(self) -> list[int]:
        """The numbers of rows that blocks have."""
        return sorted({power_of_two(count, self.arena.slots) for count in range(1, self.arena.slots + 1)})

    def cache(self, count: int, span: int, sight: Sight = causal) -> KVSteps:
        """The layout of steps of so many rows and keys: always the same tensors. The first ``sight`` stays."""
        if (count, span) not in self._caches:
            self._caches[count, span] = self.places.narrowed(count, span, sight)
        return self._caches[count, span]

    def settle(self, rows: Rows, slots: Sequence[int], starts: Sequence[int], *numbers: Sequence[int]) -> Tensor:
        """Put the sessions into their rows, before their next token at ``starts``. Returns ``numbers`` on the device,
        int64 [len(numbers), rows]: zeros where no session is."""
        table = torch.zeros(2 + len(numbers), rows.count, dtype=torch.int64)
        table[0] = torch.arange(rows.count) * (not self.paged)
        table[1] = self.arena.capacity
        table[:, rows.places] = torch.tensor([slots, [start - 1 for start in starts], *numbers])
        table = upload(table, self.arena.device)
        self.places.settle(table[0], table[1])
        return table[2:]

    def idle(self) -> None:
        self.places.places.fill_(self.arena.capacity)


S = TypeVar("S", TextSampling, SpeechSampling)


class Blocks(ABC, Generic[S]):
    """Blocks of one kind of step, recorded where there is a recorder for it."""

    kind: ClassVar[str]
    recorder: GraphRecorder
    steps: StepRows
    rows: TextRows | SpeechRows

    @abstractmethod
    def _step(self, count: int, span: int, sampling: S) -> Callable[[], None]:
        """A step of so many rows and keys, always on the same tensors."""

    def _known(self, count: int, span: int, sampling: S) -> tuple[Key, Callable[[], None]]:
        """The same by its name. Whatever the number of sessions will be, it is recorded from the first time on."""
        if self.recorder.news(self.kind, span, sampling):
            for size in self.steps.sizes:
                self.recorder.expect((self.kind, size, span, sampling), self._step(size, span, sampling), self.idle)
        return (self.kind, count, span, sampling), self._step(count, span, sampling)

    def idle(self) -> None:
        """Nobody has a row."""
        self.steps.idle()
        self.rows.alive.fill_(False)
        self.rows.step.zero_()


class TextBlocks(Blocks[TextSampling]):
    """Blocks of text tokens."""

    kind = "text"
    rows: TextRows

    def __init__(
        self, model: VisionLanguageModel, arena: KVArena, stops: Tensor, recorder: GraphRecorder, *, paged: bool | None
    ) -> None:
        """``stops`` int64 [N] on the device; ``paged``: None tries out whether the device has the kernel for it."""
        self.model, self.stops, self.recorder = model, stops, recorder
        self.arena, self.paged = arena, reads_pages(arena, model.config.llm.num_heads) if paged is None else paged
        self._widen(LEAST_STEPS)

    def _widen(self, steps: int) -> None:
        """Make the static tensors, for blocks of so many steps."""
        model, arena = self.model, self.arena
        self.steps = StepRows(arena, paged=self.paged)
        self.rows = TextRows.make(arena.max_slots, steps, model.config.llm.vocab_size, model.device)
        self.states = torch.zeros(arena.max_slots, model.config.llm.hidden_size, device=model.device, dtype=model.dtype)
        self.recorder.forget()

    def run(self, works: Sequence[Decode], starts: Sequence[int]) -> tuple[list[list[int]], list[Tensor]]:
        """Feed the last id of each of ``works`` at its place of ``starts`` and draw what comes after it, and so on.

        Returns the rows of :meth:`TextRows.results`, and the states [hidden] after the id that was fed first.
        """
        steps, sampling = max(work.steps for work in works), works[0].sampling
        if steps > self.rows.uniform.shape[1] or self.arena.max_slots > len(self.rows.ids):
            self._widen(power_of_two(max(steps, LEAST_STEPS), 1 << 30))
        slots, limits = [work.state.slot for work in works], [work.steps for work in works]
        chosen = self.steps.choose(slots, [start + limit for start, limit in zip(starts, limits, strict=True)])
        rows = self.rows.narrowed(chosen.count)
        ids, least = [work.ids[-1] for work in works], [work.min_new for work in works]
        numbers = self.steps.settle(chosen, slots, starts, ids, limits, least)
        for target, values in zip((rows.ids, rows.limit, rows.least), numbers, strict=True):
            target.copy_(values)
        torch.gt(rows.limit, 0, out=rows.alive)
        rows.sound.fill_(True)
        rows.step.zero_()
        own = [rows.seen[place] for place in chosen.places]
        torch._foreach_copy_(own, [work.seen for work in works])
        if not sampling.greedy:
            fill_uniform(rows.uniform, chosen.places, [work.noise.draw(work.steps)[0] for work in works])
        key, step = self._known(chosen.count, chosen.span, sampling)
        self.recorder.run(key, step)
        first = self.states[: chosen.count].clone()
        launch(self.recorder, key, step, steps - 1, rows.alive)
        results = download(rows.results()).tolist()
        results = [results[place] for place in chosen.places]
        if all(row[0] for row in results):  # else all of it is done again
            torch._foreach_copy_([work.seen for work in works], own)
        return results, [first[place] for place in chosen.places]

    def _step(self, count: int, span: int, sampling: TextSampling) -> Callable[[], None]:
        rows, cache, states = self.rows.narrowed(count), self.steps.cache(count, span), self.states[:count]
        return partial(text_step, self.model, rows, cache, states, self.stops, sampling)


def text_step(
    model: VisionLanguageModel, rows: TextRows, cache: KVSteps, states: Tensor, stops: Tensor, sampling: TextSampling
) -> None:
    """One step of text: feed what was drawn last, draw what comes next. ``states`` [rows, hidden] are written."""
    llm = model.llm
    states.copy_(llm(llm.embed(rows.ids)[:, None], cache=cache.advance())[:, 0])
    draw_text(llm.scores(states), rows, stops, sampling)


class SpeechBlocks(Blocks[SpeechSampling]):
    """Blocks of audio codes."""

    kind = "speech"
    rows: SpeechRows

    def __init__(self, model: OmniModel, arena: KVArena, tables: CodeTables, recorder: GraphRecorder) -> None:
        self.model, self.tables, self.recorder = model, tables, recorder
        # What a code sees has a gap behind the text, which the paged kernel does not know of. Few sessions speak at
        # once, and their slots are the lowest.
        self.arena = arena
        self._widen(LEAST_STEPS, 1)

    def _widen(self, steps: int, window: int) -> None:
        """Make the static tensors, for blocks of so many steps that look back at so many codes."""
        config, like = self.model.config.tts, self.model.tts.model.norm.weight
        self.steps = StepRows(self.arena, paged=False)
        self.rows = SpeechRows.make(self.arena.max_slots, steps, window, config.num_vq, like)
        self.recorder.forget()

    def run(self, works: Sequence[Speak], history: Tensor) -> list[Tensor]:
        """Draw codes for each of ``works``; ``history`` int64 [works, window, num_vq] on the CPU are its last ones,
        negative where there are none. Returns the rows of :meth:`SpeechRows.results`."""
        tts, sampling, steps = self.model.tts, works[0].sampling, max(work.steps for work in works)
        if steps > self.rows.uniform.shape[1] or history.shape[1] != self.rows.history.shape[2]:
            self._widen(power_of_two(max(steps, LEAST_STEPS), 1 << 30), history.shape[1])
        before, limits = [len(work.voice.codes) for work in works], [work.steps for work in works]
        slots, starts = [work.voice.slot for work in works], [tts.config.condition_length - 1 + n for n in before]
        chosen = self.steps.choose(slots, [start + limit for start, limit in zip(starts, limits, strict=True)])
        rows = self.rows.narrowed(chosen.count)
        begun, guards = [int(count > 0) for count in before], [work.guard for work in works]
        known = [work.text_length for work in works]
        numbers = self.steps.settle(chosen, slots, starts, begun, guards, limits, known)
        for target, values in zip((rows.begun, rows.guard, rows.limit, rows.text_length), numbers, strict=True):
            target.copy_(values)
        torch.gt(rows.limit, 0, out=rows.alive)
        rows.sound.fill_(True)
        rows.step.zero_()
        past = torch.full((chosen.count, *history.shape[1:]), -1)
        past[chosen.places] = history
        rows.history.copy_(upload(past, self.model.device).transpose(1, 2))
        rows.embeds.copy_(tts.embed_codes(rows.history[:, None, :, -1])[:, 0])
        if not sampling.greedy:
            shape = tts.config.num_vq
            fill_uniform(rows.uniform, chosen.places, [work.noise.draw(work.steps, shape)[0] for work in works])
        launch(self.recorder, *self._known(chosen.count, chosen.span, sampling), steps, rows.alive)
        return list(download(rows.results())[chosen.places])

    def _step(self, count: int, span: int, sampling: SpeechSampling) -> Callable[[], None]:
        rows = self.rows.narrowed(count)
        cache = self.steps.cache(count, span, self.model.tts.sight(rows.text_length))
        return partial(speech_step, self.model, rows, cache, self.tables, sampling)


def speech_step(
    model: OmniModel, rows: SpeechRows, cache: KVSteps, tables: CodeTables, sampling: SpeechSampling
) -> None:
    """One step of speech: feed the codes drawn last, draw the next ones."""
    logits = model.tts.step(rows.embeds[:, None], cache.advance(), tables)
    draw_codes(logits, rows, tables, model.config.tts.audio_eos_id, sampling)


def launch(recorder: GraphRecorder, key: Key, step: Callable[[], None], count: int, alive: Tensor) -> None:
    """``count`` steps; on a CPU, which need not be asked in advance, no more than count for any row."""
    if alive.device.type != "cpu":
        recorder.run(key, step, count)
        return
    for _ in range(count):
        if not alive.any():
            break
        recorder.run(key, step)


def fill_uniform(target: Tensor, places: Sequence[int], numbers: Sequence[Tensor]) -> None:
    """Put ``numbers`` float32 [steps, ...] of each session into its row of ``target`` [rows, most steps, ...]."""
    table = torch.zeros(target.shape)
    for place, drawn in zip(places, numbers, strict=True):
        table[place, : len(drawn)] = drawn
    target.copy_(upload(table, target.device))
