"""Makes clean speech sound like a call: other speakers, rooms, microphones, noise and levels. All at 16 kHz,
float32."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import soundfile
import soxr  # type: ignore[import-untyped]
from numpy.typing import NDArray

Audio = NDArray[np.float32]
RATE = 16_000


@dataclass(frozen=True, slots=True)
class Placed:
    """A recording as the turn manager cuts it: speech with what was recorded before and after it."""

    samples: Audio
    start: float
    """Seconds of silence before the speech."""
    tempo: float
    """Seconds of speech per second of the original."""


@lru_cache(maxsize=1)
def noise_pool(seconds: int = 60) -> dict[str, Audio]:
    """Noises of power 1: ``white``, ``pink``, ``brown``, ``hum``."""
    rng = np.random.default_rng(7)
    count = seconds * RATE
    frequencies = np.fft.rfftfreq(count, 1 / RATE)
    frequencies[0] = frequencies[1]
    spectrum = np.fft.rfft(rng.standard_normal(count))
    pool = {"white": np.fft.irfft(spectrum, count)}
    pool["pink"] = np.fft.irfft(spectrum / np.sqrt(np.maximum(frequencies, 20)), count)
    pool["brown"] = np.fft.irfft(spectrum / np.maximum(frequencies, 40), count)
    time = np.arange(count) / RATE
    pool["hum"] = sum(np.sin(2 * np.pi * 50 * k * time + k) / k for k in range(1, 12)) + 0.1 * pool["white"]
    return {name: (x / np.sqrt(np.mean(x**2))).astype(np.float32) for name, x in pool.items()}


def babble(voices: list[Audio], rng: np.random.Generator, length: int) -> Audio:
    """Several people at once, power 1."""
    out = np.zeros(length, np.float32)
    for voice in voices:
        at = int(rng.integers(0, max(1, len(voice))))
        out += np.resize(np.roll(voice, at), length) * float(rng.uniform(0.4, 1))
    return out / (float(np.sqrt(np.mean(out**2))) + 1e-9)


def power(x: Audio) -> float:
    """Mean square of the loud part of ``x``."""
    blocks = x[: len(x) // 400 * 400].reshape(-1, 400)
    if not len(blocks):
        return float(np.mean(x**2)) + 1e-12
    energy = np.sort((blocks**2).mean(1))
    return float(energy[len(energy) // 3 :].mean()) + 1e-12


def add_noise(x: Audio, noise: Audio, snr_db: float) -> Audio:
    """``noise`` has power 1; the ratio is to the loud part of the speech."""
    return x + noise * np.float32(np.sqrt(power(x) / 10 ** (snr_db / 10)))


def room(x: Audio, rng: np.random.Generator) -> Audio:
    """Convolution with decaying noise: a reverberation time of 0.1 to 0.5 s, direct sound in front."""
    length = int(RATE * rng.uniform(0.08, 0.35))
    decay = np.exp(-6.9 * np.arange(length) / (RATE * rng.uniform(0.1, 0.5)))
    tail = rng.standard_normal(length) * decay
    tail[: int(rng.integers(20, 160))] = 0
    impulse = tail * (rng.uniform(0.1, 0.7) / (np.sqrt(np.sum(tail**2)) + 1e-9))
    impulse[0] = 1
    size = 1 << int(np.ceil(np.log2(len(x) + length)))
    wet = np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(impulse, size), size)[: len(x)]
    return wet.astype(np.float32)


def band_limit(x: Audio, rng: np.random.Generator) -> Audio:
    """A telephone or a muffled microphone: low-pass at 2.8 to 7 kHz, sometimes high-pass at 80 to 350 Hz."""
    size = 1 << (len(x) - 1).bit_length()
    spectrum = np.fft.rfft(x, size)
    frequencies = np.fft.rfftfreq(size, 1 / RATE)
    spectrum *= 1 / (1 + (frequencies / rng.uniform(2800, 7000)) ** 8)
    if rng.random() < 0.5:
        low = rng.uniform(80, 350)
        spectrum *= (frequencies / low) ** 4 / (1 + (frequencies / low) ** 4)
    return np.fft.irfft(spectrum, size)[: len(x)].astype(np.float32)


def mu_law(x: Audio) -> Audio:
    """Eight-bit companding (ITU-T G.711's curve)."""
    peak = float(np.abs(x).max()) + 1e-9
    companded = np.sign(x) * np.log1p(255 * np.abs(x) / peak) / np.log(256)
    quantised = np.round(companded * 127) / 127
    out: Audio = (np.sign(quantised) * np.expm1(np.abs(quantised) * np.log(256)) / 255 * peak).astype(np.float32)
    return out


def opus(x: Audio, rng: np.random.Generator) -> Audio:
    """Through the codec of a call and back, at about 8 to 40 kbit/s."""
    file = io.BytesIO()
    level = float(rng.uniform(0.87, 1.0))
    soundfile.write(file, np.clip(x, -1, 1), RATE, format="OGG", subtype="OPUS", compression_level=level)
    file.seek(0)
    return np.asarray(soundfile.read(file, dtype="float32")[0])[: len(x)]


def resample(x: Audio, rate: float, target: float) -> Audio:
    return soxr.resample(x, rate, target, quality="LQ").astype(np.float32) if rate != target else x


def place(
    speech: Audio, rate: int, rng: np.random.Generator, strength: float, crowd: list[Audio] | None = None
) -> Placed:
    """Augments and cuts one utterance. ``strength`` 0 to 1 scales everything; ``crowd`` are voices for babble."""
    tempo = 1.0 if rng.random() < 0.25 else float(np.exp(rng.uniform(-0.17, 0.17) * strength))
    x = resample(speech, rate / 1.0, RATE * tempo)
    x = x / (np.abs(x).max() + 1e-6)
    if rng.random() < 0.35 * strength:
        x = room(x, rng)
    if rng.random() < 0.25 * strength:
        x = band_limit(x, rng)
    # A call cuts a turn about 0.2 s before the first sound and 0.16 s after the last; files and other callers vary.
    start, end = rng.uniform(0.1, 0.5), rng.uniform(0.05, 0.4)
    if rng.random() < 0.1:
        start, end = start + rng.uniform(0, 0.8), end + rng.uniform(0, 0.8)
    x = np.concatenate([np.zeros(int(start * RATE), np.float32), x, np.zeros(int(end * RATE), np.float32)])
    if rng.random() < 0.4:
        x = x[: max(RATE, int(np.ceil(len(x) / RATE - 0.6)) * RATE)] if len(x) % RATE < 0.4 * RATE else x
    noisy = rng.random()
    if noisy < 0.65 * strength:
        snr = rng.uniform(5, 32)
        if crowd and rng.random() < 0.25:
            noise = babble(crowd, rng, len(x))
        else:
            pool = noise_pool()
            source = pool[str(rng.choice(["white", "pink", "pink", "brown", "hum"]))]
            at = int(rng.integers(0, len(source) - len(x) - 1))
            noise = source[at : at + len(x)]
        x = add_noise(x, noise, snr)
    elif noisy < 0.9:
        x = x + np.float32(10 ** (-rng.uniform(50, 85) / 20)) * rng.standard_normal(len(x)).astype(np.float32)
    codec = rng.random()
    if codec < 0.05 * strength:
        x = opus(x, rng)
    elif codec < 0.12 * strength:
        x = mu_law(x)
    gain = 10 ** (-rng.uniform(0, 24) / 20) if rng.random() < 0.9 else rng.uniform(1, 2.5)
    x = np.clip(x * np.float32(gain), -1, 1)
    return Placed(np.round(x * 32767).astype(np.float32) / 32768, start, tempo)
