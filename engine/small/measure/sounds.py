"""Recordings to be understood, and what may come between a mouth and a microphone: noise, a room."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from engine.client import INPUT_RATE, UNIT_SAMPLES

Wave = NDArray[np.float32]
CONDITIONS = ("clean", "20 dB", "10 dB", "room")
ROOM_S = 0.5
"""Reverberation time of the room, to -60 dB."""
LEAD_S, TAIL_S = 0.3, 0.6
"""What a turn holds before and behind the speech."""
LEAST_SAMPLES = INPUT_RATE // 5
"""Of a unit: the encoder needs a few frames."""


@dataclass(frozen=True, slots=True)
class SpeechSample:
    """What somebody said: float32 [n] at 16 kHz."""

    speaker: str
    text: str
    wave: Wave


def read_corpus(folder: Path, speakers: Sequence[str] = (), most: int | None = None) -> list[SpeechSample]:
    """The recordings of a folder with a ``manifest.jsonl`` (``file``, ``speaker``, ``text`` a line), of people whose
    names begin with one of ``speakers``, a text once each; ``most`` evenly chosen ones."""
    lines = (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    rows: dict[tuple[str, str], Path] = {}
    for row in map(json.loads, lines):
        if not speakers or row["speaker"].startswith(tuple(speakers)):
            rows.setdefault((row["speaker"], row["text"]), folder / row["file"])
    chosen = list(rows.items())
    if most is not None and len(chosen) > most:
        chosen = [chosen[index * len(chosen) // most] for index in range(most)]
    return [SpeechSample(speaker, text, decode(path)) for (speaker, text), path in chosen]


def decode(path: Path) -> Wave:
    """A sound file, mono at 16 kHz."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", INPUT_RATE)
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def units(wave: Wave) -> Iterator[Wave]:
    """A sound second by second, as a call gives it to a model."""
    for begin in range(0, len(wave), UNIT_SAMPLES):
        unit = wave[begin : begin + UNIT_SAMPLES]
        yield np.pad(unit, (0, max(0, LEAST_SAMPLES - len(unit))))


def under(recording: SpeechSample, condition: str) -> Wave:
    """The recording with its loudest sample at half and silence around it, under one of :data:`CONDITIONS`. Every
    recording has noise of its own."""
    rng = np.random.default_rng(zlib.crc32(f"{recording.speaker} {recording.text}".encode()))
    wave = 0.5 * recording.wave / (np.abs(recording.wave).max() + 1e-9)
    loud = loudness(wave)
    wave = np.pad(wave, (round(LEAD_S * INPUT_RATE), round(TAIL_S * INPUT_RATE)))
    if condition.endswith(" dB"):
        noise = pink(len(wave), rng)
        wave = wave + noise * np.sqrt(loud / 10 ** (float(condition.removesuffix(" dB")) / 10))
    elif condition == "room":
        wave = reverberant(wave, rng)
    return np.asarray(wave / max(1.0, float(np.abs(wave).max())), np.float32)


def loudness(wave: Wave) -> float:
    """Mean square of what is loud in a sound: its blocks of 25 ms without the quietest third."""
    size = INPUT_RATE // 40
    power = np.sort((wave[: max(1, len(wave) // size) * size].reshape(-1, min(size, len(wave))) ** 2).mean(1))
    return float(power[len(power) // 3 :].mean())


def pink(samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise that falls 3 dB an octave from 20 Hz on, of power 1."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.fft.rfftfreq(samples, 1 / INPUT_RATE), 20)), samples)
    return np.asarray(noise / np.sqrt(np.mean(noise**2)))


def reverberant(wave: Wave, rng: np.random.Generator) -> NDArray[np.float64]:
    """In a room: behind the direct sound an exponentially fading tail of the same energy (3 m away, say)."""
    length = round(ROOM_S * INPUT_RATE)
    tail = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    tail[: INPUT_RATE // 200] = 0
    impulse = tail / np.sqrt((tail**2).sum())
    impulse[0] = 1.0
    size = 1 << (len(wave) + length).bit_length()
    wet = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(impulse, size), size)[: len(wave)]
    return np.asarray(0.5 * wet / (np.abs(wet).max() + 1e-9))
