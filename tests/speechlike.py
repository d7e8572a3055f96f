"""A voice out of formulas for tests: vowels that follow each other in syllables, of which every detector is sure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

VOWELS_HZ = np.array([(730, 1090, 2440), (270, 2290, 3010), (660, 1720, 2410), (530, 1840, 2480)])
"""The first three formants of a man's vowels (G. Peterson, H. Barney 1952)."""

BANDWIDTHS_HZ = np.array([60, 90, 120])
SYLLABLES_HZ, MELODY_HZ = 4.0, 2.0


def speechlike(seconds: float, rate: int = 16_000, seed: int = 0) -> NDArray[np.int16]:
    """int16 [n] at ``rate`` Hz, as many ``seconds`` long, with a little noise."""
    time = np.arange(round(seconds * rate)) / rate
    pitch = 190 * 2 ** (0.25 * np.sin(2 * np.pi * MELODY_HZ * time))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    place = time * SYLLABLES_HZ % len(VOWELS_HZ)
    vowel, glide = place.astype(int), np.clip((place % 1 - 0.6) / 0.4, 0, 1)[:, np.newaxis]
    formants = VOWELS_HZ[vowel] * (1 - glide) + VOWELS_HZ[(vowel + 1) % len(VOWELS_HZ)] * glide
    voice = np.zeros(len(time))
    for k in range(1, 40):
        harmonic = (k * pitch)[:, np.newaxis]
        loudness = (1 / (1 + ((harmonic - formants) / BANDWIDTHS_HZ) ** 2) / (1, 2, 3)).sum(1) + 0.01
        voice += loudness * np.sin(k * phase) * (k * pitch < min(3_800, rate / 2))
    syllables = 0.2 + 0.8 * np.sqrt(np.abs(np.sin(np.pi * SYLLABLES_HZ * time)))
    noise = np.random.default_rng(seed).normal(0, 0.02, len(time))
    return np.asarray((5_000 * (voice * syllables + noise)).clip(-32_768, 32_767), np.int16)
