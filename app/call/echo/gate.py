"""Which frames of the microphone are the answer's own echo.

A loudspeaker's sound comes back through the microphone, and a voice detector takes it for a person. Browsers take most
of it away; the gate is for what they leave. It knows what was played, finds how long the echo is under way and how
loud it comes back in each band, and calls a frame explained if its energy lies within what such an echo can have.

It learns only from moments in which the microphone hears nearly nothing else, so that a person who talks at the same
time neither raises what it expects nor moves its delay. As long as it has not found an echo, and where nothing is or
was just played, it explains nothing.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from app.call.config import EchoConfig
from app.call.echo.bands import BANDS, HOP_MS, BandMeter, Rows, decibels
from app.call.echo.delay import likeness
from app.call.echo.line import BLUR_HOPS, PlayedLine
from app.call.media_time import FRAME_MS
from engine.client import INPUT_RATE

FRAME_HOPS = FRAME_MS // HOP_MS
WINDOW_HOPS = 150
"""What is compared at once: the newest 1.5 s …"""

LEAST_HOPS = 40
"""… and 400 ms at least."""

LOOK_FRAMES = 5
"""It is compared every 100 ms."""

TAIL_HOPS = 30
"""For how long after the longest delay an echo is expected: that of a room."""

STEADY_FRAMES = 100
"""Packets come in bursts: how far the two streams lie apart is told by the newest two seconds."""

JUMP_HOPS = 20
"""If that changes by more, one of the two has paused, and the echo's lag has changed by as much."""

AGREEING_LOOKS = 3
"""So many times in a row the same new lag must be found before it is believed."""

LEAK_STEP_DB = 2.0
"""How fast the expected leak follows what is found, per look."""

LEAK_PERCENTILE = 40.0
"""Of what is found in a window: a person in it can only add to the echo."""

SHORT_WINDOW_EXTRA = 0.12
"""By so much more alike the two must be in the shortest window than in the longest."""


class EchoGate:
    """The gate of one call. What was played and what was heard are counted in hops of 10 ms; a lag is the number of a
    heard hop less that of the played one which is heard in it, so that it does not change with the packets' jitter."""

    def __init__(self, config: EchoConfig) -> None:
        self._config = config
        self._lags = round(config.max_delay_ms / HOP_MS) + 1
        self._played = PlayedLine(WINDOW_HOPS + self._lags + STEADY_FRAMES * FRAME_HOPS)
        self._meter = BandMeter(INPUT_RATE)
        self._heard: Rows = np.zeros((0, BANDS), np.float32)
        self._hops = self._sound_until = 0  # heard so far; and then, when something was played last
        self._leads: deque[int] = deque(maxlen=STEADY_FRAMES)
        self._base = 0
        """The lag of an echo that is under way for no time at all."""
        self._frames = 0
        self._lag: int | None = None
        self._found: deque[int] = deque(maxlen=AGREEING_LOOKS)
        self._leak_db = np.zeros(BANDS, np.float32)

    def played(self, pcm: NDArray[np.int16]) -> None:
        """The next samples that go to the listener, silence included: int16 [n] at 24 kHz."""
        if self._config.gate and self._played.push(pcm):
            self._sound_until = self._hops

    def explains(self, frame: NDArray[np.int16]) -> bool:
        """Whether the next 20 ms of the microphone, int16 [320] at 16 kHz, are nothing but echo."""
        self._hops += FRAME_HOPS
        lead = self._hops - self._played.hops
        if self._leads and lead < max(self._leads) - STEADY_FRAMES * FRAME_HOPS:
            self._leads.clear()  # the microphone stood still for longer than what was played is kept
        self._leads.append(lead)
        if self._played.asleep:
            return False
        if self._hops - self._sound_until > self._lags + TAIL_HOPS:
            self._played.sleep()
            self._heard, self._meter, self._frames = self._heard[:0], BandMeter(INPUT_RATE), 0
            return False
        self._keep_pace()
        rows = self._meter.push(frame)
        self._heard = np.concatenate([self._heard, rows])[-WINDOW_HOPS:]
        self._frames += 1
        if self._frames % LOOK_FRAMES == 0 and len(self._heard) >= LEAST_HOPS:
            self._look()
        return self._lag is not None and self._is_echo(rows, self._lag)

    @property
    def delay_ms(self) -> int | None:
        """From the moment at which a sound is pulled for the listener to that at which it is heard in the microphone;
        None as long as no echo was found."""
        return None if self._lag is None else (self._lag - self._base) * HOP_MS

    def _keep_pace(self) -> None:
        base = max(self._leads)
        if self._lag is not None and abs(base - self._base) > JUMP_HOPS:
            self._lag += base - self._base
        self._base = base

    def _look(self) -> None:
        """Compare the newest window at all lags, and learn from it if it is nearly nothing but echo."""
        stop = self._hops - self._base - self._played.hops  # from the end of the rows, at most 0
        hops = len(self._heard)
        likely = likeness(self._heard, _until(self._played.rows, stop, hops + self._lags - 1))
        best = int(likely.argmax())
        if likely[best] < needed_likeness(hops, self._config.likeness_min):
            self._found.clear()
            return
        lag = self._base + best
        self._found.append(lag)
        if self._lag is not None and abs(lag - self._lag) <= BLUR_HOPS:
            self._lag = lag
            self._leak_db += np.clip(self._measured(lag) - self._leak_db, -LEAK_STEP_DB, LEAK_STEP_DB)
        elif len(self._found) == AGREEING_LOOKS and max(self._found) - min(self._found) <= 2 * BLUR_HOPS:
            self._lag, self._leak_db = lag, self._measured(lag)

    def _expected(self, lag: int, hops: int) -> Rows:
        """What was played as the newest ``hops`` of the microphone hear it, before any loss."""
        return _until(self._played.spread, min(0, self._hops - lag + BLUR_HOPS - self._played.hops), hops)

    def _measured(self, lag: int) -> NDArray[np.float32]:
        """The leak in each band, dB: float32 [BANDS]. In each, the loudest quarter of the window
        tells it: the rest may be what rings on."""
        expected = decibels(self._expected(lag, len(self._heard)))
        loud = np.argsort(expected, axis=0)[-(len(expected) // 4) :]
        losses = np.take_along_axis(decibels(self._heard) - expected, loud, axis=0)
        found: NDArray[np.float32] = np.percentile(losses, LEAK_PERCENTILE, axis=0).astype(np.float32)
        return found

    def _is_echo(self, rows: Rows, lag: int) -> bool:
        gain = 10 ** ((self._leak_db + np.float32(self._config.margin_db)) / 10)
        more = np.maximum(rows - gain * self._expected(lag, len(rows)), 0).sum()
        return bool(more <= self._config.unexplained_max * rows.sum())


def needed_likeness(hops: int, least: float) -> float:
    """How alike the two must be in a window of so many hops: the shorter it is, the more alike they are by chance."""
    return least + SHORT_WINDOW_EXTRA * (WINDOW_HOPS - hops) / (WINDOW_HOPS - LEAST_HOPS)


def _until(rows: Rows, stop: int, count: int) -> Rows:
    """``count`` rows that end ``-stop`` rows before the end."""
    return rows[len(rows) + stop - count : len(rows) + stop]
