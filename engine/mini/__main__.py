"""``python -m engine.mini`` trains mini, stage by stage, and writes its checkpoint.

Every stage resumes where it stopped; ``--stage`` picks some of them. ``make train-mini`` runs them all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from engine.config import OmniConfig
from engine.mini.layout import CHECKPOINT, write_layout
from engine.mini.stages.training import Budget

STAGES = ("hearing", "words", "language", "seeing", "listening", "codec", "vocoder", "talker")


def run_stage(name: str, config: OmniConfig, args: argparse.Namespace, budget: Budget) -> None:
    """One stage, imported when it is wanted: some need programs that others do not."""
    common: dict[str, Any] = {"workers": args.workers, "device": args.device}
    if args.batch:
        common["size"] = args.batch
    folder, people = args.folder, args.people
    if name == "hearing":
        from engine.mini.stages.hearing import train_hearing

        train_hearing(config, folder, people, budget, **common)
    elif name == "words":
        from engine.mini.stages.words import train_words

        train_words(config, folder, people, budget, **common)
    elif name == "language":
        from engine.mini.stages.language import train_language

        train_language(config, folder, budget, **common)
    elif name == "seeing":
        from engine.mini.stages.seeing import train_seeing

        train_seeing(config, folder, budget, **common)
    elif name == "listening":
        from engine.mini.stages.listening import train_listening

        train_listening(config, folder, people, budget, **common)
    else:
        from engine.mini.stages import voice as stage_voice

        runners: dict[str, Callable[..., object]] = {
            "codec": stage_voice.train_codec, "vocoder": stage_voice.train_vocoder, "talker": stage_voice.train_talker,
        }  # fmt: skip
        runners[name](config, folder, budget, **common)


RECIPE: dict[str, tuple[int, float, float]] = {
    "hearing": (20_000, 10, 1.3e-3), "words": (40_000, 90, 1e-3), "language": (5_000, 40, 2e-3),
    "seeing": (20_000, 30, 1.5e-3), "listening": (30_000, 60, 1e-3), "codec": (10_000, 15, 1e-3),
    "vocoder": (20_000, 30, 1e-3), "talker": (40_000, 90, 1.5e-3),
}  # fmt: skip
"""Steps, minutes on two processor cores, and learning rate of every stage."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m engine.mini", description=__doc__)
    parser.add_argument("--stage", choices=STAGES, action="append", help="only these stages, in their order")
    parser.add_argument("--folder", type=Path, default=Path("build/mini"), help="where the stages keep their state")
    people = Path("../shared/data/speech")
    parser.add_argument("--people", type=Path, default=people, help="recorded people: a folder with manifest.jsonl")
    parser.add_argument("--minutes", type=float, help="time of each stage in all its runs (default: the recipe's)")
    parser.add_argument("--steps", type=int, help="steps of each stage (default: the recipe's)")
    parser.add_argument("--rate", type=float, help="learning rate (default: the recipe's)")
    parser.add_argument("--batch", type=int, help="batch size (default: the stage's own, small enough for a processor)")
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches")
    parser.add_argument("--threads", type=int, default=1, help="threads of the computation")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--compile", action="store_true", help="compile transformer layers: faster, needs g++")
    parser.add_argument("--no-export", action="store_true", help="leave the checkpoint as it is")
    parser.add_argument("--unpack", action="store_true", help="let stages that never ran begin at the shipped weights")
    parser.add_argument("--blend", type=float, default=1.0, metavar="SHARE",
                        help="export weights so far on the way from what was unpacked to what was trained")  # fmt: skip
    parser.add_argument("--pack", type=int, metavar="N", help="make shards of N utterances instead of training")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # what attention rules out has shares too small for a processor to be fast at
    torch.set_float32_matmul_precision("high")
    if args.pack:
        from engine.mini.sound.shards import pack

        pack(args.folder, args.people, args.pack)
        return
    write_layout()
    if args.unpack:
        from engine.mini.export import unpack

        unpack(args.folder)
    config = OmniConfig.from_dir(CHECKPOINT)
    for name in args.stage or STAGES:
        steps, minutes, rate = RECIPE[name]
        limit = args.minutes if args.minutes is not None else (None if args.steps else minutes)
        run_stage(name, config, args, Budget(args.steps or steps, limit, args.rate or rate, compiled=args.compile))
    if not args.no_export:
        from engine.mini.export import export
        from engine.mini.measure.plots import plot

        print("exported:", ", ".join(export(config, args.folder, blend=args.blend)))
        plot(args.folder)


if __name__ == "__main__":
    main()
