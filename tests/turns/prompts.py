"""Sentences that a person recorded, whole and with a pause in the middle: the prompts of a telephone exchange.

They are those of Debian's ``asterisk-core-sounds-en-g722`` (Allison Smith; CC BY-SA 3.0). Mini knows few of their
words, so that little but the melody tells that they are over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from engine.client import INPUT_RATE
from tests.ears.corpus import Recording, Wave, decode
from tests.turns.scenes import PAUSES_S, Piece, Scene, halves, levelled, silence

LENGTHS_S = (1.8, 6.0)


def prompt_scenes(folder: Path, people: Sequence[Recording], each: int, *, tuning: bool) -> Iterator[Scene]:
    """``each`` prompts as they are and with every pause; every other one is for tuning."""
    rng = np.random.default_rng(1 if tuning else 2)
    files = sorted(folder.glob("*.g722"))[tuning::2]
    made = 0
    for index in rng.permutation(len(files)):
        wave = levelled(decode(files[index]))
        parts = halves(wave)
        if parts is None or not LENGTHS_S[0] <= len(wave) / INPUT_RATE <= LENGTHS_S[1]:
            continue
        room = people[int(rng.integers(len(people)))]

        def scene(name: str, *pieces: Wave, room: Recording = room, stem: str = files[index].stem) -> Scene:
            return Scene(f"{name}-{stem}", room, (Piece("turn", np.concatenate(pieces)),))

        yield scene("prompt", wave)
        for pause_s in PAUSES_S:
            yield scene(f"prompt{1000 * pause_s:.0f}", parts[0], silence(pause_s).wave, parts[1])
        made += 1
        if made == each:
            return
