"""Open English sentences for a voice to learn from: usage examples of WordNet, and what an assistant says.

WordNet is read from Debian's package ``wordnet-base`` (free for any use, Princeton University).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from engine.mini.sound.voice_data import answers
from engine.mini.world.vocabulary import NAMES
from engine.processing.numerals import cardinal

WORDNET = Path("/usr/share/wordnet")
LONGEST = 130
"""Characters of a text."""
FRAMES = (
    "The capital of {name} is {name}.", "I think {name} is a nice place.", "{name} is in {name}.",
    "Have you ever been to {name}?", "{name} was born in {name}.", "It was written by {name}.",
    "My favorite is {name}, and yours?", "Your name is {person}.", "Nice to meet you, {person}! How can I help you?",
    "You told me that your name is {person}.", "{person} and {person} went to {name}.",
    "That is a good question, {person}.", "{one} plus {two} is {sum}.", "{sum} minus {one} equals {two}.",
    "{one} times {two} is {product}.", "There are {one} of them.", "It takes about {one} minutes.",
    "It was about {one} years ago, in {year}.", "There are {product} people living there.", "The answer is {sum}.",
    "It costs {one} dollars and {two} cents.", "You need {one} cups of rice and {two} cups of water.",
    "It is {one} percent.",
)  # fmt: skip
SAID_OFTEN = (
    "Yes.", "No.", "Yes, I can hear you.", "Sure.", "Of course.", "I am sorry, I do not know.",
    "I don't know the time.",
    "I'm not sure about that.", "Hello!", "Hi there!", "Goodbye.", "Thank you.", "You're welcome.", "That's great!",
    "I am fine, thank you.", "How are you?", "What would you like to talk about?", "I did not understand that.",
    "Could you say that again, please?", "I'm a small language model.", "I'm here to help.", "Let me think.",
    "Is there anything else I can help you with?", "That sounds like fun.", "I'm glad to hear that.",
    "I'm sorry to hear that.", "Well, it depends.", "Good morning!", "Good night.", "Have a nice day!", "I can't tell.",
)  # fmt: skip
ASKS = re.compile(r"(what|who|why|how|where|when|do|does|did|is|are|can|could|would|will|should)\b")


def examples(folder: Path = WORDNET) -> tuple[list[str], list[str]]:
    """WordNet's usage examples, and its names of people and places. Raises FileNotFoundError."""
    found, names = list[str](), list[str]()
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("  "):
                continue
            head, _, gloss = line.partition(" | ")
            for quoted in re.findall(r'"([^"]+)"', gloss):
                text = re.split(r"\s+-\s*[A-Z]|--", quoted.strip().strip(";,"))[0].strip()
                if 3 <= len(text.split()) <= 16 and re.fullmatch(r"[A-Za-z' ,.?!;-]+", text):
                    found.append(text)
            word = head.split()[4].replace("_", " ")
            if part == "noun" and word[0].isupper() and word.replace(" ", "").isalpha() and len(word) > 3:
                names.append(word)
    return found, names


def sentence(text: str) -> str:
    """``text`` with a capital and a mark at its end."""
    text = text[0].upper() + text[1:]
    if text[-1] in ".?!":
        return text
    return text + ("?" if ASKS.match(text.lower()) and len(text.split()) > 2 else ".")


def filled(frame: str, names: list[str], source: random.Random) -> str:
    """A frame with names and numbers in its places."""
    top = 12 if source.random() < 0.3 else 60
    one, two = source.randint(0, top), source.randint(0, top)
    numbers = {"one": one, "two": two, "sum": one + two, "product": one * two}

    def fill(found: re.Match[str]) -> str:
        match found[1]:
            case "name":
                return source.choice(names)
            case "person":
                return source.choice(NAMES).capitalize()
            case "year":
                return str(source.randint(1500, 2030))
            case number:
                return cardinal(numbers[number])

    return re.sub(r"\{(\w+)\}", fill, frame)


def texts(seed: int = 1, folder: Path = WORDNET) -> list[str]:
    """Different texts of one or two sentences in any order, until WordNet's examples are used up."""
    source = random.Random(seed)
    known, names = examples(folder)
    source.shuffle(known)
    mini = answers(3_000, 11)
    left = iter(known)
    seen: dict[str, None] = {}
    for text in _drawn(source, left, known, names, mini):
        if len(text) < LONGEST:
            seen[text] = None
    return list(seen)


def _drawn(
    source: random.Random, left: Iterator[str], known: list[str], names: list[str], mini: list[str]
) -> Iterator[str]:
    while True:
        kind = source.random()
        if kind < 0.7:
            first = next(left, None)
            second = next(left, None) if source.random() < 0.12 else ""
            if first is None or second is None:
                return
            yield sentence(first) + (f" {sentence(second)}" if second else "")
        elif kind < 0.8:
            yield source.choice(mini)
        elif kind < 0.92:
            yield filled(source.choice(FRAMES), names, source)
        elif kind < 0.96:
            yield f"{source.choice(SAID_OFTEN)} {sentence(source.choice(known))}"
        else:
            yield source.choice(SAID_OFTEN)
