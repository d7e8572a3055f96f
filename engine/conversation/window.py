"""The key/value window: a call that outgrows the context lets go of its oldest parts, and its memory stays flat.

The system prompt, with the voice in it, always stays: it is the sink that attention rests on (StreamingLLM, arXiv
2309.17453). Pictures go first, the oldest before the newer, then whole units, and a turn's opening and closing once
nothing of it is left. What stays moves together; its keys are rotated to their new positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.conversation.session import SessionState, Span
from engine.model.decoder import rotary, rotate
from engine.model.kv import KVArena
from engine.model.transfer import upload

HIGH, LOW = 8_000, 6_000
"""Marks in tokens; training went up to 8,192."""


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """Tokens at which a session is cut (``high``) and to which (``low``)."""

    high: int = HIGH
    low: int = LOW
    keep_units: int = 2
    """The newest units, which go only where what comes would not fit otherwise."""

    @classmethod
    def within(cls, context: int) -> WindowOptions:
        """Marks that leave room for a unit and an answer in a storage of ``context`` tokens."""
        high = min(HIGH, context - min(1_024, context // 4))
        return cls(high, high * 3 // 4)

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError(f"the window goes from {self.high} tokens to {self.low}; let 0 < low < high")


@dataclass(frozen=True, slots=True)
class Dropped:
    """Tokens that the window let go of."""

    images: int = 0
    others: int = 0

    @property
    def tokens(self) -> int:
        return self.images + self.others


class KVWindow:
    """Keeps sessions of one storage below the high-water mark."""

    def __init__(self, arena: KVArena, head_dim: int, rope_theta: float, options: WindowOptions) -> None:
        self.arena, self.head_dim, self.rope_theta, self.options = arena, head_dim, rope_theta, options

    @torch.inference_mode()
    def shrink(self, state: SessionState, coming: int = 0) -> Dropped:
        """Make room for ``coming`` tokens if they would take the session beyond the high-water mark."""
        if state.length + coming <= self.options.high:
            return Dropped()
        gone = self._choose(state, state.length + coming)
        kept = [span not in gone for span in state.spans]
        self._compact(state, kept)
        state.spans = [span for span, stays in zip(state.spans, kept, strict=True) if stays]
        images = sum(len(span) for span in gone if span.kind == "image")
        total = sum(map(len, gone))
        state.length -= total
        state.dropped += total
        return Dropped(images, total - images)

    def _choose(self, state: SessionState, tokens: int) -> set[Span]:
        """Spans to let go of, so that of ``tokens`` no more than the low-water mark is left, if the newest units allow
        it; they themselves go where even the high-water mark cannot be kept."""
        gone: set[Span] = set()
        for keep_units, mark in ((self.options.keep_units, self.options.low), (0, self.options.high)):
            for group in self._oldest_first(state, keep_units):
                if tokens <= mark:
                    break
                tokens -= sum(len(span) for span in group if span not in gone)
                gone.update(group)
        return gone

    def _oldest_first(self, state: SessionState, keep_units: int) -> Iterator[list[Span]]:
        """Spans in the order in which they may go, as groups that go together."""
        newest = state.spans[-1].unit if state.spans else 0
        free = [s for s in state.spans if s.kind != "prompt" and s.unit <= newest - keep_units]
        yield from ([span] for span in free if span.kind == "image")
        held = {span.turn for span in state.spans if span not in free}
        for turn in dict.fromkeys(span.turn for span in free):
            parts = [span for span in free if span.turn == turn and span.kind != "image"]
            frame = [span for span in parts if span.kind in ("open", "close") and turn not in held]
            content = [span for span in parts if span.kind not in ("open", "close")]
            units = list(dict.fromkeys(span.unit for span in content))
            for unit in units[:-1]:
                yield [span for span in content if span.unit == unit]
            yield [span for span in content if span.unit == units[-1]] + frame if units else frame

    def _compact(self, state: SessionState, kept: list[bool]) -> None:
        """Move what stays to the front, its keys turned back by the distance they move."""
        rows: list[int] = []
        start = 0
        for span, stays in zip(state.spans, kept, strict=True):
            if stays:
                rows.extend(range(start, start + len(span)))
            start += len(span)
        first = next((place for place, row in enumerate(rows) if place != row), len(rows))
        if first == len(rows):
            return
        old = upload(torch.tensor(rows[first:]), self.arena.device)
        new = torch.arange(first, len(rows), device=self.arena.device)
        cos, sin = rotary(new - old, self.head_dim, self.rope_theta)
        for keys, values in zip(self.arena.keys, self.arena.values, strict=True):
            moved: Tensor = rotate(keys[state.slot, :, old].float(), cos, sin)
            keys[state.slot, :, first : len(rows)] = moved.to(keys.dtype)
            values[state.slot, :, first : len(rows)] = values[state.slot, :, old]
