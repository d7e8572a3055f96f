"""What the model remembers of one call, as a value that can be marked, cut back, forked and dropped.

Positions count all tokens that a session was ever fed and never change; the key/value window may have let go of some,
so that a position and its place in the cache are two numbers. Spans say what each range of positions is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from engine.conversation.overheard import Overheard
from engine.conversation.pace import Pace
from engine.conversation.reading import Reading
from engine.conversation.sampling import Noise
from engine.conversation.sight import Sight
from engine.conversation.storage import HEARINGS, Capacities, whole_pages
from engine.errors import ModelError
from engine.model.kv import KVArena, KVFullError
from engine.model.omni import OmniModel
from engine.model.vision_language import VisionLanguageModel
from engine.processing.tokens import Bounds, TokenRow

Kind = Literal["prompt", "open", "text", "image", "audio", "answer", "close"]
"""What a span is: the system prompt; tokens that open a turn; typed text and unit marks; a picture's tokens with its
borders; a sound's with its borders; the model's answer; tokens that close a turn."""


class SessionError(ModelError):
    """A request that this session cannot carry out."""


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens ``start`` to ``end - 1`` (positions) of one unit of one turn."""

    kind: Kind
    turn: int
    unit: int
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Bookkeeping:
    """Where the conversation stands: decides what the next unit's header is."""

    first: bool = True
    """Nothing was fed yet: the next message is the system prompt."""
    opens_turn: bool = True
    """The next user unit begins a turn."""
    answered: bool = False
    completed: bool = False
    """The last answer came to its own end."""
    turn: int = 0
    unit: int = 0


@dataclass(frozen=True, slots=True)
class Hearing:
    """A state of the audio encoder's cache: ``length`` frames of 20 ms since the reset number ``resets``."""

    resets: int = 0
    length: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """A point that a session can be cut back to."""

    position: int
    book: Bookkeeping
    hearing: Hearing
    noise: Noise
    reading: Reading
    sight: Sight
    overheard: Overheard


@dataclass(slots=True)
class SessionState:
    """One call's memory. The tensors lie in the pool's storages; this says which part of them counts."""

    slot: int
    audio_slot: int
    noise: Noise
    book: Bookkeeping = field(default_factory=Bookkeeping)
    hearing: Hearing = field(default_factory=Hearing)
    reading: Reading = field(default_factory=Reading)
    sight: Sight = field(default_factory=Sight)
    overheard: Overheard = field(default_factory=Overheard)
    """Of the message that goes on, where a model that does not read is overheard."""
    length: int = 0
    """Tokens in the language model's cache."""
    dropped: int = 0
    """Tokens that the key/value window let go of."""
    spans: list[Span] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)
    """Of the voice that answers, as far as it was heard."""
    voice: Tensor | None = None
    """A stored voice [tts hidden] that answers; None: the voice of the language model's state."""
    resets: int = 0
    past_hearing: dict[int, list[Tensor]] = field(default_factory=dict)
    """Caches of the audio encoder from before its latest resets, for marks that lie there."""
    left_hearing: Hearing | None = None
    """The latest of them while its frames still lie in the slot, and need no copy: until something new is heard."""

    @property
    def position(self) -> int:
        """Tokens fed so far."""
        return self.length + self.dropped

    def mark(self) -> Mark:
        return Mark(self.position, self.book, self.hearing, self.noise, self.reading, self.sight, self.overheard)

    def place(self, position: int) -> int:
        """Place in the cache of what was fed at ``position``, or of what follows if that was dropped."""
        return sum(min(span.end, position) - span.start for span in self.spans if span.start < position)

    def note(self, kind: Kind, tokens: int) -> None:
        """Record ``tokens`` just fed as a span of the present turn and unit, or as more of the last span."""
        start = self.position
        book, last = self.book, self.spans[-1] if self.spans else None
        self.length += tokens
        if last and (last.kind, last.turn, last.unit, last.end) == (kind, book.turn, book.unit, start):
            self.spans[-1] = replace(last, end=start + tokens)
        elif tokens:
            self.spans.append(Span(kind, book.turn, book.unit, start, start + tokens))


def _cut(spans: Sequence[Span], position: int) -> list[Span]:
    return [replace(span, end=min(span.end, position)) for span in spans if span.start < position]


def kinds_of(row: TokenRow, closing: int, opening: int, *, prompt: bool) -> tuple[tuple[Kind, int], ...]:
    """Runs of (kind, number) over a row: header, then pictures and sounds with their borders, text between them."""
    if prompt:
        return (("prompt", len(row)),)
    kinds: list[Kind] = ["text"] * len(row)
    kinds[:closing] = ["close"] * closing
    kinds[closing : closing + opening] = ["open"] * opening
    media: tuple[tuple[Kind, Bounds], ...] = (("image", row.image_bounds), ("audio", row.audio_bounds))
    for kind, bounds in media:
        for first, last in bounds.tolist():
            kinds[first - 1 : last + 1] = [kind] * (last - first + 2)
    return runs_of(kinds)


