"""What a scripted engine says as sound: a soft melody, one note a word, so that nobody takes it for a voice."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from engine.client import OUTPUT_RATE
from engine.spoken import Starts

CHUNK_SAMPLES = 12_000
"""Speech per chunk: 0.5 s at 24 kHz."""

PENTATONIC_HZ = (220.0, 246.9, 277.2, 329.6, 370.0, 440.0)

Spoken = tuple[str, NDArray[np.int16], Starts]


def speak(words: list[str]) -> list[Spoken]:
    """Words as (text, pcm, starts of its words) per chunk, which holds the words that begin in it."""
    notes = [_note(word) for word in words]
    samples = np.cumsum([0] + [len(note) for note in notes])
    characters = np.cumsum([0] + [len(word) + (i > 0) for i, word in enumerate(words)])
    speech = np.concatenate(notes) if notes else np.zeros(0, np.int16)
    pieces: list[Spoken] = []
    for begin in range(0, len(speech), CHUNK_SAMPLES):
        here = [i for i in range(len(words)) if begin <= samples[i] < begin + CHUNK_SAMPLES]
        text = "".join(words[i] if i == 0 else f" {words[i]}" for i in here)
        starts = tuple((int(characters[i]), int(samples[i])) for i in here)
        pieces.append((text, speech[begin : begin + CHUNK_SAMPLES], starts))
    return pieces


def _note(word: str) -> NDArray[np.int16]:
    """A soft tone whose pitch and length follow from the word, with a short rest after it (24 kHz)."""
    digest = zlib.crc32(word.encode())
    pitch = PENTATONIC_HZ[digest % len(PENTATONIC_HZ)]
    length = int(OUTPUT_RATE * (0.14 + 0.03 * min(len(word), 10)))
    time = np.arange(length) / OUTPUT_RATE
    tone = np.sin(2 * np.pi * pitch * time) + 0.3 * np.sin(4 * np.pi * pitch * time)
    envelope = np.sin(np.pi * np.arange(length) / length) ** 2
    rest = np.zeros(OUTPUT_RATE // 25, np.int16)
    return np.concatenate([(tone * envelope * 4_000).astype(np.int16), rest])
