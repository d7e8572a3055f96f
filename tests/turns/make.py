"""Calls in which it is known what there is to be heard: ``python -m tests.turns.make CORPUS FOLDER``.

People of a corpus (:mod:`tests.ears.corpus`) say something whole, or with a pause for thought in the middle; during an
answer they interrupt it, cough, knock, or say "mhm". ``python -m app.replay.turns FOLDER/*`` makes the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from app.replay.bundle import write_bundle
from engine.client import INPUT_RATE
from tests.ears.corpus import Recording, Wave, frame_levels, read_corpus, room_noise, speech_level, to_pcm

PAUSES_S = (0.3, 0.5, 0.7, 1.0, 1.5)
LEVEL_DBFS = -26.0
LEAD_S, TAIL_S = 1.0, 3.0
ANSWER_S = 1.2
"""How long after a question something is heard in its answer: later than any policy takes to begin it."""

Spoken = tuple[str, Wave]
"""What it is (a kind of :class:`app.replay.turns.ToBeHeard`, or ``silence``) and its sound."""


def ends(wave: Wave) -> tuple[int, int]:
    """First and last sample of the speech in ``wave``: what lies at most 30 dB below its loudest 20 ms."""
    loud = np.flatnonzero(frame_levels(wave) > frame_levels(wave).max() - 30)
    frame = INPUT_RATE // 50
    return int(loud[0]) * frame, int(loud[-1] + 1) * frame


def speech(recording: Recording) -> Wave:
    """The utterance without the room around it, at one level for all."""
    begin, end = ends(recording.wave)
    scale = 10 ** ((LEVEL_DBFS - speech_level(recording.wave)) / 20)
    return np.asarray(recording.wave[begin:end] * scale, np.float32)


def halves(wave: Wave) -> tuple[Wave, Wave] | None:
    """The utterance in two, at its quietest moment in the middle half: between two words, if there are two."""
    levels = frame_levels(wave)
    first, last = len(levels) // 4, 3 * len(levels) // 4
    if last - first < 5:
        return None
    cut = (first + int(np.argmin(levels[first:last]))) * (INPUT_RATE // 50)
    return wave[:cut], wave[cut:]


def cough(rng: np.random.Generator) -> Wave:
    """Two bursts of noise as a cough has them: a hard onset, then a breath that dies away."""
    time = np.arange(round(0.32 * INPUT_RATE)) / INPUT_RATE
    noise = np.convolve(rng.standard_normal(len(time) + 7), np.ones(8) / 8, "valid")
    shape = np.exp(-time / 0.05) + 0.5 * np.exp(-(((time - 0.2) / 0.05) ** 2))
    return np.asarray(0.35 * noise * shape, np.float32)


def hum(rng: np.random.Generator) -> Wave:
    """An "mhm": a closed mouth's tone in two syllables, the second higher."""
    time = np.arange(round(0.38 * INPUT_RATE)) / INPUT_RATE
    pitch = rng.uniform(95, 210) * np.where(time < 0.19, 1.0, 1.25)
    phase = 2 * np.pi * np.cumsum(pitch) / INPUT_RATE
    tone = sum(np.sin(k * phase) / k**2 for k in range(1, 6))
    shape = np.sin(np.pi * np.minimum(time / 0.17, 1)) ** 2 + np.sin(np.pi * np.clip((time - 0.2) / 0.18, 0, 1)) ** 2
    return np.asarray(0.05 * tone * shape, np.float32)


def knock(rng: np.random.Generator) -> Wave:
    """Two knocks on a table."""
    time = np.arange(round(0.3 * INPUT_RATE)) / INPUT_RATE
    hits = [np.where(time >= at, np.exp(-np.maximum(time - at, 0) / 0.012), 0) for at in (0.0, 0.16)]
    body = np.sin(2 * np.pi * 180 * time) + 0.4 * rng.standard_normal(len(time))
    return np.asarray(0.3 * sum(hits) * body, np.float32)


SOUNDS = {"cough": cough, "hum": hum, "knock": knock}


def calls(
    people: Sequence[Recording], rng: np.random.Generator, each: int
) -> Iterator[tuple[str, Recording, list[Spoken]]]:
    """``each`` calls of every kind; silences are pieces of their own."""
    chosen = [person for person in people if len(speech(person)) > 0.8 * INPUT_RATE]
    for number in range(each):
        person, other = (chosen[int(rng.integers(len(chosen)))] for _ in range(2))
        yield f"whole-{number:03d}", person, [("turn", speech(person))]
        for pause in PAUSES_S:
            if (parts := halves(speech(person))) is not None:
                gap = np.zeros(round(pause * INPUT_RATE), np.float32)
                yield (
                    f"pause{1000 * pause:.0f}-{number:03d}",
                    person,
                    [("turn", np.concatenate([parts[0], gap, parts[1]]))],
                )
        later = ("silence", np.zeros(round(ANSWER_S * INPUT_RATE), np.float32))
        yield f"interrupt-{number:03d}", person, [("turn", speech(person)), later, ("interruption", speech(other))]
        for name, make in SOUNDS.items():
            yield f"{name}-{number:03d}", person, [("turn", speech(person)), later, ("sound", make(rng))]
            yield f"alone-{name}-{number:03d}", person, [("sound", make(rng))]


def write(folder: Path, room: Recording, pieces: Sequence[Spoken], rng: np.random.Generator) -> None:
    """One bundle: the pieces in the room of the person, and ``turns.jsonl``."""
    line, heard = [np.zeros(round(LEAD_S * INPUT_RATE), np.float32)], []
    for kind, wave in pieces:
        begin = sum(map(len, line))
        line.append(wave)
        if kind != "silence":
            heard.append({"kind": kind, "begin_s": begin / INPUT_RATE, "end_s": (begin + len(wave)) / INPUT_RATE})
    line.append(np.zeros(round(TAIL_S * INPUT_RATE), np.float32))
    sound = np.concatenate(line)
    scale = 10 ** ((LEVEL_DBFS - speech_level(room.wave)) / 20)
    write_bundle(folder, to_pcm(sound + scale * room_noise(room.wave, len(sound), rng)), INPUT_RATE)
    (folder / "turns.jsonl").write_text("".join(json.dumps(one) + "\n" for one in heard), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.turns.make", description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=10, help="calls of every kind [10]")
    parser.add_argument("--tuning", action="store_true", help="of the people on whom thresholds may be chosen")
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    people = read_corpus(options.corpus, tuning=options.tuning)
    for name, room, pieces in calls(people, rng, options.each):
        write(options.folder / name, room, pieces, rng)


if __name__ == "__main__":
    main()
