"""Dialogues of our own making, each of something that the language model gets wrong as it comes.

Every kind is a function that draws one dialogue. What is asked when small is measured (``engine/small/measure``) is in
none of them: :func:`draw` leaves such a line out. The words are in ``sayings.txt``, ``answers.txt`` and ``facts.txt``.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from engine.small.lessons.facts import fact_of_the_call
from engine.small.lessons.rules import comparison, counting, order, sum_of
from engine.small.measure.judge import plain, read_questions

HERE = Path(__file__).parent
SYLLABLES = ["blor", "fip", "zan", "gru", "mok", "tel", "wib", "pru", "sno", "dak", "fle", "yot", "quim", "bez", "nar"]
REPEAT = (
    "repeat after me, {}.", "say: {}.", "please say {}.", "repeat {}.", "say after me {}.", "can you say {}?",
    "repeat this: {}.", "now say this, {}.", "would you say {}, please?", "please repeat after me: {}.",
    "I want you to say {}.", "copy me: {}.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TaughtDialogue:
    """Turns of (what the person says, what small answers)."""

    kind: str
    turns: tuple[tuple[str, str], ...]


@cache
def sayings() -> dict[str, list[tuple[list[str], list[str]]]]:
    """By the sections of ``sayings.txt``: wordings of what a person says, and answers to it."""
    found: dict[str, list[tuple[list[str], list[str]]]] = {}
    for line in (HERE / "sayings.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            asked, _, said = line.partition(" = ")
            section.append((asked.split(" | "), said.split(" | ")))
    return found


@cache
def answers() -> list[tuple[str, str]]:
    """Questions about the world, and how small might answer them."""
    lines = (HERE / "answers.txt").read_text(encoding="utf-8").splitlines()
    return [(asked, said) for asked, _, said in (line.partition(" | ") for line in lines)]


def _saying(kind: str, rng: random.Random) -> TaughtDialogue:
    asked, said = rng.choice(sayings()[kind])
    return TaughtDialogue(kind, ((_started(rng.choice(asked), rng), rng.choice(said)),))


def _by_rule(kind: str, make: Callable[[random.Random], tuple[str, str]], rng: random.Random) -> TaughtDialogue:
    asked, said = make(rng)
    return TaughtDialogue(kind, ((_started(asked, rng), said),))


def _world(rng: random.Random) -> TaughtDialogue:
    return TaughtDialogue("world", (rng.choice(answers()),))


def _half(rng: random.Random) -> TaughtDialogue:
    (asked, said), *_ = _saying("half", rng).turns
    return TaughtDialogue("half", ((asked + rng.choice(["", "", ".", "...", ","]), said),))


def _nonsense(rng: random.Random) -> TaughtDialogue:
    (asked, said), *_ = _saying("nonsense", rng).turns
    if rng.random() < 0.35:
        words = (rng.choice(SYLLABLES) + rng.choice(SYLLABLES) * rng.randint(0, 1) for _ in range(rng.randint(2, 4)))
        asked = _started(" ".join(words), rng)
    return TaughtDialogue("nonsense", ((asked + rng.choice([".", ".", "?", ""]), said),))


def _repeat(rng: random.Random) -> TaughtDialogue:
    kind = rng.random()
    if kind < 0.25:
        text = rng.choice(rng.choice(sayings()["words to repeat"])[0])
        ask = rng.choice(["say {}.", "say the word {}.", "repeat {}.", "can you say {}?", "please say the word {}."])
    elif kind < 0.45:
        text = ", ".join(str(rng.randint(0, 9)) for _ in range(rng.randint(3, 4)))
        ask = rng.choice(["repeat {}.", "say the numbers {}.", "can you repeat {}?", "say {} after me."])
    else:
        text = rng.choice(rng.choice(sayings()["phrases to repeat"])[0])
        ask = rng.choice(REPEAT)
    return TaughtDialogue("repeat", ((_started(ask.format(text), rng), text[0].upper() + text[1:] + "."),))


def _memory(rng: random.Random) -> TaughtDialogue:
    """One or two facts of the call, something else perhaps, and a question about one of them."""
    told = [fact_of_the_call(rng) for _ in range(rng.choice([1, 1, 2]))]
    turns = [(_started(fact.told, rng), fact.taken) for fact in told]
    if rng.random() < 0.35:
        turns += rng.choice([make for kind, make in KINDS.items() if kind != "memory"])(rng).turns
    fact = rng.choice(told) if told[0].topic != told[-1].topic else told[-1]
    return TaughtDialogue("memory", (*turns, (_started(fact.asked, rng), fact.known)))


KINDS: dict[str, Callable[[random.Random], TaughtDialogue]] = {
    "talk": partial(_saying, "talk"),
    "world": _world,
    "self": partial(_saying, "self"),
    "unknown": partial(_saying, "unknown"),
    "person": partial(_saying, "person"),
    "half": _half,
    "nonsense": _nonsense,
    "repeat": _repeat,
    "sums": partial(_by_rule, "sums", sum_of),
    "compare": partial(_by_rule, "compare", comparison),
    "order": partial(_by_rule, "order", order),
    "count": partial(_by_rule, "count", counting),
    "memory": _memory,
}
WEIGHTS = {
    "talk": 14, "world": 14, "self": 10, "unknown": 8, "person": 2, "half": 8, "nonsense": 4, "repeat": 9, "sums": 16,
    "compare": 2, "order": 2, "count": 1, "memory": 16,
}  # fmt: skip
"""How often each kind is drawn."""


def draw(rng: random.Random, kind: str | None = None) -> TaughtDialogue:
    """One dialogue, of a kind drawn by :data:`WEIGHTS` if none is named. None of its lines is among those that small
    is measured with."""
    kind = kind or rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    while True:
        dialogue = KINDS[kind](rng)
        if not any(plain(asked) in measured() for asked, _ in dialogue.turns):
            return dialogue


@cache
def measured() -> frozenset[str]:
    """What is asked in measuring, in plain words."""
    return frozenset(plain(turn) for question in read_questions() for turn in question.turns)


def _started(text: str, rng: random.Random) -> str:
    """As it may be written or read: mostly with a capital."""
    return text if rng.random() < 0.15 else text[0].upper() + text[1:]
