"""Whether one more call fits into real time, by what work costs on this machine.

The scheduler tells what every batch held and how long it took. From that follow the cost of a second of listening (a
picture, a second of sound, the prefill of both) and of a second of speech (its text, its codes, its wave), each on the
track that carries it out, and shared as batches are shared now. A call listens most of the time and is spoken to for
some of it; as many calls are let in as such calls fit into a second, with a margin.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from engine.conversation.work import (
    STEP_WORK,
    Decode,
    Feed,
    Hear,
    Listen,
    LookBack,
    ModelPart,
    Read,
    Recall,
    Render,
    See,
    Speak,
    Transcribe,
    Work,
)
from engine.serving.policy import size_of
from engine.serving.tracks import Track

SPOKEN_SHARE = 0.3
"""Of a call's time, in which the model speaks."""
CODES_PER_TOKEN = 11.7
"""Codes of speech to a token of text."""
MARGIN = 0.15
"""Of a second, that stays free: calls are not even, and a batch waits for the one before it."""
HALF_LIFE_S = 5.0
"""What was measured so long ago counts half: costs fall when more calls share their batches, and when steps are
recorded."""
LEAST_FADE = 1e-6
SPEECH = (Speak, Read, Recall, LookBack, Render)


class CallCosts:
    """The cost of a call, measured: a scheduler's ``measure``."""

    def __init__(
        self, tracks: Mapping[ModelPart, Track], codes_per_s: float, clock: Callable[[], float], rows: int = 1
    ) -> None:
        """A second of speech has ``codes_per_s`` codes; ``clock`` gives seconds. Where steps of text and speech are
        passes of just so many ``rows``, one costs the same for all who share it."""
        self._tracks, self._codes_per_s, self._clock, self._rows = tracks, codes_per_s, clock, rows
        self._lock = threading.Lock()
        self._last: dict[type, float] = {}
        self._codes = 0.0
        self._seconds: dict[type, float] = {}
        self._amounts: dict[type, float] = {}

    def __call__(self, works: Sequence[Work], seconds: float) -> None:
        """A batch of ``works`` took so many seconds. Called by any track's thread."""
        with self._lock:
            self._add(works, seconds)

    def _add(self, works: Sequence[Work], seconds: float) -> None:
        kind, now = type(works[0]), self._clock()
        # What makes speech comes together, and fades together. What does not come keeps its cost.
        together = SPEECH if kind in SPEECH else (kind,)
        fade = max(LEAST_FADE, 0.5 ** ((now - self._last.get(together[0], now)) / HALF_LIFE_S))
        self._last[together[0]] = now
        for sums in (self._seconds, self._amounts):
            for known in together:
                sums[known] = fade * sums.get(known, 0.0)
        # Of steps that cost the same for several, as if each were shared by all.
        alike = self._rows / len(works) if kind in STEP_WORK and self._rows > 1 else 1.0
        amount = sum(map(_amount, works))
        self._seconds[kind] += seconds
        self._amounts[kind] += alike * amount
        if together is SPEECH:
            self._codes = fade * self._codes + (amount if kind is Speak else 0)

    def share(self, calls: int) -> float:
        """Of a track's time that one of so many ``calls`` takes, on the track of which it takes most; 0 while nothing
        was measured."""
        with self._lock:
            return self._share(calls)

    def _share(self, calls: int) -> float:
        ears = Listen if Listen in self._amounts else Hear
        listening, speaking = 1 - SPOKEN_SHARE, SPOKEN_SHARE * self._codes_per_s
        # How many times what all rows would share costs where fewer speak at a time.
        apart = self._rows / min(self._rows, max(1.0, SPOKEN_SHARE * calls))
        text = apart * self._mean(Decode) / CODES_PER_TOKEN
        parts = {
            ModelPart.SENSES: listening * sum(map(self._mean, (See, ears, Transcribe))),
            ModelPart.LANGUAGE: listening * self._mean(Feed) + speaking * text,
            ModelPart.SPEECH: speaking * (apart * self._mean(Speak) + self._per_code(Read, Recall, LookBack)),
            ModelPart.WAVE: speaking * self._per_code(Render),
        }
        busy: dict[Track, float] = {}
        for part, share in parts.items():
            busy[self._tracks[part]] = busy.get(self._tracks[part], 0.0) + share
        return max(busy.values())

    def admits(self, calls: int) -> bool:
        """Whether one more than so many ``calls`` fits. The first one always does: a machine that is too slow for it
        cannot be told otherwise."""
        return calls == 0 or (calls + 1) * self.share(calls + 1) <= 1 - MARGIN

    def _mean(self, kind: type) -> float:
        """Seconds of one piece of a kind, in the measure of :func:`_amount`; 0 where none was measured."""
        amount = self._amounts.get(kind, 0.0)
        return self._seconds[kind] / amount if amount else 0.0

    def _per_code(self, *kinds: type) -> float:
        """Seconds of what comes along with codes, for each of them."""
        return sum(self._seconds.get(kind, 0.0) for kind in kinds) / self._codes if self._codes else 0.0


def _amount(work: Work) -> float:
    """How much of its kind a piece is: steps of text and of speech, else the size that the policy counts."""
    return work.steps if isinstance(work, (Decode, Speak)) else size_of(work)
