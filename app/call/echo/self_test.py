"""The sound test: a chime is played, and what comes back of it through the microphone says how well this call hears.

It belongs to no answer. It counts in media time and in what was pulled, like the gate, so that a recording repeats it.
While it listens, whatever is heard opens no turn: the chime is not to be answered. Who speaks all the same is told to
do the test again; an answer, a turn (of push-to-talk or typed) and a microphone that is switched off break it off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.call.config import EchoConfig
from app.call.echo.bands import BANDS, HOP_MS, BandMeter, Rows
from app.call.echo.chime import chime
from app.call.echo.delay import likeness
from app.call.echo.gate import needed_likeness
from app.call.media_time import FRAME_MS
from app.call.outbox import Outbox
from app.call.playout import SpeechQueue
from app.call.turn_state import TurnState
from engine.client import INPUT_RATE, OUTPUT_RATE

Policy = Literal["full", "careful", "headphones", "push_to_talk"]

ROOM_MS = 300
"""The room is listened to for so long before the chime."""

STRONG_DB = 20.0
"""Bands count whose loudest moment is no further than this below that of all, and moments as far below their band's."""

AUDIBLE_DB = 6.0
"""So much louder than the room the microphone must be while the chime is heard, or nothing came back."""

VOICED_MS = 200
"""As much voice, and what came back was no chime."""

CAREFUL_DB, HEADPHONES_DB, PUSH_TO_TALK_DB = -30.0, -10.0, -3.0
"""From these leaks on something is advised."""


@dataclass(frozen=True, slots=True)
class Found:
    """What came back: its delay and its level relative to what was played; None where there is none to tell."""

    delay_ms: int | None
    leak_db: float | None
    audible: bool
    """Whether the microphone heard anything beside the room."""

    @property
    def policy(self) -> Policy:
        """What follows for the call. ``push_to_talk`` also where something came back that keeps no steady delay."""
        if self.leak_db is None:
            return "push_to_talk" if self.audible else "full"
        if self.leak_db < CAREFUL_DB:
            return "full"
        if self.leak_db < HEADPHONES_DB:
            return "careful"
        return "headphones" if self.leak_db < PUSH_TO_TALK_DB else "push_to_talk"


def measure(heard: Rows, played: Rows, base: int, config: EchoConfig) -> Found:
    """What is heard of ``played`` in ``heard``, both [hops, BANDS] and counted from the same hop. The first ROOM_MS of
    ``heard`` are the room alone. ``base`` is the lag, in hops, of an echo that is under way for no time at all."""
    hops, lags = len(heard), max(base, 0) + config.max_delay_ms // HOP_MS + 1
    line = np.zeros((lags - 1 + hops, BANDS), np.float32)
    line[lags - 1 : lags - 1 + len(played)] = played[:hops]
    strong = line.max(axis=0) >= line.max() * 10 ** (-STRONG_DB / 10)
    above = np.maximum(heard - heard[: ROOM_MS // HOP_MS].mean(axis=0), 0)[:, strong]
    likely = likeness(heard, line)
    lag = int(likely.argmax())
    if likely[lag] < needed_likeness(hops, config.likeness_min):
        room = heard[: ROOM_MS // HOP_MS, strong].sum(axis=1).mean()
        louder = heard[ROOM_MS // HOP_MS :, strong].sum(axis=1).mean() > room * 10 ** (AUDIBLE_DB / 10)
        return Found(None, None, bool(louder))
    sent = line[lags - 1 - lag : lags - 1 - lag + hops, strong]
    counts = sent >= sent.max(axis=0) * 10 ** (-STRONG_DB / 10)
    ratios = (above * counts).sum(axis=0) / (sent * counts).sum(axis=0)
    leak_db = 10 * np.log10(max(float(ratios.mean()), 1e-12))
    return Found(max(0, lag - base) * HOP_MS, round(leak_db, 1), True)


class EchoTest:
    """The sound test of one call: begun by :meth:`start`, over with an ``echo.result`` or a warning."""

    def __init__(self, speech: SpeechQueue, outbox: Outbox) -> None:
        self._speech = speech
        self._outbox = outbox
        self._run: _Run | None = None

    def start(self, state: TurnState, speaking: bool, config: EchoConfig) -> None:
        """Play the chime and listen. Refused, with an error, while the microphone is off or somebody has the turn."""
        if state.muted or not state.live:
            message = "The microphone is off, so that nothing can be measured. Switch it on and test again."
            self._outbox.error("echo_test_muted", message, retryable=True)
        elif self._run is not None or speaking or _taken(state):
            message = "The sound can be tested when nobody speaks. Wait for the end of the answer and test again."
            self._outbox.error("echo_test_busy", message, retryable=True)
        else:
            room = np.zeros(ROOM_MS * OUTPUT_RATE // 1000, np.int16)
            sound = np.concatenate([room, chime()])
            self._speech.ring(sound)
            self._run = _Run(config, len(sound) * 1000 // OUTPUT_RATE + config.max_delay_ms)

    def watch(self, state: TurnState) -> None:
        """Break the test off where something has begun that is more important."""
        if self._run is not None and (state.muted or not state.live or _taken(state)):
            self._run = None
            self._speech.hush()
            self._outbox.warn("echo_test_ended", "The sound test was broken off. Start it again when nobody speaks.")

    def played(self, pcm: NDArray[np.int16]) -> None:
        """What was pulled for the listener: int16 [n] at 24 kHz."""
        if self._run is not None:
            self._run.played(pcm)

    def hears(self, frame: NDArray[np.int16], voiced: bool) -> bool:
        """The next 20 ms of the microphone, int16 [320] at 16 kHz; whether they belong to the test."""
        if self._run is None:
            return False
        run = self._run
        found = run.hears(frame, voiced)
        if found is None:
            return True
        self._run = None
        if run.was_played and not (found.audible and found.delay_ms is None and run.voiced_ms >= VOICED_MS):
            data = {"delay_ms": found.delay_ms, "leak_db": found.leak_db, "policy": found.policy}
            self._outbox.event("echo.result", data)
        else:
            cause = "Somebody spoke during the test" if run.was_played else "The chime did not reach its end"
            self._outbox.warn("echo_test_ended", f"{cause}. Test again, and stay silent for three seconds.")
        return True


class _Run:
    """One test under way."""

    def __init__(self, config: EchoConfig, length_ms: int) -> None:
        self._config = config
        self._hops = length_ms // HOP_MS
        self._ear, self._mouth = BandMeter(INPUT_RATE), BandMeter(OUTPUT_RATE)
        self._heard: Rows = np.zeros((0, BANDS), np.float32)
        self._played: Rows = self._heard
        self._base = -self._hops
        self.voiced_ms = 0
        """For how long a voice was heard."""

    @property
    def was_played(self) -> bool:
        """Whether the chime was pulled to its end."""
        return len(self._played) >= self._hops - self._config.max_delay_ms // HOP_MS

    def played(self, pcm: NDArray[np.int16]) -> None:
        self._played = np.concatenate([self._played, self._mouth.push(pcm)])

    def hears(self, frame: NDArray[np.int16], voiced: bool) -> Found | None:
        """What was found, at the end."""
        self.voiced_ms += FRAME_MS * voiced
        self._heard = np.concatenate([self._heard, self._ear.push(frame)])
        self._base = max(self._base, len(self._heard) - len(self._played))
        if len(self._heard) < self._hops:
            return None
        return measure(self._heard, self._played, self._base, self._config)


def _taken(state: TurnState) -> bool:
    """Whether the person or an answer has the turn, or is about to."""
    return any(each is not None for each in (state.opened, state.draft, state.answer, state.stopping))
