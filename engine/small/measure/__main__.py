"""``python -m engine.small.measure``: what small is worth, in tables for its model card.

``typed``: the fixed questions (``questions.txt``), typed. ``heard FOLDER``: words of recordings (``manifest.jsonl``)
that are read wrong. ``spoken FOLDER``: recordings of the fixed questions, answered as they were read, beside the same
questions typed. ``seen [FOLDER]``: pictures that are named, and asked about; FOLDER has photographs.

``--model`` names another model of the official layout, mini for one. One that reads no words is asked by the sound
itself; ``heard`` and ``seen`` are not for it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch

from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import load_checkpoint
from engine.small.measure import heard, seen, spoken, typed
from engine.small.measure.judge import read_questions
from engine.small.measure.sounds import CONDITIONS, SpeechSample, read_corpus, under
from engine.spec import QUANTIZATIONS, small_cache

T = TypeVar("T")
PHOTOS = (".jpg", ".jpeg", ".png")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m engine.small.measure", description=__doc__)
    parser.add_argument("what", choices=("typed", "heard", "spoken", "seen"))
    parser.add_argument("folder", nargs="?", type=Path, help="recordings with a manifest.jsonl; photographs")
    parser.add_argument("--model", type=Path, default=small_cache() / "small", help="default: the assembled small")
    parser.add_argument("--adapter", type=Path, help="what python -m engine.small.lessons wrote")
    parser.add_argument("--prompt", help="what the model is told at the start, in place of its own prompt.txt")
    parser.add_argument("--quantize", choices=QUANTIZATIONS, default="auto")
    parser.add_argument("--kinds", type=_names, default=(), metavar="A,B", help="of the questions; default: all")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth question")
    parser.add_argument("--speakers", type=_names, default=(), metavar="A,B", help="beginnings of names; default: all")
    parser.add_argument("--conditions", type=_names, default=CONDITIONS, metavar="A,B", help=f"of {CONDITIONS}")
    parser.add_argument("--most", type=int, metavar="N", help="recordings, or pictures of a kind (30)")
    parser.add_argument("--half", choices=seen.HALVES, default="report", help="of the pictures")
    parser.add_argument("--out", type=Path, help="file that gets every answer, a line of JSON each")
    options = parser.parse_args()
    if options.what in ("heard", "spoken") and options.folder is None:
        parser.error(f"{options.what} needs a folder with recordings")
    torch.set_num_threads(1)
    kinds, every = options.kinds, options.every
    questions = [question for question in read_questions() if not kinds or question.kind in kinds][::every]
    loaded = load_checkpoint(
        options.model, LoadOptions(device="cpu", quantize=options.quantize, adapter=options.adapter, progress=False)
    )
    reads = loaded.config.reader is not None
    if options.what in ("heard", "seen") and not reads:
        parser.error(f"{options.what} needs a model that reads words and names pictures; {options.model} does not")
    typist = typed.Typist(loaded, options.model, prompt=options.prompt)
    if options.what == "typed":
        print(typed.table(list(_kept(typist.ask_all(questions), options.out))))
        return
    if options.what == "seen":
        _see(typist, options)
        return
    recordings = read_corpus(options.folder, options.speakers, options.most)
    ears = heard.CallReader(loaded)
    if options.what == "heard":
        print(heard.table(list(_kept(heard.hear_all(ears, recordings, options.conditions), options.out))))
        return

    def hear(recording: SpeechSample, condition: str) -> typed.Turn:
        wave = under(recording, condition)
        return ears.read(wave) if reads else wave

    asked = spoken.spoken_questions(questions, recordings)
    answers = spoken.ask_spoken(asked, options.conditions, hear, typist.ask_all)
    print(spoken.table(list(_kept(answers, options.out))))


def _see(typist: typed.Typist, options: argparse.Namespace) -> None:
    photos = (
        [] if options.folder is None else sorted(path for path in options.folder.rglob("*") if path.suffix in PHOTOS)
    )
    count = options.most or 30
    print(seen.table(list(_kept(seen.name_all(typist.stream, options.half, count, photos), options.out))))
    asked = seen.questions_about(options.half, count)
    print(seen.answers_table(list(_kept(seen.ask_all(typist, asked), options.out))))


def _kept(results: Iterable[T], out: Path | None) -> Iterator[T]:
    """The same, each written to a file as it comes."""
    for result in results:
        if out is not None:
            row: Any = result
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row)) + "\n")
        yield result


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


if __name__ == "__main__":
    main()
