"""``python -m engine.mini.open_voice HIBARI`` trains the voice of small and writes its parts.

``HIBARI`` is the unpacked wheel of hibari-tts 0.2.1. Needs onnx, and WordNet (Debian: wordnet-base). Every stage
resumes where it stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from engine.config import OmniConfig
from engine.mini.layout import CHECKPOINT
from engine.mini.open_voice import training
from engine.mini.open_voice.export import export, write_lexicon
from engine.mini.open_voice.synthesis import Hibari
from engine.mini.open_voice.texts import texts
from engine.mini.phones import SYMBOLS
from engine.mini.stages.training import Budget
from engine.processing.pronunciation import Pronunciation
from engine.spec import small_cache

MINUTES = {"open-codec": (13, 1.5e-3), "open-vocoder": (7, 1e-3), "open-talker": (45, 1.3e-3)}
"""Minutes on one processor core with bfloat16, and learning rate."""
SENTENCES = 15_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m engine.mini.open_voice", description=__doc__)
    parser.add_argument("hibari", type=Path, help="the unpacked wheel")
    parser.add_argument(
        "--folder", type=Path, default=Path("build/open-voice"), help="where the stages keep their state"
    )
    parser.add_argument("--parts", type=Path, default=Path("engine/small/parts"), help="where the parts go")
    parser.add_argument("--stage", choices=MINUTES, action="append", help="only these stages")
    made = small_cache() / "small" / "assets" / "voices.safetensors"
    parser.add_argument("--voices", type=Path, default=made, help="the stored voices of an assembled small")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the recipe's minutes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lexicon = args.parts / "assets" / "chattts_tokenizer" / "lexicon.txt.gz"
    write_lexicon(args.hibari, lexicon)
    training.begin(args.folder)
    data = training.said(args.folder, lambda: Hibari(args.hibari, Pronunciation.from_file(lexicon)), texts, SENTENCES)
    config = OmniConfig.from_dir(CHECKPOINT)
    config = replace(config, tts=replace(config.tts, num_text_tokens=len(SYMBOLS)))
    stored = load_file(args.voices)
    voices = F.normalize(torch.stack([stored["woman"], stored["man"]]).float(), dim=-1)
    for stage in args.stage or MINUTES:
        minutes, rate = MINUTES[stage]
        budget = Budget(10**9, minutes * args.scale, rate, warmup=50)
        if stage == "open-codec":
            training.train_codec(config, args.folder, data, budget)
        elif stage == "open-vocoder":
            training.train_vocoder(config, args.folder, data, budget)
        else:
            training.train_talker(config, args.folder, data, voices, budget)
    export(args.folder, args.parts)


if __name__ == "__main__":
    main()
