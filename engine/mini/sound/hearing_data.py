"""Batches of utterances with their phones, made step by step from a seed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.mini.layout import LEXICON
from engine.mini.sound.augment import Placed, place
from engine.mini.sound.hearing import FRAMES, UNIT, WARPS, HeardBatch, to_units
from engine.mini.sound.synthesis import PAUSE, Speech, phone_class
from engine.mini.sound.voices import Voices

FAMILIES = {"espeak": 0.32, "kal": 0.05, "slow": 0.38, "an4": 0.15, "fsdd": 0.05, "prompts": 0.05}
"""Share of each family of voices in training."""
JOINED = 0.2
"""Share of utterances that another one follows, where both together are short enough: few sentences of the grammar
are long, and what is said in the fourth second would hardly be learned."""
MAX_SECONDS = 5


@dataclass(slots=True)
class Utterance:
    """One utterance ready for the encoder."""

    text: str
    samples: NDArray[np.float32]
    labels: NDArray[np.int64]
    """Phone class of each 20 ms frame, -100 where it is not known."""
    word_ends: tuple[float, ...] = ()
    """Seconds at which each word ends, empty where it is not known."""
    phones: list[int] | None = None
    """Phone classes as the synthesizer said them, for a text with words outside of the lexicon."""
    high: bool | None = None
    """Whether the voice is a woman's, where that is known."""

    def classes(self) -> list[int]:
        """Phone classes of the text."""
        return phones_of(self.text) if self.phones is None else self.phones


@lru_cache(maxsize=1)
def lexicon() -> dict[str, list[str]]:
    return dict(json.loads(LEXICON.read_text()))


def phones_of(text: str) -> list[int]:
    """Phone classes of a text; ``a`` is a letter when alone or among letters, as in recorded spelling."""
    words = text.split()
    out: list[int] = []
    for i, word in enumerate(words):
        letter = word == "a" and (
            len(words) == 1 or any(len(w) == 1 for w in words[max(0, i - 1) : i] + words[i + 1 : i + 2])
        )
        out += [phone_class(p) for p in (["EY"] if letter else lexicon().get(word, []))]
    return out


def hear(
    text: str, speech: Speech, rng: np.random.Generator, strength: float, crowd: list[NDArray[np.float32]]
) -> Utterance:
    """Augments one utterance and moves its phone times along."""
    placed = place(speech.samples, speech.rate, rng, strength, crowd)
    ends = speech.word_ends or word_ends(text, speech)
    said: list[int] | None = None
    if speech.phones and any(word not in lexicon() for word in text.split()):
        said = [phone_class(name) for name, _ in speech.phones if name != PAUSE]
    return Utterance(text, placed.samples, frame_labels(speech, placed),
                 tuple(placed.start + end * placed.tempo for end in ends), said, speech.high)  # fmt: skip


def word_ends(text: str, speech: Speech) -> tuple[float, ...]:
    """Ends of the words by counting phones; nothing when the synthesizer said another number than the lexicon has."""
    counts = [len(phones_of(word)) for word in text.split()]
    spoken = [i for i, (name, _) in enumerate(speech.phones) if name != PAUSE]
    if not spoken or sum(counts) != len(spoken) or 0 in counts:
        return ()
    times = [*(start for _, start in speech.phones), len(speech.samples) / speech.rate]
    return tuple(times[spoken[k - 1] + 1] for k in np.cumsum(counts))


def unlabelled(samples: int) -> NDArray[np.int64]:
    """Labels of the frames of whole units, none of them known."""
    return np.full(-(-samples // UNIT) * FRAMES, -100, np.int64)


def frame_labels(speech: Speech, placed: Placed) -> NDArray[np.int64]:
    labels = unlabelled(len(placed.samples))
    if not speech.phones:
        return labels
    starts = [placed.start + start * placed.tempo for _, start in speech.phones]
    names = [name for name, _ in speech.phones]
    times = (np.arange(len(labels)) + 0.5) / FRAMES
    index = np.searchsorted(starts, times, side="right") - 1
    end = placed.start + len(speech.samples) / speech.rate * placed.tempo
    classes = np.array([*(phone_class(n) for n in names), phone_class(PAUSE)])
    return np.where((index < 0) | (times > end), phone_class(PAUSE), classes[index]).astype(np.int64)


def joined(first: Utterance, second: Utterance) -> Utterance:
    """One utterance after the other."""
    frame = UNIT // FRAMES
    frames = len(first.samples) // frame
    samples = np.concatenate([first.samples[: frames * frame], second.samples])
    labels = unlabelled(len(samples))
    labels[:frames] = first.labels[:frames]
    rest = second.labels[: len(labels) - frames]
    labels[frames : frames + len(rest)] = rest
    ends: tuple[float, ...] = ()
    if first.word_ends and second.word_ends:
        ends = (*first.word_ends, *(frames / FRAMES + end for end in second.word_ends))
    return Utterance(f"{first.text} {second.text}", samples, labels, ends, first.classes() + second.classes(),
                 first.high if first.high == second.high else None)  # fmt: skip


def sample(
    voices: Voices, rng: np.random.Generator, strength: float, families: dict[str, float] = FAMILIES
) -> Utterance:
    """What a random voice says, in training sometimes two of them (:data:`JOINED`), at most :data:`MAX_SECONDS`."""
    heard = _utterance(voices, rng, strength, families)
    if strength > 0 and rng.random() < JOINED:
        both = joined(heard, _utterance(voices, rng, strength, families))
        if len(both.samples) <= MAX_SECONDS * UNIT:
            return both
    return heard


def _utterance(voices: Voices, rng: np.random.Generator, strength: float, families: dict[str, float]) -> Utterance:
    while True:
        text, speech = voices.say(rng, voices.pick(families, rng))
        heard = hear(text, speech, rng, strength, voices.crowd)
        if len(heard.samples) <= MAX_SECONDS * UNIT and heard.classes():
            return heard


def collate(
    items: list[Utterance], rng: np.random.Generator, strength: float
) -> tuple[HeardBatch, list[list[int]], Tensor]:
    """Units, phone classes, frame labels [B, n·50]."""
    batch = units_of(items, rng, strength)
    labels = np.full((len(items), batch.units.shape[1] * FRAMES), -100, np.int64)
    for row, h, frames in zip(labels, items, batch.frames, strict=True):
        row[: min(frames, len(h.labels))] = h.labels[:frames]
    return batch, [h.classes() for h in items], torch.from_numpy(labels)


def units_of(items: list[Utterance], rng: np.random.Generator, strength: float) -> HeardBatch:
    """Units, with vocal tracts and equalizers drawn at random where ``strength`` is above 0."""
    batch = to_units([h.samples for h in items])
    if strength > 0:
        middle = len(WARPS) // 2
        reach = round(middle * strength)
        batch.warp = torch.from_numpy(rng.integers(middle - reach, middle + reach + 1, len(items)))
        batch.equalizer = equalizers(rng, len(items), strength)
    return batch


def equalizers(rng: np.random.Generator, count: int, strength: float, bins: int = 201) -> Tensor:
    """Smooth random curves of log power, a few dB."""
    axis = np.linspace(0, np.pi, bins)
    waves = np.cos(np.arange(1, 6)[:, None] * axis)
    gains = rng.standard_normal((count, 5)) * strength * 0.55 / np.sqrt(np.arange(1, 6))
    return torch.from_numpy((gains @ waves).astype(np.float32))
