"""What was played in the last seconds, as energies in bands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.call.echo.bands import BANDS, HOPS_PER_S, BandMeter, Rows
from engine.client import OUTPUT_RATE

HOP_SAMPLES = OUTPUT_RATE // HOPS_PER_S
DECAY = np.float32(10 ** (-1.5 / 10))
"""What is left of an echo after one hop more: 1.5 dB less, as in a room whose reverberation takes 0.4 s."""

BLUR_HOPS = 1
"""A hop is also heard in its neighbours: echoes do not arrive at whole hops."""


class PlayedLine:
    """Takes what is pulled for the listener; silence costs a sum, as long as nothing was played just before."""

    def __init__(self, keep_hops: int) -> None:
        self._keep = keep_hops
        self._meter = BandMeter(OUTPUT_RATE)
        self._samples = 0
        self.hops = 0
        """How many hops were pulled since the call began, silence included."""
        self.rows: Rows = np.zeros((0, BANDS), np.float32)
        """The energies of the newest hops."""
        self.spread: Rows = self.rows
        """The same as a room spreads them in time: the loudest of a hop, its two neighbours and what rings on of those
        before. Row n tells of the hop before row n of :attr:`rows`."""

    @property
    def asleep(self) -> bool:
        """Whether nothing is kept: all was silence."""
        return not len(self.rows)

    def sleep(self) -> None:
        """Forget what was played: it is too long ago."""
        self.rows = self.spread = self.rows[:0]

    def push(self, pcm: NDArray[np.int16]) -> bool:
        """Append int16 [n] at 24 kHz; whether there is any sound in it."""
        sound = bool(pcm.any())
        if sound and self.asleep:
            self.rows = self.spread = np.zeros((self._keep, BANDS), np.float32)
            self._meter = BandMeter(OUTPUT_RATE)
            self._meter.push(np.zeros(self._samples % HOP_SAMPLES, np.int16))
        self._samples += len(pcm)
        self.hops = self._samples // HOP_SAMPLES
        if self.asleep:
            return False
        new = self._meter.push(pcm)
        rows = np.concatenate([self.rows, new])
        spread = np.empty_like(new)
        last = self.spread[-1]
        for n in range(len(new)):
            end = len(self.rows) + n + 1
            last = np.maximum(rows[end - 1 - 2 * BLUR_HOPS : end].max(axis=0), last * DECAY)
            spread[n] = last
        self.rows = rows[-self._keep :]
        self.spread = np.concatenate([self.spread, spread])[-self._keep :]
        return sound
