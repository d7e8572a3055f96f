"""The language model can repeat before it learned anything."""

from __future__ import annotations

import random

import numpy as np
import torch

from engine.config import OmniConfig
from engine.mini.layout import CHECKPOINT
from engine.mini.stages.dialogue import Dialogue, Said, build, read_words
from engine.mini.stages.induction import plant_induction
from engine.mini.stages.language import ANY_WORDS, Language, long_list, token_builder
from engine.mini.world.grammar import Turn, sentence
from engine.mini.world.words import HeardWords

config = OmniConfig.from_dir(CHECKPOINT)
builder = token_builder(config)
words = HeardWords(builder)


def planted() -> Language:
    torch.manual_seed(0)
    language, special = Language(config), builder.specials
    plant_induction(language.llm, (special.unknown, special.audio_start, special.audio_end))
    return language


def hits(language: Language, lists: list[Dialogue]) -> list[list[bool]]:
    """Of each list, whether each word follows rightly from those before; the first one apart."""
    batch = build(lists, builder, random.Random(0))
    language.eval()  # in training, read words are made unclear
    with torch.no_grad():
        best = language.llm.logits(language.llm(language.embed(batch))).argmax(-1)
    return [
        (best[row, first + 3 : last - 2] == batch.targets[row, first + 3 : last - 2]).tolist()
        for row, first, last, _ in batch.skills
    ]


def test_planted_heads_repeat_what_was_heard() -> None:
    rng, source = np.random.default_rng(0), random.Random(0)
    lists = [long_list(words, rng, source, 0.0) for _ in range(8)]
    torch.manual_seed(0)
    assert np.concatenate(hits(Language(config), lists)).mean() < 0.05
    assert np.concatenate(hits(planted(), lists)).mean() > 0.6


def test_planted_heads_repeat_a_word_that_was_said_twice() -> None:
    rng, source = np.random.default_rng(0), random.Random(0)
    lists = []
    for _ in range(12):
        said = " ".join(word for word in source.sample(ANY_WORDS, 5) for _ in range(2))
        turn = Turn(said, sentence(f"you said {said}"), "dictation")
        lists.append(Dialogue([Said(turn, read=read_words(said, words, rng, 0.0))], None))
    second = [hit for each in hits(planted(), lists) for hit in each[::2]]
    assert np.mean(second) > 0.3
