"""What every voice activity detector is, and the level that all of them are shown with."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SILENCE_DBFS = -96.0
"""Level of digital silence, and the lowest that is told."""


class VoiceDetector(Protocol):
    """Judges one frame after the other. Deterministic: the same frames give the same answers."""

    def push(self, frame: NDArray[np.int16]) -> float:
        """The probability, 0 to 1, that the newest frame, int16 [320] at 16 kHz, is speech."""
        ...


def level_dbfs(frame: NDArray[np.int16]) -> float:
    """RMS level of a frame in dB relative to full scale, without its DC offset; never below :data:`SILENCE_DBFS`."""
    wave = frame.astype(np.float32)
    wave -= wave.mean()
    power = float(np.dot(wave, wave)) / len(wave) / 32768.0**2
    return max(SILENCE_DBFS, 10.0 * float(np.log10(power))) if power > 0 else SILENCE_DBFS
