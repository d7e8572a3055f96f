"""The chime of the sound test: the three tones of a chord, one after the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.client import OUTPUT_RATE

TONES_HZ = (523.25, 659.26, 783.99)
"""C, E and G, one after the other."""

TONE_S = 0.4
ATTACK_S = 0.02
DECAY_S = 0.13
"""Time in which a tone falls to a third: the pauses between the tones are what the delay is told by."""

HARMONICS = 9
VIBRATO_HZ, VIBRATO = 7.0, 0.008
"""Rate and depth: a line that moves is not lost in a notch of the room."""

PEAK_DBFS = -12.0


def chime() -> NDArray[np.int16]:
    """The chime, int16 [28800] at 24 kHz: 1.2 s with a peak of −12 dBFS."""
    time_s = np.arange(round(TONE_S * OUTPUT_RATE)) / OUTPUT_RATE
    swing = VIBRATO / (2 * np.pi * VIBRATO_HZ) * np.sin(2 * np.pi * VIBRATO_HZ * time_s)
    envelope = np.minimum(time_s / ATTACK_S, 1.0) * np.exp(-time_s / DECAY_S) * np.minimum((TONE_S - time_s) / 0.05, 1)
    order = np.arange(1, HARMONICS + 1)[:, np.newaxis]
    phases = 2 * np.pi * (time_s + swing) * order
    tones = [(np.sin(tone * phases) / order**0.8).sum(axis=0) * envelope for tone in TONES_HZ]
    wave = np.concatenate(tones)
    return np.asarray(np.rint(wave * 32767 * 10 ** (PEAK_DBFS / 20) / np.abs(wave).max()), np.int16)
