"""Which words there are in mini's world."""

from __future__ import annotations

import random

from engine.mini.world import grammar
from engine.mini.world.small_talk import SMALL_TALK
from engine.mini.world.vocabulary import COMMANDS, LETTERS, MONTHS, NAMES, ORDINALS, TENS, UNITS, WEEKDAYS, WORDS


def lexicon_words() -> list[str]:
    """Every word that can be heard or said, sorted: the vocabulary of the tokenizers and of the pronunciations."""
    rng = random.Random(0)
    seen: set[str] = set(WORDS + NAMES + LETTERS + UNITS + TENS + ORDINALS + MONTHS + WEEKDAYS + COMMANDS)
    seen.update(grammar.STRANGE_WORDS)
    for wordings, answer in SMALL_TALK.values():
        seen.update(" ".join((*wordings, grammar.plain(answer))).split())
    for _ in range(20_000):
        made = grammar.turn(rng, grammar.Memory(name="anna", number="one", word="apple", last="one"))
        if made.skill != "everyday":
            seen.update(f"{made.heard} {grammar.plain(made.answer)}".split())
    return sorted(seen)


def heard_words() -> list[str]:
    """Every word that the ears can tell, sorted; what is said in other words is not understood."""
    return sorted({*lexicon_words()} - {*grammar.STRANGE_WORDS} | {*grammar.ASKED_WORDS})
