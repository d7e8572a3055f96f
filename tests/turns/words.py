"""Short words by voices: what people say while they listen, what they say to stop somebody, and "uh".

Synthesizers say them, other voices for each half; and people, where the corpus has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import librosa
import numpy as np

from engine.client import INPUT_RATE
from engine.mini.sound.synthesis import HELD_OUT_VARIANTS, Flite
from engine.mini.sound.voices import espeak
from tests.ears.corpus import Recording, Wave

BACKCHANNELS = ("okay", "yeah", "right", "uh huh", "I see", "sure", "yes", "oh", "really")
COMMANDS = ("stop", "wait", "no", "hold on", "stop it")
FILLERS = ("uh", "um", "er")

TUNING_VOICES = ("f1", "m2", "Alicia", "boris", "edward", "linda", "kal16", "rms")
REPORT_VOICES = (*HELD_OUT_VARIANTS, "awb")
FLITE = ("kal16", "rms", "awb")


def word(texts: Sequence[str], *, tuning: bool, people: Sequence[Recording], rng: np.random.Generator) -> Wave:
    """One of ``texts`` as a synthesizer of the half says it, or, one time in three, as one of ``people`` does."""
    text = str(rng.choice(list(texts)))
    recorded = [person for person in people if person.text in texts]
    if recorded and rng.random() < 1 / 3:
        return recorded[int(rng.integers(len(recorded)))].wave
    return synthesized(text, str(rng.choice(TUNING_VOICES if tuning else REPORT_VOICES)))


@cache
def synthesized(text: str, voice: str) -> Wave:
    """float32 [n] at 16 kHz, by an espeak-ng variant or a flite voice."""
    speech = _flite().speak(text, voice) if voice in FLITE else espeak().speak(text, f"gmw/en-US+{voice}")
    wave = librosa.resample(speech.samples, orig_sr=speech.rate, target_sr=INPUT_RATE)
    return np.asarray(wave, np.float32)


@cache
def _flite() -> Flite:
    return Flite(FLITE)
