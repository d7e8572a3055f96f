"""Sentences of which it is known where they are unfinished, read by synthesizers that nothing was trained on.

People of the corpus dictate, and what they have said by a pause is mostly a whole message, too. Here the half is none:
"what is three plus". The reading is cut between two words, so that its melody has not fallen.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.client import INPUT_RATE
from engine.mini.sound.augment import resample
from engine.mini.sound.synthesis import Speech
from engine.mini.sound.voices import espeak
from engine.mini.world import grammar
from engine.mini.world.halves import half
from tests.ears.corpus import Recording, Wave
from tests.turns.scenes import NOISES_DB, PAUSES_S, Piece, Scene, ends, levelled, silence

TUNING_VOICES = ("gmw/en-US+f3", "gmw/en-US+Michael", "gmw/en-US+aunty")
REPORT_VOICES = ("gmw/en-US+m8", "gmw/en-US+steph", "gmw/en-US+Andy", "gmw/en-US+Hugo", "gmw/en-GB-x-rp+Marco")
"""Of those that are only ever reported on (:data:`engine.mini.sound.synthesis.HELD_OUT_VARIANTS`)."""
NOISY_PAUSE_S = 0.7
HESITATION_GAP_S = 0.12
"""Between the last word and the "um"."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence in two parts, float32 [n] at 16 kHz, the first of which is no message; and the speaker's "um"."""

    first: Wave
    second: Wave
    hesitation: Wave


def sentence_scenes(people: Sequence[Recording], each: int, *, tuning: bool) -> Iterator[Scene]:
    """``each`` sentences as they are, and with every pause in their middle, plain and after an "um"; as they are and
    with one of the pauses in noise, too."""
    rng = random.Random(1 if tuning else 2)
    for number, made in zip(range(each), sentences(rng, tuning=tuning), strict=False):
        room, short = rng.choice(people), silence(HESITATION_GAP_S).wave

        def scene(
            name: str, *parts: Wave, snr_db: float | None = None, room: Recording = room, number: int = number
        ) -> Scene:
            return Scene(f"{name}-{number:03d}", room, (Piece("turn", np.concatenate(parts)),), snr_db=snr_db)

        yield scene("sentence", made.first, made.second)
        for pause_s in PAUSES_S:
            pause, name = silence(pause_s).wave, f"{1000 * pause_s:.0f}"
            yield scene(f"unfinished{name}", made.first, pause, made.second)
            yield scene(f"um{name}", made.first, short, made.hesitation, pause, made.second)
        thought = silence(NOISY_PAUSE_S).wave
        for snr_db in NOISES_DB:
            yield scene(f"sentence-{snr_db}dB", made.first, made.second, snr_db=snr_db)
            yield scene(
                f"unfinished{1000 * NOISY_PAUSE_S:.0f}-{snr_db}dB", made.first, thought, made.second, snr_db=snr_db
            )


def sentences(rng: random.Random, *, tuning: bool) -> Iterator[Sentence]:
    """Without end. What mini cannot understand is of the half of such sentences that it was not trained on, except for
    tuning."""
    voices = TUNING_VOICES if tuning else REPORT_VOICES
    while True:
        turn = _turn(rng, judge=not tuning)
        begun = half(turn, rng)
        if begun is None or begun.skill != "half":
            continue
        voice, speed = rng.choice(voices), rng.randint(140, 185)
        spoken = espeak().speak(turn.heard, voice, words_per_minute=speed)
        wave, hesitation = _wave(spoken), _wave(espeak().speak("um", voice, words_per_minute=120))
        if len(spoken.word_ends) != len(turn.heard.split()):
            continue
        cut = round(spoken.word_ends[len(begun.heard.split()) - 1] * INPUT_RATE)
        begin, end = ends(wave)
        if begin + INPUT_RATE // 10 < cut < end - INPUT_RATE // 5:
            scale = float(levelled(wave).max() / wave[begin:end].max())
            yield Sentence(scale * wave[begin:cut], scale * wave[cut:end], levelled(hesitation))


def _wave(spoken: Speech) -> Wave:
    return np.asarray(resample(spoken.samples, spoken.rate, INPUT_RATE), np.float32)


def _turn(rng: random.Random, *, judge: bool) -> grammar.Turn:
    kind = rng.random()
    if kind < 0.3:
        return grammar.everyday(rng, judge=judge)
    if kind < 0.5:
        return (grammar.tell if kind < 0.4 else grammar.recall)(rng, grammar.Memory())
    return rng.choice((grammar.arithmetic, grammar.counting, grammar.small_talk, grammar.blind))(rng)
