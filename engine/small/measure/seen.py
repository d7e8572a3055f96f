"""What is said of pictures: named right, not told, invented; and what is answered when they are asked about."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

from engine.conversation.naming import PictureNamer
from engine.conversation.sight import ThingFinder, in_words
from engine.conversation.streaming import StreamingModel
from engine.processing.prompts import UNIT, Part
from engine.small.measure.judge import UNITS, Question, plain
from engine.small.measure.pictures import KINDS, SHAPES, MadePicture, make_pictures
from engine.small.measure.typed import AnsweredQuestion, Typist, share

COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "black", "white", "brown", "grey")
NAMES = frozenset([*COLOURS, *SHAPES, *ascii_lowercase, *UNITS[:10]])
"""Words that name something."""
HALVES = ("tuning", "report")
"""Halves of the pictures: with even numbers, on which thresholds were chosen, and with odd ones."""


@dataclass(frozen=True, slots=True)
class NamedPicture:
    """One picture with what was said of it."""

    kind: str
    number: int
    needed: tuple[str, ...]
    words: str

    @property
    def verdict(self) -> str:
        """``right``: all that is there, and nothing else; ``part`` of it; ``nothing``; or what is ``wrong``."""
        text = re.sub(r"\ba (?!$)", "", self.words)  # an article, where it is not the last letter
        said = [word for word in re.findall(r"[a-z]+", text) if word in NAMES]
        if not said:
            return "nothing"
        if sorted(said) == sorted(self.needed):
            return "right"
        return "part" if set(said) <= set(self.needed) else "wrong"


def numbers_of(half: str, count: int) -> range:
    """The numbers of a half's pictures."""
    return range(HALVES.index(half), 2 * count, 2)


def name_all(stream: StreamingModel, half: str, count: int, photos: Sequence[Path]) -> Iterator[NamedPicture]:
    """What is said of ``count`` pictures of each kind."""
    finder, namer = stream.message.images, stream.executor.namer
    assert isinstance(finder, ThingFinder)
    assert isinstance(namer, PictureNamer)
    for kind in KINDS:
        for one in make_pictures(kind, numbers_of(half, count), photos):
            found = finder(one.picture)
            yield NamedPicture(kind, one.number, one.needed, in_words(found, [namer(thing.slices) for thing in found]))


def table(named: Sequence[NamedPicture]) -> str:
    """Verdicts by kind, as Markdown."""
    verdicts = ("right", "part", "nothing", "wrong")
    lines = ["| pictures | n | named right | a part of it | nothing | wrong |", "|---|---|---|---|---|---|"]
    for kind in dict.fromkeys(one.kind for one in named):
        group = [one.verdict for one in named if one.kind == kind]
        lines.append(f"| {kind} | {len(group)} | " + " | ".join(str(group.count(v)) for v in verdicts) + " |")
    return "\n".join(lines)


def questions_about(half: str, count: int) -> list[tuple[Question, tuple[Part, ...]]]:
    """Questions that are typed with a picture of one or two held things, and with one of a room."""
    asked: list[tuple[Question, tuple[Part, ...]]] = []
    for one in make_pictures("held", numbers_of(half, count)):
        rng = random.Random(one.number)
        asked += [(question, (UNIT, one.picture)) for question in _questions(one, rng)]
    for one in make_pictures("room", numbers_of(half, count // 2)):
        forbidden = tuple(word for word in (*COLOURS, *SHAPES) if word != "white")
        asked.append((Question("a room", ("What do you see?",), (), forbidden), (UNIT, one.picture)))
    return asked


def _questions(one: MadePicture, rng: random.Random) -> Iterator[Question]:
    needed = tuple((plain(word),) for word in one.needed)
    see = rng.choice(("What do you see?", "What am I holding up?", "What is on the paper?"))
    if len(one.needed) == 1:
        yield Question("what", (see,), needed)
    elif len(one.needed) == 2:
        yield Question("what", (see,), needed)
        yield Question("colour", (rng.choice(("What color is it?", "Which color does it have?")),), needed[:1])
    else:
        yield Question("what", (see,), needed[1:])
        yield Question(
            "how many", (rng.choice(("How many things are there?", "How many shapes do you see?")),), (("2",),)
        )


def ask_all(typist: Typist, asked: Sequence[tuple[Question, tuple[Part, ...]]]) -> Iterator[AnsweredQuestion]:
    """Each question, typed with its picture."""
    for question, parts in asked:
        yield from typist.ask_all([question], shown=parts)


def answers_table(answered: Sequence[AnsweredQuestion]) -> str:
    """Right answers by kind, as Markdown."""
    lines = ["| asked | right |", "|---|---|"]
    for kind in dict.fromkeys(one.question.kind for one in answered):
        group = [one.right for one in answered if one.question.kind == kind]
        lines.append(f"| {kind} | {share(sum(group), len(group))} |")
    return "\n".join(lines)
