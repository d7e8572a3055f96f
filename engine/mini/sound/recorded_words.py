"""Single words that people recorded, put together to what one of them might have said: digits, letters, dates.

Beside the digits of the Free Spoken Digit Dataset, two Debian packages hold such recordings: asterisk's English prompts
(Allison Smith; CC BY-SA 3.0) and the alphabets of KLettres. A package that is not installed is left out.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from engine.mini.sound.augment import resample
from engine.mini.sound.synthesis import Speech, to_float
from engine.mini.world import grammar
from engine.mini.world.vocabulary import LETTERS, MONTHS, ORDINALS, TENS, UNITS

RATE = 16_000
ASTERISK = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
KLETTRES = Path("/usr/share/klettres")
FLOOR_DB = 35.0
"""Silence before and after a word is what lies this far below its loudest 10 ms."""


@dataclass(slots=True)
class WordBank:
    """One person's recordings: word → float32 takes at 16 kHz."""

    speaker: str
    takes: dict[str, list[NDArray[np.float32]]] = field(default_factory=lambda: defaultdict(list))

    def sentence(self, rng: np.random.Generator) -> str:
        """Something of the grammar that this person recorded every word of."""
        source = random.Random(int(rng.integers(1 << 60)))
        makers = (grammar.digits, grammar.letters, grammar.date, grammar.spoken_number, grammar.mixed)
        for _ in range(8):
            text = source.choice(makers)(source)
            if all(word in self.takes for word in text.split()):
                return text
        return " ".join(source.choice(sorted(self.takes)) for _ in range(source.choice((1, 1, 1, 2, 3, 4, 5))))

    def say(self, rng: np.random.Generator) -> tuple[str, Speech]:
        """A text and its reading, with the time at which each word ends."""
        text = self.sentence(rng)
        parts: list[NDArray[np.float32]] = []
        ends, at = [], 0
        pause = rng.uniform(0.02, 0.3)
        for word in text.split():
            takes = self.takes[word]
            x = takes[rng.integers(len(takes))]
            gap = int(RATE * pause * rng.uniform(0.5, 1.5))
            parts += [x, np.zeros(gap, np.float32)]
            ends.append((at + len(x)) / RATE)
            at += len(x) + gap
        return text, Speech(np.concatenate(parts), RATE, (), tuple(ends))


def trimmed(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Without the silence around it, its loudest sample at 1."""
    x = x / (float(np.abs(x).max()) + 1e-6)
    blocks = x[: len(x) // 160 * 160].reshape(-1, 160)
    if not len(blocks):
        return x
    loud = np.sqrt((blocks**2).mean(1))
    inside = np.flatnonzero(loud > loud.max() * 10 ** (-FLOOR_DB / 20))
    return x[max(0, inside[0] - 1) * 160 : (inside[-1] + 2) * 160]


def decode(file: Path) -> NDArray[np.float32]:
    """Any sound file as float32 mono at 16 kHz."""
    with av.open(str(file), format="g722" if file.suffix == ".g722" else None) as container:
        resampler = av.AudioResampler("s16", "mono", RATE)
        frames = [f for frame in container.decode(audio=0) for f in resampler.resample(frame)]
        return to_float(np.concatenate([f.to_ndarray()[0] for f in [*frames, *resampler.resample(None)]]))


def _asterisk_names() -> Iterable[tuple[str, str]]:
    """File below the voice's folder, and the word in it."""
    for number in (*range(21), *range(30, 100, 10)):
        word = UNITS[number] if number < 20 else TENS[number // 10 - 2]
        yield f"digits/{number}", word
    for index, word in enumerate(ORDINALS):
        yield f"digits/h-{index + 1 if index < 20 else 30}", word
    for index, word in enumerate(MONTHS):
        yield f"digits/mon-{index}", word
    for index, word in enumerate(("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")):
        yield f"digits/day-{index}", word
    yield from (("digits/hundred", "hundred"), ("digits/oh", "oh"), ("digits/minus", "minus"), ("letters/plus", "plus"))
    yield from (("digits/today", "today"), ("digits/tomorrow", "tomorrow"), ("digits/yesterday", "yesterday"))
    yield from ((f"letters/{letter}", letter) for letter in LETTERS)


def packaged() -> list[WordBank]:
    """The people of the Debian packages that are installed."""
    banks = []
    if ASTERISK.is_dir():
        bank = WordBank("asterisk-allison")
        for name, word in _asterisk_names():
            if (file := ASTERISK / f"{name}.g722").exists():
                bank.takes[word].append(trimmed(decode(file)))
        banks.append(bank)
    for language in ("en", "en_GB"):
        bank = WordBank(f"klettres-{language}")
        for letter in LETTERS:
            if letter == "z" and language == "en_GB":  # "zed", which mini does not know
                continue
            if (file := KLETTRES / language / "alpha" / f"{letter.upper()}.ogg").exists():
                bank.takes[letter].append(trimmed(decode(file)))
        if bank.takes:
            banks.append(bank)
    return banks


def bank_of(speaker: str, recordings: Iterable[tuple[str, NDArray[np.int16], int]]) -> WordBank:
    """A bank of (word, int16 samples, Hz)."""
    bank = WordBank(speaker)
    for word, samples, rate in recordings:
        bank.takes[word].append(trimmed(resample(to_float(samples), rate, RATE)))
    return bank
