"""Calls with a loudspeaker beside the microphone: ``python -m tests.turns.echo CORPUS FOLDER``.

Somebody types two questions whose answers take a few seconds to say. In calls called ``alone`` nobody says a word:
what interrupts an answer is its own echo. In calls called ``early`` and ``later`` a person of the corpus talks into
the first or the second answer. ``python -m app.replay.echo FOLDER/*`` makes the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.replay.bundle import write_bundle
from app.replay.leak import Leak
from engine.client import INPUT_RATE
from tests.ears.corpus import Recording, Wave, read_corpus, room_noise, speech_level, to_pcm
from tests.turns.scenes import LEVEL_DBFS, speech

GAINS_DB = (-6.0, -12.0, -20.0)
DELAYS_MS = (120.0, 250.0)
ROOMS_MS = (150.0, 300.0)
QUESTIONS = (
    "Count from one to twenty.",
    "Please count from three to fifteen.",
    "Count from eight to eighteen.",
    "Count down from twelve to one.",
)
ASKED_S = (1.0, 8.0)
"""When the questions are typed."""

INTO_S = 1.2
"""How long after a question somebody talks into its answer."""

LENGTH_S = 14.0


@dataclass(frozen=True, slots=True)
class EchoCall:
    """A call that is to be made. ``talks_s`` is when a person begins to talk, None for never."""

    name: str
    leak: Leak
    questions: tuple[str, str]
    room: Recording
    talks_s: float | None = None
    person: Recording | None = None


def echo_calls(people: Sequence[Recording], rng: np.random.Generator, each: int) -> Iterator[EchoCall]:
    """``each`` calls of every kind for every gain; delays and rooms take turns."""
    chosen = [person for person in people if len(speech(person)) > 0.8 * INPUT_RATE]
    for gain in GAINS_DB:
        for number in range(each):
            leak = Leak(gain, DELAYS_MS[number % 2], ROOMS_MS[number // 2 % 2])
            first, second = (QUESTIONS[int(rng.integers(len(QUESTIONS)))] for _ in range(2))
            room, person = (chosen[int(rng.integers(len(chosen)))] for _ in range(2))
            for kind, talks_s in (("alone", None), ("early", ASKED_S[0] + INTO_S), ("later", ASKED_S[1] + INTO_S)):
                name = f"{kind}{gain:+.0f}-{number:03d}"
                yield EchoCall(name, leak, (first, second), room, talks_s, person if talks_s is not None else None)


def write(folder: Path, call: EchoCall, rng: np.random.Generator) -> None:
    """One bundle, and its ``turns.jsonl``."""
    sound: Wave = np.zeros(round(LENGTH_S * INPUT_RATE), np.float32)
    heard = []
    if call.person is not None and call.talks_s is not None:
        wave, begin = speech(call.person), round(call.talks_s * INPUT_RATE)
        sound = np.pad(sound, (0, max(0, begin + len(wave) - len(sound))))
        sound[begin : begin + len(wave)] += wave
        heard.append({"kind": "interruption", "begin_s": call.talks_s, "end_s": (begin + len(wave)) / INPUT_RATE})
    scale = 10 ** ((LEVEL_DBFS - speech_level(call.room.wave)) / 20)
    sound = sound + scale * room_noise(call.room.wave, len(sound), rng)
    commands = [
        {"t": at, "type": "input.text", "data": {"text": text}}
        for at, text in zip(ASKED_S, call.questions, strict=True)
    ]
    write_bundle(folder, to_pcm(sound), INPUT_RATE, leak=call.leak, commands=commands)
    (folder / "turns.jsonl").write_text("".join(json.dumps(one) + "\n" for one in heard), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.turns.echo", description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=8, help="calls of every kind and gain [8]")
    parser.add_argument("--tuning", action="store_true", help="of the people on whom thresholds may be chosen")
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    for call in echo_calls(read_corpus(options.corpus, tuning=options.tuning), rng, options.each):
        write(options.folder / call.name, call, rng)


if __name__ == "__main__":
    main()
