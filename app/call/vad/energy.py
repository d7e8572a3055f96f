"""A gate for sounds that stand out from the noise and move as speech does."""

from __future__ import annotations

from collections import deque

from app.call.config import VadConfig
from app.call.vad.detector import SILENCE_DBFS

FRAMES_PER_S = 50
SMOOTHING_FRAMES = 4
STEADY_FRAMES = 8
"""Stretch, 160 ms, in which the level of speech moves: syllables follow each other at 3 to 8 Hz."""

HOLD_FRAMES = 25
HOLD_SHARE = 0.4
"""For 500 ms after a sound that passed the gate, the next one needs only this share of the margin, and need not move:
syllables of one sentence differ in both."""


class NoiseFloor:
    """The quietest moment of the last seconds (minimum statistics, R. Martin 2001, on levels in place of spectra)."""

    def __init__(self, window_s: float) -> None:
        self._size = max(1, round(window_s * FRAMES_PER_S))
        self._recent: deque[float] = deque(maxlen=SMOOTHING_FRAMES)
        self._count = 0
        # Candidates (frame, level): rising levels, so that the first is the minimum of the window. It begins with
        # silence, since nothing is known yet and the first word of a call must not pass for the noise.
        self._minima: deque[tuple[int, float]] = deque([(0, SILENCE_DBFS)])

    def push(self, level: float) -> float:
        """Take in one frame's level, dBFS; the floor before it, dBFS."""
        floor = self._minima[0][1]
        self._recent.append(level)
        smooth = sum(self._recent) / len(self._recent)
        self._count += 1
        while self._minima and self._minima[-1][1] >= smooth:
            self._minima.pop()
        self._minima.append((self._count, smooth))
        if self._minima[0][0] <= self._count - self._size:
            self._minima.popleft()
        return floor


class EnergyGate:
    """Open for frames that are loud enough, above the noise floor, and part of a sound whose level moves.

    The last condition keeps a fan or a hum out that starts during a call, until the floor has risen to it.
    """

    def __init__(self, config: VadConfig) -> None:
        self._config = config
        self._floor = NoiseFloor(config.energy_window_s)
        self._run: deque[float] = deque(maxlen=STEADY_FRAMES)
        self._run_length = 0
        self._hold = 0

    def push(self, level: float) -> bool:
        """Whether a frame of ``level`` (dBFS) may be speech."""
        config = self._config
        margin = config.energy_margin_db * (HOLD_SHARE if self._hold else 1.0)
        if level < max(config.energy_min_dbfs, self._floor.push(level) + margin):
            self._run.clear()
            self._run_length, self._hold = 0, max(0, self._hold - 1)
            return False
        self._run_length += 1
        if self._run_length > 1:  # the frame in which a sound begins is only partly filled by it
            self._run.append(level)
            if self._hold or max(self._run) - min(self._run) >= config.energy_steady_db:
                self._hold = HOLD_FRAMES
        return self._hold > 0
