"""Who speaks in training and validation: synthesizers and recorded people behind one call, :meth:`Voices.say`."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from engine.mini import grammar
from engine.mini.shards import Library
from engine.mini.synthesis import (
    TRAINING_ACCENTS,
    TRAINING_VARIANTS,
    VALIDATION_VARIANTS,
    Espeak,
    Flite,
    Speech,
    festival,
    to_float,
)
from engine.mini.vocabulary import SHAPES

VALIDATION_PEOPLE = ("an4-fclc", "an4-fsrb", "an4-mjes", "an4-mkdb", "an4-mmkw", "an4-ftmj", "fsdd-theo")
"""Recorded people kept out of training."""

Generator = np.random.Generator


@lru_cache(maxsize=1)
def espeak() -> Espeak:
    """The process's one espeak-ng."""
    return Espeak()


@lru_cache(maxsize=1)
def flite() -> Flite:
    """The process's one flite."""
    return Flite()


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded utterance, int16 mono."""

    speaker: str
    text: str
    samples: NDArray[np.int16]
    rate: int

    def speech(self) -> Speech:
        return Speech(to_float(self.samples), self.rate)


def recordings(folder: Path) -> list[Recording]:
    """Reads ``manifest.jsonl`` and its sound files; an absent folder gives none."""
    manifest = folder / "manifest.jsonl"
    if not manifest.exists():
        return []
    out = []
    for line in manifest.read_text().splitlines():
        entry = json.loads(line)
        samples, rate = soundfile.read(folder / entry["file"], dtype="int16")
        out.append(Recording(entry["speaker"], entry["text"], samples, rate))
    return out


def question(rng: Generator) -> str:
    """Something to say: mostly of the grammar, some questions for the camera."""
    import random

    source = random.Random(int(rng.integers(1 << 60)))
    if rng.random() < 0.1:
        colour = source.choice(("red", "green", "blue", "yellow", "black", "white", "orange", "purple"))
        return source.choice(grammar.SEEING_QUESTIONS).format(shape=source.choice(SHAPES), colour=colour)
    return grammar.turn(source).heard


class Voices:
    """All training voices. ``cache`` keeps what slow synthesizers said, ``people`` is the folder of recordings. Where
    ``cache`` has shards (:mod:`engine.mini.shards`), the synthesizers are not needed."""

    def __init__(
        self,
        cache: Path,
        people: Path,
        *,
        slow_utterances: int = 1200,
        validation: bool = False,
        packed: bool = True,
    ) -> None:
        self.validation = validation
        library = Library(cache, "judges" if validation else "speech")
        self.library = library if packed and len(library) else None
        every = [r for r in recordings(people) if (r.speaker in VALIDATION_PEOPLE) == validation]
        self.an4 = [r for r in every if r.speaker.startswith("an4")]
        self.digits: dict[str, list[Recording]] = defaultdict(list)
        for r in every:
            if r.speaker.startswith("fsdd"):
                self.digits[r.speaker].append(r)
        if self.library is not None:
            self.slow = []
            self.crowd = [self.library.get(i)[1].samples for i in range(min(12, len(self.library)))]
            return
        self.slow = [] if validation else cached_speech(cache, slow_utterances)
        self.crowd = [flite().speak(question(np.random.default_rng(i)), "kal16").samples for i in range(12)]

    def has(self, family: str) -> bool:
        """Whether this family can speak here."""
        if self.library is not None:
            return bool(self.library.families.get(family))
        return bool(self.an4) if family == "an4" else bool(self.digits) if family == "fsdd" else True

    def say(self, rng: Generator, family: str) -> tuple[str, Speech]:
        """A text and its reading by one voice of ``family``: espeak, kal, slow, slt, an4 or fsdd."""
        if self.library is not None and self.library.families.get(family):
            stored = self.library.families[family]
            return self.library.get(stored[rng.integers(len(stored))])
        if family == "an4":
            recording = self.an4[rng.integers(len(self.an4))]
            return recording.text, recording.speech()
        if family == "fsdd":
            return self._digits(rng)
        if family == "slow":
            return self.slow[rng.integers(len(self.slow))]
        text = question(rng)
        return text, self.read(text, rng, family)

    def read(self, text: str, rng: Generator, family: str) -> Speech:
        """A given text, by a synthesizer; from the shards where there are some. Raises KeyError when no shard has
        it."""
        if self.library is not None:
            stored = self.library.texts.get(text)
            if not stored:
                raise KeyError(text)
            return self.library.get(stored[rng.integers(len(stored))])[1]
        if family == "espeak":
            variants = VALIDATION_VARIANTS if self.validation else TRAINING_VARIANTS
            accents = ("gmw/en-US", "gmw/en-GB-x-rp") if self.validation else TRAINING_ACCENTS
            voice = f"{rng.choice(accents)}+{rng.choice(variants)}"
            return espeak().speak(
                text, voice, words_per_minute=int(rng.integers(125, 215)), pitch=int(rng.integers(20, 85)),
                spread=int(rng.integers(20, 90)),
            )  # fmt: skip
        return flite().speak(text, {"kal": "kal16"}.get(family, family))

    def _digits(self, rng: Generator) -> tuple[str, Speech]:
        """One to five recorded digits of one speaker in a row."""
        speaker = sorted(self.digits)[rng.integers(len(self.digits))]
        words, parts, ends, at = [], [], [], 0.0
        for _ in range(int(rng.choice((1, 1, 1, 2, 3, 4, 5)))):
            one = self.digits[speaker][rng.integers(len(self.digits[speaker]))]
            words.append(one.text)
            x = one.speech().samples
            parts += [x / (np.abs(x).max() + 1e-6), np.zeros(int(one.rate * rng.uniform(0.03, 0.3)), np.float32)]
            ends.append(at + len(x) / one.rate)
            at = ends[-1] + len(parts[-1]) / one.rate
        return " ".join(words), Speech(np.concatenate(parts), 8000, (), tuple(ends))


def cached_speech(cache: Path, count: int) -> list[tuple[str, Speech]]:
    """Utterances of voices that are too slow to be synthesized in every step: flite ``rms``, festival ``kal``."""
    file = cache / "slow.npz"
    if not file.exists():
        rng = np.random.default_rng(11)
        texts = [question(rng) for _ in range(count)]
        made = [(t, flite().speak(t, "rms")) for t in texts]
        others = [question(rng) for _ in range(count // 2)]
        made += list(zip(others, festival(others, "kal_diphone"), strict=True))
        cache.mkdir(parents=True, exist_ok=True)
        index = [[text, s.rate, len(s.samples), [list(p) for p in s.phones]] for text, s in made]
        audio = np.concatenate([np.round(s.samples * 32767).astype(np.int16) for _, s in made])
        np.savez(file, audio=audio, index=np.array(json.dumps(index)))
    stored = np.load(file)
    audio, out, at = stored["audio"], [], 0
    for text, rate, length, phones in json.loads(str(stored["index"])):
        samples = to_float(audio[at : at + length])
        out.append((text, Speech(samples, rate, tuple((n, s) for n, s in phones))))
        at += length
    return out
