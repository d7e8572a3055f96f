"""What is heard that is not speech: noise, a crowd, coughs, knocks, hums, laughter. All of it is made here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.mini.sound.augment import babble, noise_pool
from engine.mini.sound.hearing import UNIT
from engine.mini.sound.hearing_data import Utterance, unlabelled

Audio = NDArray[np.float32]


def not_speech(rng: np.random.Generator, crowd: list[Audio]) -> Utterance:
    """One to three seconds of one of them; ``crowd`` are people whose voices make a crowd."""
    length = int(rng.uniform(1.0, 3.0) * UNIT)
    kind = rng.random()
    if crowd and kind < 0.2:
        chosen = [crowd[i] for i in rng.choice(len(crowd), int(rng.integers(5, 9)))]
        sound = babble(chosen, rng, length) * np.float32(10 ** (-rng.uniform(12, 40) / 20))
    elif kind < 0.5:
        sound = _noise(rng, length)
    else:
        sound = _burst(rng, length) + 0.3 * np.float32(10 ** (-rng.uniform(40, 70) / 20)) * _pool(rng, "pink", length)
    return Utterance("", np.clip(sound, -1, 1).astype(np.float32), unlabelled(length))


def _pool(rng: np.random.Generator, kind: str, length: int) -> Audio:
    pool = noise_pool()[kind]
    at = int(rng.integers(0, len(pool) - length))
    return pool[at : at + length]


def _noise(rng: np.random.Generator, length: int) -> Audio:
    """Noise, steady or in bursts."""
    envelope = np.ones(length, np.float32)
    if rng.random() < 0.5:
        knots = rng.uniform(0, 1, int(rng.integers(4, 14))) ** 3
        envelope = np.interp(np.linspace(0, 1, length), np.linspace(0, 1, len(knots)), knots).astype(np.float32)
    kind = str(rng.choice(["white", "pink", "brown", "hum"]))
    return _pool(rng, kind, length) * envelope * np.float32(10 ** (-rng.uniform(12, 50) / 20))


def _burst(rng: np.random.Generator, length: int) -> Audio:
    """One to four coughs, knocks, hums, or syllables of a laugh, somewhere in silence, at any level."""
    make = (_cough, _knock, _hum, _laugh)[int(rng.integers(4))]
    out = np.zeros(length, np.float32)
    at = int(rng.uniform(0, 0.4) * UNIT)
    for _ in range(int(rng.integers(1, 5))):
        sound = make(rng, np.arange(int(rng.uniform(0.12, 0.5) * UNIT)) / UNIT)
        sound = sound[: max(0, length - at)]
        out[at : at + len(sound)] += sound.astype(np.float32)
        at += len(sound) + int(rng.uniform(0.03, 0.5) * UNIT)
    return out * np.float32(10 ** (-rng.uniform(2, 30) / 20) / (np.abs(out).max() + 1e-6))


def _cough(rng: np.random.Generator, time: NDArray[np.float64]) -> NDArray[np.float64]:
    """A hard onset of coloured noise, then breath."""
    width = int(rng.integers(2, 16))
    noise = np.convolve(rng.standard_normal(len(time) + width - 1), np.ones(width), "valid")
    breath = rng.uniform(0.1, 0.7) * np.exp(-(((time - rng.uniform(0.1, 0.3)) / rng.uniform(0.03, 0.08)) ** 2))
    out: NDArray[np.float64] = noise * (np.exp(-time / rng.uniform(0.02, 0.09)) + breath)
    return out


def _knock(rng: np.random.Generator, time: NDArray[np.float64]) -> NDArray[np.float64]:
    """Something hard hits something hollow."""
    body = np.sin(2 * np.pi * rng.uniform(80, 900) * time) + rng.uniform(0.1, 1) * rng.standard_normal(len(time))
    out: NDArray[np.float64] = body * np.exp(-time / rng.uniform(0.004, 0.03))
    return out


def _voice(rng: np.random.Generator, time: NDArray[np.float64], rise: float) -> NDArray[np.float64]:
    """A voice that says nothing: a tone with overtones that fall off."""
    pitch = rng.uniform(85, 300) * (1 + rise * time / time[-1])
    phase = 2 * np.pi * np.cumsum(pitch) / UNIT
    out: NDArray[np.float64] = sum(
        (np.sin(k * phase) / k ** rng.uniform(1.2, 2.2) for k in range(1, 8)), np.zeros(len(time))
    )
    return out


def _hum(rng: np.random.Generator, time: NDArray[np.float64]) -> NDArray[np.float64]:
    """ "Mhm" or "hm", with a closed mouth."""
    shape = np.maximum(0, np.sin(np.pi * time / time[-1])) ** rng.uniform(0.3, 1.5)
    out: NDArray[np.float64] = _voice(rng, time, rng.uniform(-0.3, 0.4)) * shape
    return out


def _laugh(rng: np.random.Generator, time: NDArray[np.float64]) -> NDArray[np.float64]:
    """Syllables of breath and voice, four to six a second."""
    pulses = np.maximum(0, np.sin(2 * np.pi * rng.uniform(4, 6) * time)) ** 2
    breath = rng.uniform(0.1, 0.8) * rng.standard_normal(len(time))
    out: NDArray[np.float64] = (_voice(rng, time, rng.uniform(-0.4, 0.0)) + breath) * pulses
    return out
