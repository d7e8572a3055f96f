"""Sounds that are no speech: coughs, laughter, knocks, doors, keys. Made, and where a folder has them, recorded.

Made ones differ between the halves: those for tuning have other sizes of mouth, rates, lengths and timbres than those
for the report. Recorded ones are the voices of the game Hedgewars (Debian's ``hedgewars-data``, GFDL 1.3, not part of
this repository): players' coughs and laughs, those of some voices for one half and of the rest for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.client import INPUT_RATE
from tests.ears.corpus import Wave, decode

Make = Callable[[np.random.Generator], Wave]

TUNING_VOICES = ("British", "Classic", "Default", "Default_pl", "Pirate", "Robot", "Russian_pl", "Surfer")
"""Whose recorded coughs and laughs are for choosing thresholds; every other voice's are for the report."""

RECORDED = {"cough": "PoisonCough.ogg", "laughter": "Laugh.ogg"}


@dataclass(frozen=True, slots=True)
class Half:
    """From where to where what is made varies."""

    mouth: tuple[float, float]
    """Formants relative to those of an average man."""
    laugh_hz: tuple[float, float]
    """Bursts of a laugh a second."""
    cough_s: tuple[float, float]
    """Decay of a cough's explosion."""
    knock_hz: tuple[float, float]
    """Resonance of what is knocked on."""
    noise_slope: tuple[float, float]
    """Exponent of the spectrum of breath and rustling."""


TUNING = Half((0.9, 1.05), (4.0, 5.0), (0.03, 0.06), (120, 260), (-0.4, 0.1))
REPORT = Half((1.05, 1.25), (4.8, 6.2), (0.045, 0.09), (200, 420), (-0.8, -0.2))


def cough(half: Half, rng: np.random.Generator) -> Wave:
    """One to three explosions of breath through an open mouth, each followed by a breath and, mostly, a voiced end."""
    pieces = []
    for _ in range(int(rng.integers(1, 4))):
        time = _time(rng.uniform(0.28, 0.42))
        burst = np.exp(-time / rng.uniform(*half.cough_s)) * np.minimum(time / 0.004, 1)
        breath = 0.35 * np.exp(-(((time - 0.16) / 0.07) ** 2))
        noise = _mouth(_coloured(len(time), half, rng), (700, 1_200, 2_600), half, rng)
        voiced = _mouth(_glottis(time, 140 * rng.uniform(0.8, 1.6) * np.exp(-time)), (650, 1_150, 2_500), half, rng)
        end = rng.uniform(0, 0.5) * np.exp(-(((time - 0.22) / 0.05) ** 2))
        pieces += [noise * (burst + breath) + voiced * end, np.zeros(round(rng.uniform(0.05, 0.25) * INPUT_RATE))]
    return _even(np.concatenate(pieces[:-1]))


def laughter(half: Half, rng: np.random.Generator) -> Wave:
    """Ha ha ha: short vowels that fall in pitch and loudness, with breath between them."""
    rate = rng.uniform(*half.laugh_hz)
    time = _time(rng.integers(3, 9) / rate)
    cycle = time * rate % 1
    pitch = rng.uniform(130, 330) * (1 + 0.25 * np.exp(-cycle * 4)) * np.exp(-0.25 * time)
    vowel = _mouth(_glottis(time, pitch), (720, 1_250, 2_600), half, rng)
    breath = _mouth(_coloured(len(time), half, rng), (900, 1_500, 2_700), half, rng)
    opened = np.clip(np.sin(np.pi * cycle / 0.5), 0, 1) * (cycle < 0.5)
    return _even((vowel * opened + rng.uniform(0.25, 0.6) * breath * (1 - 0.6 * opened)) * np.exp(-0.5 * time))


def knock(half: Half, rng: np.random.Generator) -> Wave:
    """Two to five knocks on wood."""
    count = int(rng.integers(2, 6))
    time = _time(0.17 * count + 0.1)
    body = np.sin(2 * np.pi * rng.uniform(*half.knock_hz) * time) + 0.4 * rng.standard_normal(len(time))
    hits = sum(_struck(time, k * rng.uniform(0.13, 0.17), rng.uniform(0.008, 0.02)) for k in range(count))
    return _even(body * hits)


def door(half: Half, rng: np.random.Generator) -> Wave:
    """A door that falls shut: a rustle, a low thud, the latch."""
    time = _time(rng.uniform(0.7, 1.1))
    rustle = 0.15 * _coloured(len(time), half, rng) * np.sin(np.pi * time / time[-1])
    at = rng.uniform(0.3, 0.5)
    thud = np.sin(2 * np.pi * 0.5 * rng.uniform(*half.knock_hz) * time) * _struck(time, at, 0.06)
    latch = 0.5 * rng.standard_normal(len(time)) * _struck(time, at + rng.uniform(0.05, 0.1), 0.006)
    return _even(rustle + thud + latch)


