"""Cutting a person's turn into units: whole seconds as soon as they are there, and the rest at its end."""

from __future__ import annotations

from copy import copy

import numpy as np
from numpy.typing import NDArray

from engine.client import INPUT_RATE, UNIT_SAMPLES

HISTORY_SAMPLES = 5 * INPUT_RATE
"""Audio that is kept while no turn is open: an interruption is only believed some time after its onset."""

MIN_UNIT_SAMPLES = 1_600
"""Shortest unit, 100 ms: an audio encoder needs a few frames to make a token of."""


class UnitCutter:
    """Collects the microphone and cuts turns out of it. Positions are media time, samples at 16 kHz.

    Only turns are cut: a call listens all the time, and silence that nobody waits to be answered would fill the model's
    context. A turn begins a little before its onset (the pre-roll, for the first consonant) and ends a little after the
    last voiced frame (the hangover): a model that is fed a second of silence last is slower to answer and worse.
    """

    def __init__(self, preroll: int, hangover: int) -> None:
        """Both in samples."""
        self.preroll = preroll
        self.hangover = hangover
        self._line = np.zeros(0, np.int16)
        self._begin = 0
        """Position of the first sample that is kept. In a turn: of the first that is not yet cut."""
        self._floor = 0
        """No turn begins before this: the end of the turn before."""
        self._open = False

    @property
    def end(self) -> int:
        """Position after the newest sample."""
        return self._begin + len(self._line)

    def push(self, samples: NDArray[np.int16]) -> None:
        """Append microphone audio, int16 [n]."""
        self._line = np.concatenate([self._line, samples])
        if not self._open:
            self._forget(self.end - HISTORY_SAMPLES)

    def open(self, onset: int) -> None:
        """Begin a turn at ``onset``, less the pre-roll as far as it is known and in no other turn."""
        self._forget(max(onset - self.preroll, self._floor))
        self._open = True

    def cut(self, last_voiced: int) -> list[NDArray[np.int16]]:
        """The whole units, int16 [16000], that are there and have begun before the hangover of ``last_voiced`` is
        over: a second of nothing but silence waits until speech goes on, so that it can still be trimmed."""
        units = []
        while self._open and len(self._line) >= UNIT_SAMPLES and self._begin < last_voiced + self.hangover:
            units.append(self._take(UNIT_SAMPLES))
        return units

    def close(self, last_voiced: int | None) -> list[NDArray[np.int16]]:
        """End the turn: what is left up to ``last_voiced`` and its hangover, or all of it for None. Whole units and a
        last one of 1,600 to 16,000 samples; none if nothing but the hangover is left."""
        end = self.end if last_voiced is None else min(self.end, last_voiced + self.hangover)
        units = []
        if last_voiced is None or last_voiced > self._begin:
            while end - self._begin >= UNIT_SAMPLES:
                units.append(self._take(UNIT_SAMPLES))
            if end > self._begin and (last_voiced is None or last_voiced > self._begin):
                rest = self._take(max(end - self._begin, MIN_UNIT_SAMPLES))
                units.append(np.pad(rest, (0, max(0, MIN_UNIT_SAMPLES - len(rest)))))
        self._open = False
        self._floor = max(self._floor, self._begin)
        return units

    def tail(self, last_voiced: int) -> list[NDArray[np.int16]]:
        """What :meth:`close` would give once the hangover is over; the turn goes on. What there is not yet of the
        hangover is taken from the silence so far, mirrored: a model that was trained with some silence after a message
        understands less of what ends without it, and need not be kept waiting for it."""
        trial = copy(self)  # arrays are replaced, never changed
        missing, silent = last_voiced + self.hangover - self.end, self.end - last_voiced
        if missing > 0 and 0 < silent <= len(self._line):
            mirrored = np.pad(self._line[-silent:], (0, missing), mode="symmetric")[silent:]
            trial._line = np.concatenate([self._line, mirrored])
        return trial.close(last_voiced)

    def drop(self) -> None:
        """Forget the turn."""
        self._open = False
        self._floor = self.end

    def _take(self, samples: int) -> NDArray[np.int16]:
        taken = self._line[:samples]
        self._line = self._line[samples:]
        self._begin += len(taken)
        return taken

    def _forget(self, before: int) -> None:
        if before > self._begin:
            self._take(before - self._begin)
