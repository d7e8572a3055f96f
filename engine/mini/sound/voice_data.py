"""What mini says, read by the two voices that it learns to speak with: sound at 24 kHz, log-mel, phones in time."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.mini.sound.augment import resample
from engine.mini.sound.synthesis import Speech
from engine.mini.sound.synthesis_programs import festival
from engine.mini.sound.voices import flite
from engine.mini.world import grammar
from engine.mini.world.scenes import ask, random_scene

RATE, N_FFT, HOP, BINS = 24_000, 1024, 256, 100
VOICES = ("slt", "rms")
"""A woman's voice (festival's statistical slt, 32 kHz) and a man's (flite's rms, 16 kHz)."""


@dataclass(frozen=True, slots=True)
class Sentence:
    voice: int
    text: str
    samples: NDArray[np.int16]
    phones: tuple[tuple[str, float], ...]


def answers(count: int, seed: int) -> list[str]:
    """Different answers of the grammar, long ones cut."""
    source = random.Random(seed)
    seen: dict[str, None] = {}
    while len(seen) < count:
        text = ask(random_scene(source), source)[1] if source.random() < 0.2 else grammar.turn(source).answer
        if len(text) < 70:
            seen[text] = None
    return list(seen)


def sentences(folder: Path, count: int) -> list[Sentence]:
    """``count`` sentences of the first voice and half as many of the second, in any order, made once and
    kept in ``folder``."""
    file = folder / "voice.npz"
    if not file.exists():
        made: list[tuple[int, str, Speech]] = []
        for voice, texts in ((0, answers(count, 1)), (1, answers(count // 2, 2))):
            spoken = (
                festival(texts, "cmu_us_slt_arctic_hts") if voice == 0 else [flite().speak(t, "rms") for t in texts]
            )
            made += [(voice, text, speech) for text, speech in zip(texts, spoken, strict=True)]
        random.Random(3).shuffle(made)  # the last ones are kept for validation
        parts, index = [], []
        for voice, text, speech in made:
            x = resample(speech.samples, speech.rate, RATE)
            x = np.round(x / (np.abs(x).max() + 1e-6) * 0.7 * 32767).astype(np.int16)
            x = x[: len(x) // (2 * HOP) * 2 * HOP]
            parts.append(x)
            index.append([voice, text, len(x), [list(p) for p in speech.phones]])
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(file, audio=np.concatenate(parts), index=np.array(json.dumps(index)))
    stored = np.load(file)
    audio, out, at = stored["audio"], [], 0
    for voice, text, length, phones in json.loads(str(stored["index"])):
        out.append(Sentence(voice, text, audio[at : at + length], tuple((n, s) for n, s in phones)))
        at += length
    return out


@lru_cache(maxsize=1)
def mel_bank() -> Tensor:
    """Triangular filters on the HTK mel scale, [N_FFT / 2 + 1, BINS]: the features that Vocos is defined on."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, BINS + 2) / 2595) - 1)
    bands = np.linspace(0, RATE / 2, N_FFT // 2 + 1)[:, None]
    rising = (bands - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bands) / (edges[2:] - edges[1:-1])
    return torch.from_numpy(np.minimum(rising, falling).clip(min=0)).float()


def log_mel(wave: Tensor) -> Tensor:
    """Wave [B, N] → [B, BINS, N / HOP] natural logarithm of the mel magnitudes."""
    window = torch.hann_window(N_FFT, device=wave.device)
    half = (N_FFT - HOP) // 2
    padded = torch.nn.functional.pad(wave[:, None], (half, half), mode="reflect")[:, 0]
    spectrum = torch.stft(padded, N_FFT, HOP, window=window, center=False, return_complex=True).abs()
    return (spectrum.transpose(1, 2) @ mel_bank().to(wave.device)).clamp(min=1e-5).log().transpose(1, 2)