def keys(half: Half, rng: np.random.Generator) -> Wave:
    """Somebody types, clicks, or puts something down."""
    time = _time(rng.uniform(0.6, 1.4))
    clicks = [_struck(time, at, rng.uniform(0.002, 0.008)) for at in rng.uniform(0, time[-1], int(rng.integers(3, 10)))]
    return _even(np.sum(clicks, axis=0) * _coloured(len(time), half, rng))


def hum(half: Half, rng: np.random.Generator) -> Wave:
    """An "mhm": a closed mouth's tone in two syllables, the second higher."""
    first, second = rng.uniform(0.14, 0.2), rng.uniform(0.16, 0.24)
    time = _time(first + second)
    pitch = rng.uniform(95, 210) * np.where(time < first, 1.0, rng.uniform(1.1, 1.35))
    highest = 500 * rng.uniform(*half.mouth)
    nose = _filtered(_glottis(time, pitch), lambda hertz: 1 / (1 + (hertz / highest) ** 4))
    shape = np.sin(np.pi * np.minimum(time / first, 1)) ** 2 + np.clip(
        np.sin(np.pi * (time - first) / second), 0, 1
    ) ** 2 * (time > first)
    return _even(nose * shape)


MADE: Mapping[str, Callable[[Half, np.random.Generator], Wave]] = {
    "cough": cough, "laughter": laughter, "knock": knock, "door": door, "keys": keys,
}  # fmt: skip


def sounds(*, tuning: bool, voices: Path | None, rng: np.random.Generator) -> dict[str, Wave]:
    """One of every kind at a peak of 0.3, by what it is; with ``voices``, recorded ones as well."""
    made = {f"made {kind}" if kind in RECORDED else kind: make(TUNING if tuning else REPORT, rng)
            for kind, make in MADE.items()}  # fmt: skip
    if voices is None:
        return made
    recorded = {}
    for kind, name in RECORDED.items():
        files = sorted(file for file in voices.glob(f"*/{name}") if (file.parent.name in TUNING_VOICES) == tuning)
        recorded[kind] = _even(decode(files[int(rng.integers(len(files)))]))
    return made | recorded


def _time(seconds: float) -> Wave:
    return np.arange(round(seconds * INPUT_RATE), dtype=np.float32) / np.float32(INPUT_RATE)


def _struck(time: Wave, at: float, decay_s: float) -> Wave:
    return np.asarray(np.where(time >= at, np.exp(-np.maximum(time - at, 0) / decay_s), 0), np.float32)


def _coloured(samples: int, half: Half, rng: np.random.Generator) -> Wave:
    """Noise whose spectrum falls or rises, RMS 1."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.maximum(np.fft.rfftfreq(samples, 1 / INPUT_RATE), 100) / 1_000
    wave = np.fft.irfft(spectrum * frequency ** rng.uniform(*half.noise_slope), samples)
    return np.asarray(wave / wave.std(), np.float32)


def _glottis(time: Wave, pitch: NDArray[np.floating]) -> Wave:
    """A voice's source: pulses of ``pitch`` Hz with all harmonics, twelve decibels an octave softer, RMS 1."""
    phase = 2 * np.pi * np.cumsum(pitch) / INPUT_RATE
    wave = np.sum([np.sin(k * phase) / k**1.5 * (k * pitch < INPUT_RATE / 2) for k in range(1, 40)], axis=0)
    return np.asarray(wave / wave.std(), np.float32)


def _mouth(wave: Wave, formants: tuple[int, ...], half: Half, rng: np.random.Generator) -> Wave:
    """``wave`` through resonances, RMS 1."""
    size = rng.uniform(*half.mouth)

    def response(hertz: NDArray[np.floating]) -> NDArray[np.floating]:
        resonances = [
            1 / (1 + ((hertz - formant * size) / (40 + 30 * number)) ** 2) / number
            for number, formant in enumerate(formants, 1)
        ]
        return np.asarray(np.sqrt(np.sum(resonances, axis=0)) + 0.02)

    out = _filtered(wave, response)
    return np.asarray(out / out.std(), np.float32)


def _filtered(wave: Wave, response: Callable[[NDArray[np.floating]], NDArray[np.floating]]) -> Wave:
    """``wave`` with its spectrum weighted; ``response`` is given frequencies in Hz."""
    hertz = np.fft.rfftfreq(2 * len(wave), 1 / INPUT_RATE)
    spectrum = np.fft.rfft(wave, 2 * len(wave)) * response(hertz)
    return np.asarray(np.fft.irfft(spectrum)[: len(wave)], np.float32)


def _even(wave: Wave) -> Wave:
    return np.asarray(0.3 * wave / np.abs(wave).max(), np.float32)
