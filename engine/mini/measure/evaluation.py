"""Validation calls: bundles by skill, voice family and noise, replayed through the whole app and scored.

``python -m engine.mini.measure.evaluation make FOLDER`` writes them, ``… score FOLDER`` replays them with ``python -m
app.replay`` and prints the table of the model card. No voice in them was trained on; flite's ``awb`` was not
even used to choose anything.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.mini.measure.calls import write_call
from engine.mini.sound.augment import RATE, add_noise, noise_pool, resample
from engine.mini.sound.hearing import edit_distance
from engine.mini.sound.synthesis import Flite, Speech
from engine.mini.sound.voices import Voices
from engine.mini.world import grammar
from engine.mini.world.conversations import seen_turn
from engine.mini.world.halves import some_half
from engine.mini.world.rendering import JUDGE_FONTS, render
from engine.mini.world.scenes import Scene, random_scene

NOISES: tuple[float | None, ...] = (None, 20.0, 10.0)
SPOKEN = ("dictation", "arithmetic", "counting", "smalltalk", "ood")
READ_BY = ("espeak", "awb")
LEAD_S, TAIL_S = 0.8, 2.5


def spoken_turn(skill: str, rng: random.Random) -> grammar.Turn:
    make = {"dictation": grammar.dictation, "arithmetic": grammar.arithmetic, "counting": grammar.counting,
            "smalltalk": grammar.small_talk, "ood": grammar.strange}[skill]  # fmt: skip
    return make(rng)


def recording(
    speeches: list[Speech], snr: float | None, rng: np.random.Generator
) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Utterances with silence between them, and noise over all, as int16 at 16 kHz."""
    parts = [np.zeros(int(LEAD_S * RATE), np.float32)]
    for speech in speeches:
        x = resample(speech.samples, speech.rate, RATE)
        parts += [0.5 * x / (np.abs(x).max() + 1e-6), np.zeros(int(TAIL_S * RATE), np.float32)]
    x = np.concatenate(parts)
    if snr is not None:
        noise = np.resize(noise_pool()["pink"], len(x))
        x = add_noise(x, noise, snr)
    else:
        x = x + 1e-4 * rng.standard_normal(len(x)).astype(np.float32)
    return np.round(np.clip(x, -1, 1) * 32767).astype(np.int16)


@dataclass(slots=True)
class Case:
    """One call: ``turns`` read by ``family``, with noise, and what the camera shows all the time."""

    family: str
    turns: list[grammar.Turn]
    speeches: list[Speech]
    snr: float | None
    picture: bytes | None = None


def cases(people: Path, folder: Path, each: int) -> Iterator[Case]:
    voices = Voices(folder, people, validation=True)
    awb = Flite(("awb",))

    def read(text: str, family: str, rng: np.random.Generator) -> Speech:
        return awb.speak(text, "awb") if family == "awb" else voices.read(text, rng, family)

    for snr in NOISES:
        rng, source = np.random.default_rng(1), random.Random(1)
        for _ in range(each):
            for skill in SPOKEN:
                for family in READ_BY:
                    turn = spoken_turn(skill, source)
                    yield Case(family, [turn], [read(turn.heard, family, rng)], snr)
            for family in ("an4", "fsdd"):
                if getattr(voices, "digits" if family == "fsdd" else family):
                    text, speech = voices.say(rng, family)
                    if turn_or := grammar.answer_to(text):
                        yield Case(family, [turn_or], [speech], snr)
            memory = grammar.Memory()
            told = grammar.tell(source, memory)
            wanted = {0: memory.name, 1: memory.number, 2: memory.word}
            while True:
                asked = grammar.recall(source, memory)
                if any(v and v.lower() in asked.answer.lower() for v in wanted.values()):
                    break
            for family in READ_BY:
                yield Case(family, [told, asked], [read(t.heard, family, rng) for t in (told, asked)], snr)
            for family in READ_BY:
                scene = random_scene(source)
                seen = seen_turn(scene, source)
                yield Case(family, [seen], [read(seen.heard, family, rng)], snr, photograph(scene, source))


def photograph(scene: Scene, source: random.Random) -> bytes:
    """The scene as a camera sends it: 640 pixels on the longer side, JPEG."""
    picture = render(scene, source, fonts=JUDGE_FONTS)
    ratio = 640 / max(picture.size)
    file = io.BytesIO()
    picture.resize((round(picture.width * ratio), round(picture.height * ratio))).save(file, "JPEG", quality=90)
    return file.getvalue()


