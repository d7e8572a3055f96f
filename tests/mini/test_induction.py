"""The language model can repeat before it learned anything."""

from __future__ import annotations

import random

import numpy as np
import torch

from engine.config import OmniConfig
from engine.mini.dialogue import build
from engine.mini.induction import plant_induction
from engine.mini.layout import CHECKPOINT
from engine.mini.stage_language import Language, long_list, token_builder
from engine.mini.words import HeardWords

config = OmniConfig.from_dir(CHECKPOINT)


def repeated(language: Language) -> float:
    """Share of the words of long lists, the first one apart, that follow rightly from those before."""
    builder = token_builder(config)
    rng, source = np.random.default_rng(0), random.Random(0)
    batch = build([long_list(HeardWords(builder), rng, source, 0.0) for _ in range(8)], builder, source)
    with torch.no_grad():
        best = language.llm.logits(language.llm(language.embed(batch))).argmax(-1)
    right = total = 0
    for row, first, last, _ in batch.skills:
        inside = slice(first + 3, last - 3)
        right += int((best[row, inside] == batch.targets[row, inside]).sum())
        total += last - first - 6
    return right / total


def test_planted_heads_repeat_what_was_heard() -> None:
    torch.manual_seed(0)
    language, special = Language(config), token_builder(config).specials
    assert repeated(language) < 0.05
    plant_induction(language.llm, (special.unknown, special.audio_start, special.audio_end))
    assert repeated(language) > 0.3
