"""What a session sees that has no eyes of its own: things that were found in a picture, and the words for them.

Another model of the family names what is drawn, thing by thing (:mod:`engine.conversation.naming`): things that
:mod:`engine.processing.sheet` has found on plain ground, each alone in a picture of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.processing.image import ImageProcessor, ImageSlices
from engine.processing.sheet import find_things

SAME = 10.0
"""Levels by which pictures of the same thing differ, on average, from one second to the next; beyond, it is another."""
MIDDLE, STILL = 0.12, 0.15
"""Of the ground's width or height: how far from the middle a thing is on one side, how far it may move unnoticed."""
COUNTS = ("no", "one", "two", "three", "four", "five")


@dataclass(frozen=True, slots=True, eq=False)
class FoundThing:
    """One thing, ready to be named."""

    slices: ImageSlices
    look: NDArray[np.float32]
    """A small copy of its picture, to know it again."""
    x: float
    y: float
    """Its middle on its ground, 0 (left, top) to 1."""


Found = tuple[FoundThing, ...]


@dataclass(frozen=True, slots=True)
class Sight:
    """What a session last saw. A value: nothing in it is ever changed."""

    found: Found = ()
    words: str = ""
    """Of what was found; empty where nothing could be named."""
    told: str = ""
    """What the language model was last told."""
    turn: int = -1
    """The turn in which it was."""


class ThingFinder:
    """The part of naming that needs no model: pictures → things, ready to be named."""

    def __init__(self, images: ImageProcessor) -> None:
        """``images`` prepares pictures for the model that names them."""
        self._images = images

    def __call__(self, picture: Image.Image) -> Found:
        found = []
        for thing in find_things(picture):
            look = np.asarray(thing.picture.resize((28, 21), Image.Resampling.BOX), np.float32)
            found.append(FoundThing(self._images(thing.picture, 1), look, thing.x, thing.y))
        return tuple(found)


def is_same(found: Found, before: Found) -> bool:
    """Whether the same things are seen as before, about where they were."""
    return len(found) == len(before) and all(
        float(np.abs(one.look - other.look).mean()) < SAME and max(abs(one.x - other.x), abs(one.y - other.y)) < STILL
        for one, other in zip(found, before, strict=True)
    )


def in_words(found: Found, names: Sequence[str]) -> str:
    """What was found, with the names of its things (empty: not known): "a red circle", which is in the middle; "two
    things: a blue star on the left and something unclear on the right". Empty where nothing has a name."""
    if not any(names):
        return ""
    placed = [f"{name or 'something unclear'}{_place(thing)}" for thing, name in zip(found, names, strict=True)]
    if len(found) == 1:
        return placed[0]
    return f"{COUNTS[len(found)]} things: {', '.join(placed[:-1])} and {placed[-1]}"


def _place(thing: FoundThing) -> str:
    """Where on its ground a thing is, a space in front."""
    across = "left" if thing.x < 0.5 - MIDDLE else "right" if thing.x > 0.5 + MIDDLE else ""
    down = "top" if thing.y < 0.5 - MIDDLE else "bottom" if thing.y > 0.5 + MIDDLE else ""
    if not across and not down:
        return ""
    return f" at the {down} {across}".rstrip() if down else f" on the {across}"
