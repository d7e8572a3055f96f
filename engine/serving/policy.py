"""Which pieces of work are carried out next: a pure function of what waits, and of when each piece is due.

Every piece has a deadline on the scheduler's clock: the end of the next unit for one that was said, the moment the
caller's playout runs dry (less what the making takes) for an answer that is heard, the moment it was asked for where
nothing is heard yet (:meth:`engine.serving.scheduler.Job.due`). The piece that is due first goes first, and whatever
can share its batch goes with it. Nothing starves: what comes later is due later, so that a piece that waits becomes the
first one.

How long a piece keeps others waiting is bounded by what a batch may hold (:class:`Limits`) and by
:data:`engine.conversation.work.FEED_TOKENS`, the most that is fed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.conversation.work import FEED_TOKENS, STEP_WORK, Feed, HearClips, ModelPart, See, Work, batch_key

UNIT_DUE_S = 1.0
"""A unit is due when the next one is complete."""

MARGIN_S = 0.3
"""So long before a caller's playout runs dry its next piece is due: a block of codes and its wave, among others'. Half
of it let one playout in 120 run dry for a moment where 96 calls on an H200 were simulated, and this none."""

BACKGROUND_DUE_S = 5.0
"""Work that no call waits for is due so long after it was ready: it is done in time that calls leave, and where they
leave none, a piece of it every five seconds."""

UNITS_PER_BATCH = 4
"""Four units share one reading of the weights on a large GPU; more take longer in proportion, and others wait."""

ANSWERS_PER_BATCH = 64
UNIT_TOKENS = FEED_TOKENS // UNITS_PER_BATCH
"""A second of sound with a picture."""


def is_of_unit(work: Work) -> bool:
    """Whether this is what a unit's prefill is made of: heavy pieces, of which few share a batch, so that no answer
    waits for long."""
    return work.part is ModelPart.SENSES or isinstance(work, Feed)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A piece of work that is ready, with its deadline and the time since which it has waited (seconds)."""

    work: Work
    due: float
    since: float


@dataclass(frozen=True, slots=True)
class Limits:
    """How much shares a batch: pictures and units of :data:`UNIT_TOKENS`, sessions in steps of text or speech, and
    sessions in all else."""

    units: int = UNITS_PER_BATCH
    steps: int = ANSWERS_PER_BATCH
    answers: int = ANSWERS_PER_BATCH

    def most(self, work: Work) -> int:
        """How much a batch of the kind of ``work`` holds, in the measure of :func:`size_of`."""
        if is_of_unit(work):
            return self.units
        return self.steps if isinstance(work, STEP_WORK) else self.answers


def size_of(work: Work) -> int:
    """How much of a batch a piece takes."""
    match work:
        case See():
            return len(work.image.sizes)
        case HearClips():
            return len(work.mels)
        case Feed():
            return -(-len(work.embeds) // UNIT_TOKENS)
        case _:
            return 1


class Policy(Protocol):
    def choose(self, waiting: Sequence[Waiting]) -> list[int]:
        """Indices of the pieces that are to be carried out together now; none to wait for what else comes."""
        ...


class ByDeadline:
    """The piece that is due first, together with those like it, in the order in which they are due."""

    def __init__(self, limits: Limits | None = None, *, key: Callable[[Work], object] = batch_key) -> None:
        """Work with equal keys can share a batch."""
        self.limits, self._key = limits or Limits(), key

    def choose(self, waiting: Sequence[Waiting]) -> list[int]:
        order = sorted(range(len(waiting)), key=lambda index: (waiting[index].due, waiting[index].since))
        first = waiting[order[0]].work
        # Nothing but what is carried out in one go: a batch that fails must leave no part of itself done.
        key, room = self._key(first), self.limits.most(first)
        chosen: list[int] = []
        for index in order:
            work = waiting[index].work
            if self._key(work) != key:
                continue
            room -= size_of(work)
            if chosen and room < 0:
                break
            chosen.append(index)
        return chosen
