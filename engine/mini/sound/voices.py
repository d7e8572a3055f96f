"""Who speaks in training and validation: synthesizers and recorded people behind one call, :meth:`Voices.say`."""

from __future__ import annotations

import json
import random
import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from engine.mini.sound.recorded_words import WordBank, bank_of, packaged
from engine.mini.sound.shards import Library
from engine.mini.sound.synthesis import (
    TRAINING_ACCENTS,
    TRAINING_VARIANTS,
    VALIDATION_VARIANTS,
    Espeak,
    Flite,
    Speech,
    to_float,
)
from engine.mini.sound.synthesis_programs import festival, has_pico, has_rhvoice, pico, rhvoice
from engine.mini.world import grammar
from engine.mini.world.conversations import shown_conversation

VALIDATION_PEOPLE = ("an4-fclc", "an4-fsrb", "an4-mjes", "an4-mkdb", "an4-mmkw", "an4-ftmj", "fsdd-theo")
"""Recorded people kept out of training."""

READERS = {"espeak": 0.5, "kal": 0.1, "rms": 0.1, "slt": 0.1, "pico": 0.15, "rhvoice": 0.05}
"""Shares of those that read what nobody recorded."""

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
        high = self.speaker.startswith("an4-f") if self.speaker.startswith("an4") else None
        return Speech(to_float(self.samples), self.rate, high=high)


def draw(shares: dict[str, float], rng: Generator) -> str:
    """One of ``shares``, each as often as its number says compared with the others."""
    return str(rng.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))


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
    """Something to say: mostly of the grammar, some questions with the camera on, and names, which nothing else in a
    conversation says."""
    source = random.Random(int(rng.integers(1 << 60)))
    kind = rng.random()
    if kind < 0.04:
        return grammar.invented(source).heard
    if kind < 0.2:
        return source.choice(shown_conversation(source))[0].heard
    if kind < 0.3:
        return grammar.tell_name(source, grammar.Memory()).heard
    return grammar.turn(source).heard


class Voices:
    """All training voices. ``cache`` keeps what slow synthesizers said, ``people`` is the folder of recordings. Where
    ``cache`` has shards (:mod:`engine.mini.sound.shards`), the synthesizers are not needed."""

    def __init__(
        self,
        cache: Path,
        people: Path,
        *,
        slow_utterances: int = 3000,
        validation: bool = False,
        packed: bool = True,
    ) -> None:
        self.validation = validation
        library = Library(cache, "judges" if validation else "speech")
        self.library = library if packed and len(library) else None
        every = [r for r in recordings(people) if (r.speaker in VALIDATION_PEOPLE) == validation]
        self.an4 = [r for r in every if r.speaker.startswith("an4")]
        digits: dict[str, list[Recording]] = defaultdict(list)
        for r in every:
            if r.speaker.startswith("fsdd"):
                digits[r.speaker].append(r)
        self.digits = [bank_of(who, ((r.text, r.samples, r.rate) for r in takes)) for who, takes in digits.items()]
        self.packaged: list[WordBank] = [] if validation else packaged()
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
        needs: dict[str, list[Any]] = {
            "an4": self.an4, "fsdd": self.digits, "prompts": self.packaged, "slow": self.slow,
        }  # fmt: skip
        return bool(needs.get(family, True))

    def pick(self, shares: dict[str, float], rng: Generator) -> str:
        """One of the families of ``shares`` that can speak here."""
        return draw({family: share for family, share in shares.items() if self.has(family)}, rng)

    def say(self, rng: Generator, family: str) -> tuple[str, Speech]:
        """A text and its reading by one voice of ``family``: espeak, kal, slow, an4, fsdd or prompts."""
        if self.library is not None and self.library.families.get(family):
            stored = self.library.families[family]
            return self.library.get(stored[rng.integers(len(stored))])
        if family == "an4":
            recording = self.an4[rng.integers(len(self.an4))]
            return recording.text, recording.speech()
        if family in ("fsdd", "prompts"):
            banks = self.digits if family == "fsdd" else self.packaged
            return banks[rng.integers(len(banks))].say(rng)
        if family == "slow":
            return self.slow[rng.integers(len(self.slow))]
        text = question(rng)
        return text, self.read(text, rng, family)

    def stranger(self, rng: Generator) -> Speech:
        """Somebody of whom it is known whether it is a woman or a man, for a voice prompt."""
        while True:
            _, speech = self.say(rng, str(rng.choice([f for f in ("slow", "espeak", "an4") if self.has(f)])))
            if speech.high is not None:
                return speech

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
        if family == "pico":
            return pico(text, str(rng.choice(("en-US", "en-GB"))), rng)
        if family == "rhvoice":
            return rhvoice(text, str(rng.choice(("bdl", "clb"))), rng)
        return flite().speak(text, {"kal": "kal16"}.get(family, family))

    def readers(self) -> dict[str, float]:
        """Families that can read any text, and how often each shall: those that are slow, seldom."""
        if self.validation:
            return {"espeak": 1.0}
        there = {"pico": has_pico(), "rhvoice": has_rhvoice()}
        return {family: share for family, share in READERS.items() if there.get(family, True)}


Reader = Callable[[list[str], Generator], list[Speech]]


def _slow_voices() -> dict[str, tuple[float, Reader]]:
    """Voices that are too slow to be synthesized in every step: how much they say, compared with the first, and how.
    Those of programs that are not installed are left out."""

    def each(read: Callable[..., Speech], voice: str) -> Reader:
        return lambda texts, rng: [read(text, voice, rng) for text in texts]

    voices: dict[str, tuple[float, Reader]] = {
        "rms": (1, lambda texts, _: [flite().speak(text, "rms") for text in texts]),
        "slt": (1, lambda texts, _: [flite().speak(text, "slt") for text in texts]),
        "kal_diphone": (1 / 3, lambda texts, _: festival(texts, "kal_diphone")),
        "slt_hts": (1 / 3, lambda texts, _: festival(texts, "cmu_us_slt_arctic_hts")),
    }
    if has_rhvoice():
        voices |= {voice: (1, each(rhvoice, voice)) for voice in ("bdl", "clb")}
    if has_pico():
        voices |= {accent: (1, each(pico, accent)) for accent in ("en-US", "en-GB")}
    return voices


def cached_speech(cache: Path, count: int) -> list[tuple[str, Speech]]:
    """What the slow voices said, made once and kept in ``cache``: ``count`` utterances of the first."""
    out: list[tuple[str, Speech]] = []
    for voice, (share, read) in _slow_voices().items():
        file = cache / f"slow_{voice}.npz"
        if not file.exists():
            rng = np.random.default_rng(zlib.crc32(voice.encode()))
            texts = [question(rng) for _ in range(int(share * count))]
            _store(file, texts, read(texts, rng))
        out += _stored(file)
    return out


def _store(file: Path, texts: list[str], spoken: list[Speech]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    index = [
        [text, s.rate, len(s.samples), [list(p) for p in s.phones], s.high]
        for text, s in zip(texts, spoken, strict=True)
    ]
    audio = np.concatenate([np.round(s.samples * 32767).astype(np.int16) for s in spoken])
    np.savez(file, audio=audio, index=np.array(json.dumps(index)))


def _stored(file: Path) -> list[tuple[str, Speech]]:
    stored = np.load(file)
    audio, out, at = stored["audio"], [], 0
    for text, rate, length, phones, high in json.loads(str(stored["index"])):
        samples = to_float(audio[at : at + length])
        out.append((text, Speech(samples, rate, tuple((n, s) for n, s in phones), high=high)))
        at += length
    return out
