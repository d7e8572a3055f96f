"""The energy of a sound in bands, a hundred times a second: in this form what was played and what the microphone heard
can be compared, whatever the loudspeaker and the room did to the phases."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

HOPS_PER_S = 100
HOP_MS = 1000 // HOPS_PER_S
"""Time between two rows of energies."""

EDGES_HZ = (100, 200, 300, 400, 550, 750, 1000, 1350, 1800, 2400, 3200, 4300, 5700, 7600)
"""Where one band ends and the next begins: about three to the octave, up to what 16 kHz can hold."""

BANDS = len(EDGES_HZ) - 1

Rows = NDArray[np.float32]
"""Energies, float32 [hops, BANDS]: mean squares with full scale at 1."""


class BandMeter:
    """Energies of one stream: Hann windows of two hops (20 ms), one hop apart, so that the lines of a spectrum lie
    50 Hz apart at every rate."""

    def __init__(self, rate: int) -> None:
        """``rate`` is the stream's, Hz: a multiple of 100."""
        self._hop = rate // HOPS_PER_S
        window = np.hanning(2 * self._hop + 1)[:-1]
        self._window = (window / 32768).astype(np.float32)
        lines = np.arange(self._hop + 1) * HOPS_PER_S / 2
        sums = [(low <= lines) & (lines < high) for low, high in pairwise(EDGES_HZ)]
        scale = 2 / (2 * self._hop * (window**2).sum())  # Parseval; half of the lines are there
        self._sums = (scale * np.stack(sums, axis=1)).astype(np.float32)
        self._line = np.zeros(self._hop, np.int16)

    def push(self, pcm: NDArray[np.int16]) -> Rows:
        """The rows that int16 [n] completes; a piece that is not whole waits for the next."""
        line = np.concatenate([self._line, pcm])
        hops = len(line) // self._hop - 1
        if hops < 1:
            self._line = line
            return np.zeros((0, BANDS), np.float32)
        self._line = line[hops * self._hop :]
        if not line.any():
            return np.zeros((hops, BANDS), np.float32)
        blocks = line[: (hops + 1) * self._hop].reshape(hops + 1, self._hop)
        windows = np.concatenate([blocks[:-1], blocks[1:]], axis=1)
        spectra = np.fft.rfft(windows * self._window)
        rows: Rows = (spectra.real**2 + spectra.imag**2).astype(np.float32) @ self._sums
        return rows


def decibels(energies: Rows) -> Rows:
    """Energies as dB relative to full scale, at least −120."""
    level: Rows = 10 * np.log10(np.maximum(energies, np.float32(1e-12)))
    return level
