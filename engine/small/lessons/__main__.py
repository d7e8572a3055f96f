"""``python -m engine.small.lessons own|learn``: the two steps from an assembled small to its LoRA.

``own OUT`` asks the model the questions of ``general.txt`` and keeps its short answers; ``learn OUT --own FILE``
trains.
The result, an adapter in peft's layout, belongs into ``engine/small/parts/language/``, where assembling finds it.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import torch

from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import load_checkpoint
from engine.processing.tokens import TokenBuilder
from engine.serving.checks import MAX_PROMPT_CHARS
from engine.serving.live_engine import read_text
from engine.small.assemble import TEXTS
from engine.small.lessons.learn import Lesson, learn, read_own
from engine.small.measure.judge import Question
from engine.small.measure.typed import Typist, is_short
from engine.spec import small_cache

GENERAL = Path(__file__).with_name("general.txt")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m engine.small.lessons", description=__doc__)
    parser.add_argument("step", choices=("own", "learn"))
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--model", type=Path, default=small_cache() / "small", help="small, assembled without an adapter"
    )
    parser.add_argument("--own", type=Path, help="the model's own answers")
    parser.add_argument("--minutes", type=float, default=60.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tell = partial(print, flush=True)
    if arguments.step == "own":
        keep_own(arguments.model, arguments.out)
        return
    loaded = load_checkpoint(arguments.model, LoadOptions(device="cpu", quantize="none", progress=False))
    own = read_own(arguments.own) if arguments.own else []
    build = TokenBuilder(loaded.tokenizer, loaded.config)
    prompt = read_text(TEXTS / "prompt.txt", MAX_PROMPT_CHARS)
    learn(loaded, build, prompt, own, Lesson(arguments.minutes), arguments.out, tell)


def keep_own(model: Path, out: Path) -> None:
    """The model's own answers to general questions, those that are short and come to their end."""
    typist = Typist(load_checkpoint(model, LoadOptions(device="cpu", progress=False)), model)
    questions = [Question("own", (line,), ()) for line in GENERAL.read_text(encoding="utf-8").splitlines()]
    with out.open("w", encoding="utf-8") as file:
        for asked in typist.ask_all(questions):
            if is_short(asked) and asked.answers[-1].endswith((".", "!", "?")):
                file.write(json.dumps({"asked": asked.question.turns[0], "said": asked.answers[-1]}) + "\n")
                file.flush()


if __name__ == "__main__":
    main()
