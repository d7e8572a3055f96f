"""Calls in which it is known what there is to be heard: ``python -m tests.turns.make CORPUS FOLDER``.

People of a corpus (:mod:`tests.ears.corpus`) say something whole, or with a pause for thought in the middle; during an
answer they interrupt it, cough, knock, or say "mhm" (:mod:`tests.turns.scenes`). Synthesizers read sentences that are
unfinished at a pause (:mod:`tests.turns.sentences`). Then

    python -m app.replay.turns FOLDER/*/ --engine scripted --script FOLDER/script.json

makes the tables.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from app.replay.bundle import write_bundle
from engine.client import INPUT_RATE
from tests.ears.corpus import read_corpus, room_noise, speech_level, to_pcm
from tests.turns.prompts import prompt_scenes
from tests.turns.scenes import ANSWER, ASKED_S, LEAD_S, LEVEL_DBFS, LOOKED_AT, TAIL_S, Scene, scenes
from tests.turns.sentences import sentence_scenes


def write(folder: Path, scene: Scene, rng: np.random.Generator) -> None:
    """One bundle: the pieces in the room of the person, and ``turns.jsonl``."""
    line, heard = [np.zeros(round(LEAD_S * INPUT_RATE), np.float32)], []
    for piece in scene.pieces:
        begin = sum(map(len, line))
        line.append(piece.wave)
        if piece.kind != "silence":
            entry = {"kind": piece.kind, "begin_s": begin / INPUT_RATE, "end_s": (begin + len(piece.wave)) / INPUT_RATE}
            entry |= {"what": piece.what} if piece.what else {}
            heard.append(entry if piece.voiced is None else entry | {"voiced_s": (begin + piece.voiced) / INPUT_RATE})
    line.append(np.zeros(round(TAIL_S * INPUT_RATE), np.float32))
    sound = np.concatenate(line)
    scale = 10 ** ((LEVEL_DBFS - speech_level(scene.room.wave)) / 20)
    sound += scale * room_noise(scene.room.wave, len(sound), rng)
    if scene.snr_db is not None:
        sound += 10 ** ((LEVEL_DBFS - scene.snr_db) / 20) * _pink(len(sound), rng)
    typed = {"t": ASKED_S, "type": "input.text", "data": {"text": "Tell me something."}}
    write_bundle(folder, to_pcm(sound), INPUT_RATE, commands=[typed] if scene.asked else [])
    (folder / "turns.jsonl").write_text("".join(json.dumps(one) + "\n" for one in heard), encoding="utf-8")


def _pink(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise with as much power in every octave, RMS 1: float32 [samples]."""
    frequency = np.maximum(np.fft.rfftfreq(samples, 1 / INPUT_RATE), 50)
    wave = np.fft.irfft(np.fft.rfft(rng.standard_normal(samples)) / np.sqrt(frequency), samples)
    return np.asarray(wave / wave.std(), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.turns.make", description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=8, help="calls of every kind [8]")
    parser.add_argument("--tuning", action="store_true", help="of the people on whom thresholds may be chosen")
    parser.add_argument("--voices", type=Path, help="Hedgewars' Data/Sounds/voices, for recorded coughs and laughs")
    parser.add_argument("--prompts", type=Path, help="asterisk's sounds/en_US_f_Allison, for recorded sentences")
    options = parser.parse_args()
    rng = np.random.default_rng(1 if options.tuning else 2)
    dictated = read_corpus(options.corpus, tuning=options.tuning)
    commands = read_corpus(options.corpus, tuning=options.tuning, commands=True)
    people = [said for said in [*dictated, *commands] if " " in said.text and said.name not in LOOKED_AT]
    for scene in scenes(people, commands, rng, options.each, tuning=options.tuning, voices=options.voices):
        write(options.folder / scene.name, scene, rng)
    if options.prompts is not None:
        for scene in prompt_scenes(options.prompts, people, options.each, tuning=options.tuning):
            write(options.folder / scene.name, scene, rng)
    for scene in sentence_scenes(people, options.each, tuning=options.tuning):
        write(options.folder / scene.name, scene, rng)
    (options.folder / "script.json").write_text(json.dumps({"answers": [ANSWER]}))


if __name__ == "__main__":
    main()
