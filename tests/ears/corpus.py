"""Recorded people for measuring: which of them, at which level, in the noise of their own room.

A corpus is a folder with recordings and a ``manifest.jsonl`` whose lines hold ``file``, ``speaker`` and ``text``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from engine.client import INPUT_RATE

REPORT = ("an4-fclc", "an4-ftmj", "an4-fsrb", "an4-mjes", "an4-mkdb", "an4-mmkw", "fsdd-theo")
"""People whom figures are told of: mini was not trained on them. Thresholds are to be chosen on all others."""

COMMANDS = frozenset(["yes", "no", "go", "stop", "start", "help", "enter", "erase", "rubout", "repeat"])
"""Words that mini takes for something other than dictation."""

LEVEL_FRAME = INPUT_RATE // 50
ACTIVE_DB = 25.0
"""Speech is what lies at most this far below its loudest 20 ms, for the purpose of telling its level."""

Wave = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recording:
    """One utterance: float32 [n] at 16 kHz, with full scale at 1."""

    name: str
    speaker: str
    text: str
    wave: Wave


def read_corpus(
    folder: Path, *, tuning: bool = False, most: int | None = None, commands: bool = False
) -> list[Recording]:
    """What the people for tuning or for the report dictate, single digits once each, or which :data:`COMMANDS` they
    give; ``most`` evenly chosen ones."""
    rows: list[tuple[str, str, Path]] = []
    for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        speaker, text = row["speaker"], row["text"]
        words = text.split()
        new = len(words) > 1 or (speaker, text) not in {known[:2] for known in rows}
        if (speaker in REPORT) != tuning and new and commands == bool(COMMANDS.intersection(words)):
            rows.append((speaker, text, folder / row["file"]))
    step = max(1, len(rows) / most) if most else 1
    chosen = [rows[int(i * step)] for i in range(int(len(rows) / step))]
    return [Recording(file.stem, speaker, text, decode(file)) for speaker, text, file in chosen]


def frame_levels(wave: Wave) -> Wave:
    """RMS level of every 20 ms, dB relative to full scale."""
    frames = wave[: len(wave) // LEVEL_FRAME * LEVEL_FRAME].reshape(-1, LEVEL_FRAME).astype(np.float64)
    power = (frames - frames.mean(1, keepdims=True)) ** 2
    return np.asarray(10 * np.log10(power.mean(1) + 1e-12), np.float32)


def speech_level(wave: Wave) -> float:
    """Active level of the speech in ``wave``, dBFS: pauses do not count (the idea of ITU-T P.56, simplified)."""
    levels = frame_levels(wave)
    active = levels[levels >= levels.max() - ACTIVE_DB]
    return float(10 * np.log10(np.mean(10 ** (active / 10))))


def at_level(recording: Recording, level_dbfs: float, *, lead_s: float, tail_s: float, seed: int) -> Wave:
    """The utterance with its speech at ``level_dbfs`` and its own room before and after it. As a microphone with less
    gain would have it: the room's noise falls with the speech; a converter's noise, 85 dB below full scale, does not.
    """
    rng = np.random.default_rng(seed)
    room = room_noise(recording.wave, round((lead_s + tail_s) * INPUT_RATE), rng)
    lead = round(lead_s * INPUT_RATE)
    line = np.concatenate([room[:lead], recording.wave, room[lead:]])
    line = line * 10 ** ((level_dbfs - speech_level(recording.wave)) / 20)
    converter = rng.standard_normal(len(line)) * 10 ** (-85 / 20)
    return np.asarray(line + converter, np.float32)


def room_noise(wave: Wave, samples: int, rng: np.random.Generator) -> Wave:
    """Noise with the spectrum of the quietest tenth of ``wave``: float32 [samples]."""
    size = 512
    blocks = wave[: len(wave) // size * size].reshape(-1, size)
    power = np.abs(np.fft.rfft(blocks * np.hanning(size))) ** 2
    quietest = np.argsort(power.sum(1))[: max(1, len(blocks) // 10)]
    shape = np.sqrt(power[quietest].mean(0) / (np.hanning(size) ** 2).sum())
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    bins = np.linspace(0, size // 2, len(spectrum))
    return np.fft.irfft(spectrum * np.interp(bins, np.arange(len(shape)), shape), samples).astype(np.float32)


def true_onset_s(recording: Recording) -> float:
    """Where the utterance begins to be heard, seconds: the first of three 20 ms frames in a row that stand 10 dB above
    the quietest tenth and at most 30 dB below the loudest."""
    levels = frame_levels(recording.wave)
    loud = levels >= max(np.percentile(levels, 10) + 10, levels.max() - 30)
    runs = np.flatnonzero(loud[:-2] & loud[1:-1] & loud[2:])
    return float(runs[0] if len(runs) else 0) * LEVEL_FRAME / INPUT_RATE


def to_pcm(wave: Wave) -> NDArray[np.int16]:
    """float32 → int16 of the same shape."""
    return np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16)


def frames_of(pcm: NDArray[np.int16]) -> Iterable[NDArray[np.int16]]:
    """Whole frames of 20 ms."""
    return pcm[: len(pcm) // LEVEL_FRAME * LEVEL_FRAME].reshape(-1, LEVEL_FRAME)


def decode(path: Path) -> Wave:
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", INPUT_RATE)
        frames = [f for frame in container.decode(audio=0) for f in resampler.resample(frame)]
        return np.concatenate([f.to_ndarray()[0] for f in [*frames, *resampler.resample(None)]])
