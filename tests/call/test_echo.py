"""The echo gate: it finds how long an echo is under way and how loud it is, and calls nothing else an echo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from app.call.config import EchoConfig
from app.call.echo.bands import EDGES_HZ, BandMeter, decibels
from app.call.echo.delay import likeness
from app.call.echo.gate import EchoGate
from app.call.media_time import FRAME_SAMPLES
from app.replay.leak import Leak, LeakyRoom
from engine.client import INPUT_RATE, OUTPUT_RATE

PULL = FRAME_SAMPLES * OUTPUT_RATE // INPUT_RATE
SPEECH = Path(__file__).parents[1] / "data" / "speech"
Pcm = NDArray[np.int16]


def voice(name: str, rate: int, peak: float = 0.5) -> Pcm:
    """A recorded person: int16 at ``rate``."""
    wave, original = soundfile.read(SPEECH / f"{name}.flac", dtype="float32")
    positions = np.arange(len(wave) * rate // original) * original / rate
    resampled = np.interp(positions, np.arange(len(wave)), wave)
    return np.asarray(resampled * peak * 32767 / np.abs(wave).max(), np.int16)


ANSWER = np.concatenate([voice("digits-woman", OUTPUT_RATE), voice("command-woman", OUTPUT_RATE)])
PERSON = voice("date-man", INPUT_RATE)


def quiet(samples: int) -> Pcm:
    """A room at −66 dBFS."""
    return np.random.default_rng(0).normal(0, 16, samples).astype(np.int16)


@dataclass
class Listening:
    """A gate, a loudspeaker and a microphone; what the gate said of every frame."""

    gate: EchoGate = field(default_factory=lambda: EchoGate(EchoConfig()))
    explained: list[bool] = field(default_factory=list)

    def run(self, played: Pcm, near: Pcm, leak: Leak | None, pause_frames: int = 0) -> list[bool]:
        """Play and listen in step, for as long as ``near`` lasts; what the gate said. ``pause_frames`` are pulled
        before, while the microphone gives nothing."""
        room = LeakyRoom(leak) if leak is not None else None
        for _ in range(pause_frames):
            self.gate.played(np.zeros(PULL, np.int16))
        begun = len(self.explained)
        for number, frame in enumerate(frames(near, FRAME_SAMPLES)):
            self.explained.append(self.gate.explains(room.hear(frame) if room is not None else frame))
            pulled = played[number * PULL : (number + 1) * PULL]
            pulled = np.pad(pulled, (0, PULL - len(pulled)))
            self.gate.played(pulled)
            if room is not None:
                room.play(pulled)
        return self.explained[begun:]


def frames(pcm: Pcm, size: int) -> Iterator[Pcm]:
    return (pcm[begin : begin + size] for begin in range(0, len(pcm) - size + 1, size))


def loud(pcm: Pcm, margin_db: float = 25.0) -> NDArray[np.bool_]:
    """Which frames of 20 ms are speech."""
    power = [float((frame.astype(np.float64) ** 2).mean()) + 1 for frame in frames(pcm, FRAME_SAMPLES)]
    return np.asarray(power) > max(power) * 10 ** (-margin_db / 10)


LENGTH = len(ANSWER) * 2 // 3


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
def test_a_tone_has_its_energy_in_its_band_at_every_rate(rate: int) -> None:
    tone = 8_000 * np.sin(2 * np.pi * 1_150 * np.arange(rate) / rate)
    rows = BandMeter(rate).push(tone.astype(np.int16))
    band = next(n for n, edge in enumerate(EDGES_HZ) if edge > 1_150) - 1
    assert len(rows) == 100
    levels = decibels(rows[10:])
    assert levels[:, band] == pytest.approx(20 * np.log10(8_000 / 32_768 / np.sqrt(2)), abs=0.1)
    assert (np.delete(levels, band, axis=1) < levels[:, [band]] - 30).all()


def test_pieces_of_any_length_give_the_same_rows() -> None:
    whole = BandMeter(OUTPUT_RATE).push(ANSWER)
    meter, dice = BandMeter(OUTPUT_RATE), np.random.default_rng(0)
    cuts = np.sort(dice.integers(0, len(ANSWER), 200))
    pieces = np.concatenate([meter.push(piece) for piece in np.split(ANSWER, cuts)])
    assert pieces == pytest.approx(whole, rel=1e-3, abs=1e-9)


def test_the_lag_is_where_the_two_are_most_alike() -> None:
    rows = BandMeter(OUTPUT_RATE).push(ANSWER)
    heard = rows[100:200] * np.float32(0.01)
    by_lag = likeness(heard, rows[:223])
    assert len(by_lag) == 124
    assert int(by_lag.argmax()) == 23  # the window of what was played ends 23 hops after what was heard
    assert by_lag[23] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("delay_ms", [40, 120, 250, 600])
@pytest.mark.parametrize("gain_db", [-6.0, -20.0])
def test_the_delay_is_found(delay_ms: int, gain_db: float) -> None:
    listening = Listening()
    listening.run(ANSWER, quiet(LENGTH), Leak(gain_db, delay_ms))
    assert listening.gate.delay_ms == pytest.approx(delay_ms, abs=20)


def test_an_echo_is_explained_soon_after_it_is_first_heard() -> None:
    leak = Leak(-12, 120)
    explained = Listening().run(ANSWER, quiet(LENGTH), leak)
    room = LeakyRoom(leak)
    room.play(ANSWER)
    echo = room.hear(np.zeros(LENGTH, np.int16))
    later = np.arange(len(explained)) > 50
    assert np.mean(np.asarray(explained)[loud(echo) & later]) > 0.9


def test_a_delay_that_drifts_is_followed() -> None:
    listening = Listening()
    delays = []
    for delay_ms in (120, 130, 140, 150, 160):
        listening.run(ANSWER, quiet(LENGTH), Leak(-12, delay_ms))
        delays.append(listening.gate.delay_ms)
    assert delays == [pytest.approx(delay_ms, abs=20) for delay_ms in (120, 130, 140, 150, 160)]


def test_a_delay_that_changes_in_the_call_is_found_anew() -> None:
    listening = Listening()
    listening.run(ANSWER, quiet(LENGTH), Leak(-12, 120))
    listening.run(ANSWER, quiet(LENGTH), Leak(-12, 400))
    assert listening.gate.delay_ms == pytest.approx(400, abs=20)


def test_a_pause_of_the_microphone_moves_the_echo_along() -> None:
    listening = Listening()
    listening.run(ANSWER, quiet(LENGTH), Leak(-12, 120))
    listening.run(np.zeros(0, np.int16), quiet(3 * INPUT_RATE), None, pause_frames=250)
    explained = listening.run(ANSWER, quiet(LENGTH), Leak(-12, 120))
    assert listening.gate.delay_ms == pytest.approx(120, abs=20)
    assert np.mean(explained[10:40]) > 0.7  # before it could have been found anew


@pytest.mark.parametrize("seconds", [1, 3, 12])
def test_an_answer_that_plays_on_without_a_microphone_is_no_fault(seconds: int) -> None:
    """The network is gone: nothing comes in, while the answer still goes out for some seconds."""
    room, listening = Leak(-12, 120), Listening()
    assert sum(listening.run(ANSWER, quiet(LENGTH), room)) > 100
    for begin in range(0, seconds * OUTPUT_RATE, PULL):
        listening.gate.played(ANSWER[begin % OUTPUT_RATE :][:PULL])
    assert sum(listening.run(ANSWER, quiet(LENGTH), room)) > 100


def test_who_talks_over_an_echo_is_heard() -> None:
    listening = Listening()
    listening.run(ANSWER, quiet(LENGTH), Leak(-12, 120))
    near = quiet(LENGTH)
    begin = INPUT_RATE
    near[begin : begin + len(PERSON)] += PERSON
    explained = np.asarray(listening.run(ANSWER, near, Leak(-12, 120)))
    talking = loud(near)
    assert np.mean(explained[talking]) < 0.3
    assert np.mean(explained[:45]) > 0.8


def test_talking_over_an_answer_is_never_taken_for_its_echo() -> None:
    listening = Listening()
    for shift in range(0, 8_000, 1_000):
        near = quiet(LENGTH)
        near[shift : shift + len(PERSON)] += PERSON
        assert not any(listening.run(ANSWER, near, None))
    assert listening.gate.delay_ms is None


def test_nothing_is_explained_where_nothing_was_played() -> None:
    listening = Listening()
    listening.run(ANSWER, quiet(LENGTH), Leak(-12, 120))
    listening.run(np.zeros(0, np.int16), quiet(3 * INPUT_RATE), None)
    near = np.concatenate([PERSON, quiet(INPUT_RATE)])
    assert not any(listening.run(np.zeros(0, np.int16), near, None))
    assert listening.gate.delay_ms is not None  # what it knows it keeps


def test_a_gate_that_is_off_explains_nothing() -> None:
    listening = Listening(EchoGate(EchoConfig(gate=False)))
    assert not any(listening.run(ANSWER, quiet(LENGTH), Leak(-6, 120)))
