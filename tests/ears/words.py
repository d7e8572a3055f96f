"""What mini understands of a sound, through the whole call: ``app.replay`` on a bundle, and the words it says back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.replay.bundle import write_bundle
from app.replay.cli import ReplayOptions, Result, replay_bundles

SAID = "you said"
"""How mini's answer to a dictation begins."""


@dataclass(slots=True)
class Score:
    """Words over many utterances."""

    utterances: int = 0
    words: int = 0
    errors: int = 0
    unanswered: int = 0
    first_right: int = 0

    def add(self, text: str, heard: str | None) -> None:
        """``heard`` is None where the call did not notice the utterance."""
        wanted, got = text.split(), (heard or "").split()
        self.utterances += 1
        self.words += len(wanted)
        self.errors += word_errors(wanted, got)
        self.unanswered += heard is None
        self.first_right += got[:1] == wanted[:1]

    @property
    def wer(self) -> float:
        return self.errors / max(1, self.words)

    def __str__(self) -> str:
        first = self.first_right / max(1, self.utterances)
        return f"WER {self.wer:6.1%}, first word right {first:4.0%}, unanswered {self.unanswered}/{self.utterances}"


def word_errors(wanted: Sequence[str], got: Sequence[str]) -> int:
    """Words to substitute, insert and delete to make ``got`` of ``wanted`` (Levenshtein)."""
    row = list(range(len(got) + 1))
    for i, word in enumerate(wanted, 1):
        above, row[0] = row[0], i
        for j, other in enumerate(got, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (word != other))
    return row[-1]


def understand(
    sounds: Mapping[str, NDArray[np.int16]], rate: int, options: Mapping[str, Any] | None = None
) -> dict[str, str | None]:
    """What mini says that it was told, by name: lower-case words, or None where it was asked nothing. ``sounds`` are
    int16 [n] at ``rate``, each a call of its own with ``options``."""
    with TemporaryDirectory() as folder:
        bundles = []
        for name, pcm in sounds.items():
            path = write_bundle(Path(folder) / name, pcm, rate, options={"speak": False, **(options or {})})
            bundles.append((name, path))
        results = asyncio.run(replay_bundles(bundles, ReplayOptions()))
    return {result.name: _dictated(result) for result in results}


def _dictated(result: Result) -> str | None:
    if result.fault is not None:
        raise RuntimeError(result.fault)
    answers = [turn["text"] for turn in result.as_json()["turns"] if turn["text"]]
    if not answers:
        return None
    said = [re.sub(r"[^a-z' ]", "", answer.lower()).strip() for answer in answers]
    return " ".join(answer.removeprefix(SAID).strip() for answer in said if answer.startswith(SAID))
