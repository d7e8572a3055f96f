"""Questions with what a right answer holds; and the words of a text, made comparable."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

QUESTIONS = Path(__file__).with_name("questions.txt")
UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SMALL = {word: value for value, word in enumerate(UNITS)}
LARGE = {word: 10 * value for value, word in enumerate(TENS, 2)}
HUNDREDS = {"a": 1} | {word: value for word, value in SMALL.items() if 0 < value < 10}
BRIEF_WORDS = 40
"""An answer that is spoken has no more."""


@dataclass(frozen=True, slots=True)
class Question:
    """One little conversation and what its last answer is judged by."""

    kind: str
    turns: tuple[str, ...]
    needed: tuple[tuple[str, ...], ...]
    """Of each of these one must occur, as whole words."""
    forbidden: tuple[str, ...] = ()
    """None of these may."""
    most_words: int = 1_000

    def holds(self, answer: str) -> bool:
        """Whether an answer is right."""
        said = plain(answer)
        if len(said.split()) > self.most_words or any(_within(phrase, said) for phrase in self.forbidden):
            return False
        return all(any(_within(phrase, said) for phrase in phrases) for phrases in self.needed)


def read_questions(path: Path = QUESTIONS) -> list[Question]:
    """The questions of a file: ``kind | turn > turn | condition; condition`` a line. Raises ValueError."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [_question(line) for line in lines if line and not line.startswith("#")]


def _question(line: str) -> Question:
    try:
        kind, turns, conditions = (part.strip() for part in line.split(" | "))
    except ValueError:
        raise ValueError(f"{line!r} has not the three parts kind | turns | conditions") from None
    needed, forbidden, most = [], [], 1_000
    for condition in map(str.strip, conditions.split(";")):
        if condition.startswith("<="):
            most = int(condition[2:])
        elif condition.startswith("!"):
            forbidden += [plain(phrase.lstrip("!")) for phrase in condition.split("/")]
        else:
            needed.append(tuple(plain(phrase) for phrase in condition.split("/")))
    return Question(kind, tuple(turn.strip() for turn in turns.split(" > ")), tuple(needed), tuple(forbidden), most)


def _within(phrase: str, said: str) -> bool:
    return f" {phrase} " in f" {said} "


def plain(text: str) -> str:
    """A text in lower case, without punctuation, and with its numbers in digits: "Twenty-five!" is "25"."""
    text = re.sub(r"(\d),(?=\d{3})", r"\1", text.lower().replace("\u2019", "'")).replace("'", "")
    return " ".join(_numbers(re.findall(r"[^\W_]+", text)))


def _numbers(words: Sequence[str]) -> Iterator[str]:
    """Words with their numbers as digits; what is counted out ("one, two") stays apart."""
    at = 0
    while at < len(words):
        value, length = _number(words[at:])
        yield str(value) if length else words[at]
        at += max(1, length)


def _number(words: Sequence[str]) -> tuple[int, int]:
    """The number below 1,000 that some words begin with, and how many words it has: 0 for none."""
    value = length = 0
    if words[1:2] == ["hundred"] and words[0] in HUNDREDS:
        value, length = 100 * HUNDREDS[words[0]], 2
        if words[2:3] == ["and"] and words[3:4] and (words[3] in LARGE or words[3] in SMALL):
            length = 3
    if words[length : length + 1] and words[length] in LARGE:
        value, length = value + LARGE[words[length]], length + 1
        if words[length : length + 1] and 0 < SMALL.get(words[length], 0) < 10:
            return value + SMALL[words[length]], length + 1
    elif words[length : length + 1] and words[length] in SMALL:
        value, length = value + SMALL[words[length]], length + 1
    return value, length