def runs_of(kinds: Iterable[Kind]) -> tuple[tuple[Kind, int], ...]:
    """Kinds of tokens, one by one, as runs of (kind, number)."""
    return tuple((kind, len(list(run))) for kind, run in groupby(kinds))


class SessionPool:
    """The storages of all sessions that share one model.

    ``sessions`` bounds how many are open at once (forks included), ``context`` the tokens of one of them. On the CPU
    the storages start small and grow; elsewhere they are made at full size, as growing takes room for both sizes.
    """

    kept_resets = HEARINGS
    """Resets of the audio cache that marks can reach back over: a full cache's, and an answer's after it."""

    def __init__(self, model: VisionLanguageModel, *, sessions: int = 1, context: int | None = None) -> None:
        config = model.config
        context = min(context or config.llm.max_positions, config.llm.max_positions)
        grows = model.device.type == "cpu"
        self.sessions = sessions
        self.context = context

        def limits(full: int, small: int) -> dict[str, int]:
            start = {"slots": 1, "capacity": min(small, full)} if grows else {"slots": sessions, "capacity": full}
            return {**start, "max_slots": sessions, "max_capacity": full}

        self.llm = model.llm.model.arena(**limits(context if grows else whole_pages(context), 1024))
        if not isinstance(model, OmniModel):  # of nothing, for sounds that nobody hears or speaks
            self.speech, self.audio = (KVArena(1, 1, 1, capacity=1, max_slots=sessions) for _ in range(2))
            return
        audio, room = model.config.audio, Capacities.of(model.config, context)
        self.speech = model.tts.model.arena(**limits(room.speech, 512))
        weight = model.apm.layer_norm.weight
        self.audio = KVArena(
            audio.num_layers,
            audio.num_heads,
            audio.head_dim,
            device=weight.device,
            dtype=weight.dtype,
            **limits(room.audio, 256),
        )

    def open(self, seed: int = 0) -> SessionState:
        """An empty session. Raises :class:`SessionError` when all are taken."""
        try:
            slot = self.llm.allocate()
            try:
                return SessionState(slot, self.audio.allocate(), Noise(seed))
            except BaseException:
                self.llm.release(slot)
                raise
        except KVFullError as error:
            raise SessionError(str(error)) from error

    def drop(self, state: SessionState) -> None:
        """Forget a session and free its place."""
        self.llm.release(state.slot)
        self.audio.release(state.audio_slot)

    @torch.inference_mode()
    def fork(self, state: SessionState) -> SessionState:
        """A second session with the same memory, independent from here on."""
        self.keep_hearing(state)
        twin = self.open()
        self.llm.copy(state.slot, twin.slot, state.length)
        self.audio.copy(state.audio_slot, twin.audio_slot, state.hearing.length)
        return replace(
            state,
            slot=twin.slot,
            audio_slot=twin.audio_slot,
            spans=list(state.spans),
            voice=state.voice,
            past_hearing=dict(state.past_hearing),
        )

    @torch.inference_mode()
    def truncate(self, state: SessionState, mark: Mark) -> None:
        """Cut a session back to a mark, as if nothing had been fed since.

        What the key/value window dropped meanwhile stays dropped. Raises :class:`SessionError` for a mark ahead of the
        session, or one from before the audio cache's second last reset.
        """
        if mark.position > state.position:
            raise SessionError(f"the mark is at token {mark.position}, the session has only {state.position}")
        heard = mark.hearing
        if heard.length and heard.resets != state.hearing.resets:
            if state.left_hearing is not None and state.left_hearing.resets == heard.resets:
                state.left_hearing = None
            elif heard.resets in state.past_hearing:
                self.keep_hearing(state)
                saved = state.past_hearing[heard.resets]
                self.audio.restore(state.audio_slot, [part[:, : heard.length] for part in saved])
            else:
                raise SessionError("the mark is older than the audio cache that is kept; cut at a later one")
        length = state.place(mark.position)
        state.spans = _cut(state.spans, mark.position)
        state.dropped = mark.position - length
        state.length, state.book, state.hearing, state.noise = length, mark.book, heard, mark.noise
        state.reading, state.sight, state.overheard = mark.reading, mark.sight, mark.overheard

    @torch.inference_mode()
    def reset_hearing(self, state: SessionState) -> None:
        """Let the audio encoder forget what it heard, and with it what was read and is not certain."""
        state.reading = state.reading.deaf()
        if not state.hearing.length:
            return
        self.keep_hearing(state)
        state.left_hearing = state.hearing
        while len(state.past_hearing) >= self.kept_resets:
            del state.past_hearing[next(iter(state.past_hearing))]
        state.resets += 1
        state.hearing = Hearing(state.resets)

    @torch.inference_mode()
    def keep_hearing(self, state: SessionState) -> None:
        """Copy what the slot holds from before the last reset, for marks that lie there: to be called before frames are
        written over it. An answer, which resets the encoder, does not wait for a copy of 147 MB this way."""
        if (past := state.left_hearing) is not None:
            state.past_hearing[past.resets] = self.audio.save(state.audio_slot, past.length)
            state.left_hearing = None