def make(folder: Path, people: Path, cache: Path, each: int) -> int:
    """Writes the bundles; returns how many."""
    count = 0
    rng = np.random.default_rng(3)
    for case in cases(people, cache, each):
        level = "clean" if case.snr is None else f"{case.snr:.0f}db"
        expect = [{"turn": i, "text_exact": turn.answer, "note": turn.heard} for i, turn in enumerate(case.turns, 1)]
        sound = recording(case.speeches, case.snr, rng)
        frames = {0: case.picture} if case.picture else None  # the newest picture goes with every unit
        write_call(folder / f"{count:04d}_{case.turns[-1].skill}_{case.family}_{level}", sound, RATE, options=OPTIONS,
                     frames=frames, expect=expect)  # fmt: skip
        count += 1
    count = refusals(folder, people, cache, 2 * each, count)
    source = random.Random(5)
    for _ in range(each * 4):
        scene = random_scene(source)
        asked = seen_turn(scene, source)
        command = {"t": 1.0, "type": "input.text", "data": {"text": asked.heard}}
        silence = (1e-4 * 32767 * rng.standard_normal(3 * RATE)).astype(np.int16)
        write_call(folder / f"{count:04d}_seeing_typed_clean", silence, RATE, options=OPTIONS, commands=[command],
                     frames={0: photograph(scene, source)},
                     expect=[{"text_exact": asked.answer, "note": asked.heard}])  # fmt: skip
        count += 1
    for _ in range(each):
        noise = noise_pool()[source.choice(("white", "pink", "brown"))][: 10 * RATE] * 10 ** (
            -source.uniform(20, 45) / 20
        )
        samples = np.round(np.clip(noise, -1, 1) * 32767).astype(np.int16)
        write_call(folder / f"{count:04d}_noise_noise_clean", samples, RATE, options=OPTIONS,
                     expect=[{"text_not": ["you said", "is", "my"], "note": "noise"}])  # fmt: skip
        count += 1
    return count


def refusals(folder: Path, people: Path, cache: Path, each: int, count: int) -> int:
    """Writes bundles of everyday sentences that were kept apart, and of halves of messages, from number ``count`` on;
    returns the number after the last."""
    voices = Voices(cache, people, validation=True)
    rng, source = np.random.default_rng(7), random.Random(7)
    for _ in range(each):
        for turn in (grammar.everyday(source, judge=True), some_half(source, judge=True)):
            skill = "half" if not turn.over else "everyday"
            speech = voices.read(turn.heard, rng, "espeak")
            expect = [{"turn": 1, "text_exact": turn.answer, "note": turn.heard}]
            write_call(folder / f"{count:04d}_{skill}_espeak_clean", recording([speech], None, rng), RATE,
                       options=OPTIONS, expect=expect)  # fmt: skip
            count += 1
    return count


OPTIONS = {"preset": "omni", "speak": False, "barge_in": False}
"""Answers in text: speech is judged by itself."""


def replay(folder: Path, model: Path | None, out: Path | None = None) -> dict[str, Any]:
    """What ``app.replay`` prints of all bundles in ``folder``; it writes their events and answers to ``out``."""
    command = [sys.executable, "-m", "app.replay", "--json", "--device", "cpu"]
    command += ["--model", str(model)] if model else []
    command += ["--out", str(out)] if out else []
    done = subprocess.run([*command, *map(str, sorted(folder.iterdir()))], capture_output=True, text=True, check=False)
    if not done.stdout:
        raise RuntimeError(f"app.replay failed: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def score(result: dict[str, Any]) -> str:
    """The table: share of answers that are exactly right, by skill and family, and the word error rate of dictation."""
    hits: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
    errors: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for bundle in result["bundles"]:
        _, skill, family, noise = Path(bundle["bundle"]).name.split("_")
        checks = bundle["expectations"]
        right = bool(checks) and bool(checks[-1]["passed"])
        if skill == "noise":  # saying nothing is right too
            right = all(turn["text"].strip() in ("", grammar.NOT_UNDERSTOOD) for turn in bundle["turns"])
        hits[skill, family, noise].append(right)
        if skill == "dictation":
            wanted = grammar.plain(str(checks[-1]["expected"])).split()[2:]
            got = grammar.plain(" ".join(turn["text"] for turn in bundle["turns"][:1])).split()
            heard = got[2:] if got[:2] == ["you", "said"] else []
            pair = errors[family, noise]
            pair[0] += edit_distance([hash(w) for w in heard], [hash(w) for w in wanted])
            pair[1] += len(wanted)
    lines = ["| skill | voices | clean | 20 dB | 10 dB |", "|---|---|---|---|---|"]

    def cell(values: list[bool]) -> str:
        return f"{100 * sum(values) / len(values):.0f} % ({sum(values)}/{len(values)})" if values else "–"

    for skill, family in sorted({(s, f) for s, f, _ in hits}):
        row = [cell(hits.get((skill, family, noise), [])) for noise in ("clean", "20db", "10db")]
        lines.append(f"| {skill} | {family} | {' | '.join(row)} |")
    for family in sorted({f for f, _ in errors}):
        pairs = [errors.get((family, noise), [0, 0]) for noise in ("clean", "20db", "10db")]
        row = [f"{100 * wrong / said:.0f} %" if said else "–" for wrong, said in pairs]
        lines.append(f"| dictation, word error rate | {family} | {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m engine.mini.measure.evaluation", description=__doc__)
    parser.add_argument("action", choices=("make", "score"))
    parser.add_argument("bundles", type=Path)
    parser.add_argument("--people", type=Path, default=Path("../shared/data/speech"))
    parser.add_argument("--folder", type=Path, default=Path("build/mini"), help="where speech of slow voices is kept")
    parser.add_argument("--each", type=int, default=8, help="bundles of each kind")
    parser.add_argument("--model", type=Path, help="checkpoint in place of the shipped one")
    args = parser.parse_args()
    if args.action == "make":
        print(make(args.bundles, args.people, args.folder, args.each), "bundles")
    else:
        print(score(replay(args.bundles, args.model)))


if __name__ == "__main__":
    main()
