"""Where speech is voiced: what a voice detector can hear of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.client import INPUT_RATE
from tests.ears.corpus import Wave

WINDOW, HOP = INPUT_RATE // 25, INPUT_RATE // 100
"""40 ms every 10 ms."""
PITCH_HZ = (70, 400)
PERIODIC = 0.6
"""Height of the normalized autocorrelation from which a window is voiced (P. Boersma 1993)."""
LOUD_DB = 25.0
IN_A_ROW = 3


def first_voiced(wave: Wave) -> int:
    """The sample at which float32 [n] at 16 kHz begins to be voiced: the middle of the first of three windows in a row
    that are periodic and at most 25 dB below the loudest; 0 where none are."""
    windows = np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[::HOP].astype(np.float64)
    windows = windows - windows.mean(1, keepdims=True)
    taper = np.hanning(WINDOW)
    height = _autocorrelation(windows * taper) / _autocorrelation(taper[np.newaxis])
    shortest, longest = INPUT_RATE // PITCH_HZ[1], INPUT_RATE // PITCH_HZ[0]
    level = 10 * np.log10((windows**2).mean(1) + 1e-12)
    voiced = (height[:, shortest : longest + 1].max(1) > PERIODIC) & (level > level.max() - LOUD_DB)
    runs = np.flatnonzero(np.convolve(voiced, np.ones(IN_A_ROW), "valid") == IN_A_ROW)
    return int(runs[0]) * HOP + WINDOW // 2 if len(runs) else 0


def _autocorrelation(windows: NDArray[np.float64]) -> NDArray[np.float64]:
    power = np.abs(np.fft.rfft(windows, 2 * WINDOW)) ** 2
    correlation = np.fft.irfft(power)[:, :WINDOW]
    return np.asarray(correlation / (correlation[:, :1] + 1e-12), np.float64)
