"""Facts that a person tells of themselves, from ``facts.txt``."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from engine.small.lessons.rules import in_words

FACTS = Path(__file__).with_name("facts.txt")


@dataclass(frozen=True, slots=True)
class Told:
    """A fact, what small says to it, a question about it, and its answer."""

    topic: str
    told: str
    taken: str
    asked: str
    known: str


@dataclass(frozen=True, slots=True)
class _Template:
    topic: str
    slots: dict[str, list[str]]
    parts: tuple[list[str], ...]
    """Wordings of what is told, taken, asked and known."""


def fact_of_the_call(rng: random.Random) -> Told:
    """One fact with its question."""
    template = rng.choice(_templates())
    values = {key: rng.choice(row) for key, row in template.slots.items()}
    values |= {key.upper(): value[0].upper() + value[1:] for key, value in values.items()}
    values["x_your"] = values["x"].replace("my ", "your ")
    told, taken, asked, known = (rng.choice(options).format(**values) for options in template.parts)
    return Told(template.topic, told, taken, asked, known)


@cache
def _templates() -> list[_Template]:
    words: dict[str, list[str]] = {}
    found = []
    for line in FACTS.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if " | " not in line:
            name, _, row = line.partition(": ")
            words[name] = row.split(", ")
            continue
        head, *parts = line.split(" | ")
        topic, *slots = head.split("; ")
        filled = {key: _row(row, words) for key, _, row in (slot.partition(" = ") for slot in slots)}
        found.append(_Template(topic, filled, tuple(part.split(" / ") for part in parts)))
    return found


def _row(text: str, words: dict[str, list[str]]) -> list[str]:
    """Words of a slot: the name of a list, numbers from .. to, or the words themselves."""
    first, dots, last = text.partition("..")
    if dots:
        return [in_words(number) for number in range(int(first), int(last) + 1)]
    return words.get(text) or text.split(", ")
