"""What happens in the calls on which the finding of turns is measured: what is said, when, and in which noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.client import INPUT_RATE
from tests.ears.corpus import Recording, Wave, frame_levels, speech_level
from tests.turns.sounds import REPORT, TUNING, hum, sounds
from tests.turns.voicing import first_voiced
from tests.turns.words import BACKCHANNELS, COMMANDS, FILLERS, word

PAUSES_S = (0.3, 0.5, 0.7, 1.0, 1.5)
LEVEL_DBFS = -26.0
LEAD_S, TAIL_S = 1.0, 3.0
ANSWER = " ".join(["word"] * 20)
ANSWER_S = 6.0
"""The scripted engine takes 0.3 s for each of them."""
ASKED_S = 0.5
"""When the question is typed whose answer somebody makes a sound in: no policy finds the end of it sooner."""
INTO_ANSWER_S = 2.0
OVERLAP_S = 0.35
BEFORE_S = 0.35
"""Silence between a cough and the sentence after it."""
NOISES_DB = (20, 10)
LOOKED_AT = frozenset({
    "an160-mjes-b", "an166-fsrb-b", "an365-mmkw-b", "cen3-ftmj-b", "cen5-ftmj-b", "cen5-mmkw-b", "cen6-mjes-b",
    "cen7-fsrb-b", "cen7-mjes-b", "cen7-mkdb-b", "cen8-fsrb-b", "cen8-mjes-b", "cen8-mmkw-b",
})  # fmt: skip
"""Utterances whose figures were told before thresholds were chosen anew: they are not reported on again."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A sound and what it is: a kind of :class:`app.replay.turn_tally.ToBeHeard`, or ``silence``."""

    kind: str
    wave: Wave
    what: str = ""
    voiced: int | None = None
    """First voiced sample, of an interruption."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One call. ``room`` is whose noise is in it."""

    name: str
    room: Recording
    pieces: tuple[Piece, ...]
    asked: bool = False
    """A question is typed at :data:`ASKED_S`."""
    snr_db: float | None = None
    """Level of the speech above a noise that is there all the time; None for none but the room's."""


def ends(wave: Wave) -> tuple[int, int]:
    """First and last sample of the speech in ``wave``: what lies at most 30 dB below its loudest 20 ms."""
    loud = np.flatnonzero(frame_levels(wave) > frame_levels(wave).max() - 30)
    frame = INPUT_RATE // 50
    return int(loud[0]) * frame, int(loud[-1] + 1) * frame


def levelled(wave: Wave, level_dbfs: float = LEVEL_DBFS) -> Wave:
    """``wave`` without the silence around it, at one level for all."""
    begin, end = ends(wave)
    return np.asarray(wave[begin:end] * 10 ** ((level_dbfs - speech_level(wave)) / 20), np.float32)


def speech(recording: Recording) -> Wave:
    """The utterance without the room around it."""
    return levelled(recording.wave)


def halves(wave: Wave) -> tuple[Wave, Wave] | None:
    """The utterance in two, at its quietest moment in the middle half: between two words, if there are two."""
    levels = frame_levels(wave)
    first, last = len(levels) // 4, 3 * len(levels) // 4
    if last - first < 5:
        return None
    cut = (first + int(np.argmin(levels[first:last]))) * (INPUT_RATE // 50)
    return wave[:cut], wave[cut:]


def silence(seconds: float) -> Piece:
    return Piece("silence", np.zeros(round(seconds * INPUT_RATE), np.float32))


def scenes(
    people: Sequence[Recording],
    single: Sequence[Recording],
    rng: np.random.Generator,
    each: int,
    *,
    tuning: bool = False,
    voices: Path | None = None,
    synthesizers: bool = True,
) -> Iterator[Scene]:
    """``each`` calls of every kind. ``single`` are people's single words, ``voices`` recorded coughs and laughs. The
    kinds that need ``synthesizers``, which are Debian packages, can be left out."""
    chosen = [person for person in people if len(speech(person)) > 0.8 * INPUT_RATE]
    into = silence(ASKED_S + INTO_ANSWER_S - LEAD_S)
    half = TUNING if tuning else REPORT
    for number in range(each):
        person, other = (chosen[int(rng.integers(len(chosen)))] for _ in range(2))
        said, cut_in = speech(person), speech(other)
        turn = Piece("turn", said)
        interruption = Piece("interruption", cut_in, "sentence", first_voiced(cut_in))

        def say(texts: Sequence[str], below_db: float = 0.0) -> Wave:
            return levelled(word(texts, tuning=tuning, people=single, rng=rng), LEVEL_DBFS - below_db)

        yield Scene(f"whole-{number:03d}", person, (turn,))
        for snr_db in NOISES_DB:
            yield Scene(f"whole-{snr_db}dB-{number:03d}", person, (turn,), snr_db=snr_db)
            yield Scene(f"interrupt-{snr_db}dB-{number:03d}", person, (into, interruption), asked=True, snr_db=snr_db)
        if (parts := halves(said)) is not None:
            for pause_s in PAUSES_S:
                paused = Piece("turn", np.concatenate([parts[0], silence(pause_s).wave, parts[1]]))
                yield Scene(f"pause{1000 * pause_s:.0f}-{number:03d}", person, (paused,))
            if synthesizers:
                hesitation = [parts[0], silence(0.25).wave, say(FILLERS, 3), silence(0.3).wave, parts[1]]
                yield Scene(f"hesitation-{number:03d}", person, (Piece("turn", np.concatenate(hesitation)),))
        heard = sounds(tuning=tuning, voices=voices, rng=rng)
        before = Piece("sound", heard.get("cough", heard["made cough"]), "cough before")
        yield Scene(f"cough-before-{number:03d}", person, (before, silence(BEFORE_S), turn))

        yield Scene(f"interrupt-{number:03d}", person, (into, interruption), asked=True)
        if synthesizers:
            stop, again = say(COMMANDS), say(COMMANDS)
            once = Piece("interruption", stop, "one word", first_voiced(stop))
            yield Scene(f"stop-{number:03d}", person, (into, once), asked=True)
            twice = np.concatenate([stop, silence(rng.uniform(0.9, 1.3)).wave, again])
            insists = Piece("interruption", twice, "said twice", first_voiced(stop))
            yield Scene(f"insist-{number:03d}", person, (into, insists), asked=True)
        near = silence(ASKED_S + ANSWER_S - OVERLAP_S - LEAD_S)
        yield Scene(f"overlap-{number:03d}", person, (near, Piece("turn", said, "overlap")), asked=True)

        for what, wave in heard.items():
            yield Scene(f"alone-{_dashed(what)}-{number:03d}", person, (Piece("sound", wave, what),))
        heard["hum"] = levelled(hum(half, rng), LEVEL_DBFS - 3)
        if synthesizers:
            heard["backchannel"] = say(BACKCHANNELS, 3)
        for what, wave in heard.items():
            yield Scene(f"{_dashed(what)}-{number:03d}", person, (into, Piece("sound", wave, what)), asked=True)


def _dashed(what: str) -> str:
    return what.replace(" ", "-")
