"""Speech packed for a machine without synthesizers: Ogg Opus files with an index, each at most about 50 MB.

``pack`` writes ``<folder>/shards/speech-000.ogg`` and ``.json``; :class:`Library` reads them. Recorded people are
packed too, so that the shards alone are enough for the stages that need sound.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from numpy.typing import NDArray
from tqdm import tqdm

from engine.mini.sound.augment import RATE, resample
from engine.mini.sound.synthesis import Speech, to_float

if TYPE_CHECKING:
    from engine.mini.sound.voices import Voices

UTTERANCES_PER_SHARD = 6000
GAP = RATE // 10
"""Silence between utterances, so that the codec does not smear one into the next."""
JUDGES = 600
"""Utterances of the validation voices, packed beside."""
JUDGE_SHARES = {"espeak": 0.4, "an4": 0.35, "fsdd": 0.25}
FAMILY_SHARES = {"espeak": 0.55, "kal": 0.12, "slow": 0.15, "an4": 0.09, "fsdd": 0.05, "prompts": 0.04}


def pack(folder: Path, people: Path, count: int, seed: int = 9) -> list[Path]:
    """Makes ``count`` utterances of the training voices. Recorded people come in at their share of them."""
    from engine.mini.sound.voices import Voices

    written = []
    for prefix, total, wanted in (("speech", count, FAMILY_SHARES), ("judges", JUDGES, JUDGE_SHARES)):
        voices = Voices(folder, people, validation=prefix == "judges", packed=False)
        written += _pack(voices, folder / "shards", prefix, total, wanted, seed)
    return written


def _pack(voices: Voices, target: Path, prefix: str, count: int, wanted: dict[str, float], seed: int) -> list[Path]:
    """``count`` utterances of the families that exist."""
    target.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    written = []
    for number, start in enumerate(range(0, count, UTTERANCES_PER_SHARD)):
        parts: list[NDArray[np.float32]] = []
        index, at = [], 0
        for _ in tqdm(range(min(UTTERANCES_PER_SHARD, count - start)), desc=f"shard {number}", mininterval=5):
            family = voices.pick(wanted, rng)
            text, speech = voices.say(rng, family)
            x = resample(speech.samples, speech.rate, RATE)
            x = x / (np.abs(x).max() + 1e-6) * np.float32(0.7)
            phones = [[name, round(time, 3)] for name, time in speech.phones]
            index.append([family, text, at, len(x), phones, [round(t, 3) for t in speech.word_ends],
                          speech.high])  # fmt: skip
            parts += [x, np.zeros(GAP, np.float32)]
            at += len(x) + GAP
        file = target / f"{prefix}-{number:03d}.ogg"
        soundfile.write(file, np.concatenate(parts), RATE, format="OGG", subtype="OPUS")
        file.with_suffix(".json").write_text(json.dumps(index))
        written.append(file)
    return written


class Library:
    """Packed utterances: by family, and by what is said in them."""

    def __init__(self, folder: Path, prefix: str = "speech") -> None:
        self._audio: list[NDArray[np.int16]] = []
        self._items: list[tuple[int, int, int, str, tuple[tuple[str, float], ...], tuple[float, ...], bool | None]] = []
        self.families: dict[str, list[int]] = defaultdict(list)
        self.texts: dict[str, list[int]] = defaultdict(list)
        for file in sorted((folder / "shards").glob(f"{prefix}-*.ogg")):
            samples, rate = soundfile.read(file, dtype="int16")
            assert rate == RATE, f"{file} has {rate} Hz instead of {RATE}"
            self._audio.append(samples)
            for family, text, at, length, phones, ends, high in json.loads(file.with_suffix(".json").read_text()):
                self.families[family].append(len(self._items))
                self.texts[text].append(len(self._items))
                self._items.append(
                    (len(self._audio) - 1, at, length, text, tuple((n, t) for n, t in phones), tuple(ends), high)
                )

    def __len__(self) -> int:
        return len(self._items)

    def get(self, number: int) -> tuple[str, Speech]:
        shard, at, length, text, phones, ends, high = self._items[number]
        samples = to_float(self._audio[shard][at : at + length])
        return text, Speech(samples, RATE, phones, ends, high)
