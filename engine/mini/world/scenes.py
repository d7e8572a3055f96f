"""What a camera may show: shapes, printed digits and letters. What is to be known about each scene, as words in the
places of picture tokens, and questions about it. :mod:`engine.mini.world.rendering` draws them.

The first picture tokens say: light or dark; how many shapes; the character shown; then, for each cell of a 3 x 3 grid,
colour and shape of what is in it. All others stay blank.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from engine.mini.world.vocabulary import COLOURS, SHAPES, UNITS

ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "middle", "right")
LIGHT, COUNT, CHARACTER, CELLS = range(4)
"""The picture tokens that say light or dark, how many shapes, the character, and the first of those of the grid."""
SLOTS = CELLS + 9 * 2
"""Picture tokens that mean something."""
Looks = tuple[tuple[str, int], ...]
"""Words of an answer that are read from the picture, in order, and the picture tokens that say them."""


@dataclass(frozen=True, slots=True)
class Thing:
    colour: str
    shape: str
    row: int
    column: int

    @property
    def article(self) -> str:
        return "an" if self.colour == "orange" else "a"

    @property
    def place(self) -> str:
        """``left``, ``top right``, ``bottom``, ``in the middle``."""
        if self.row == self.column == 1:
            return "in the middle"
        return " ".join(part for part in (ROWS[self.row], COLUMNS[self.column]) if part != "middle")

    @property
    def slots(self) -> tuple[int, int]:
        """The picture tokens that say its colour and its shape."""
        first = CELLS + 2 * (3 * self.row + self.column)
        return first, first + 1


@dataclass(slots=True)
class Scene:
    """What is in a picture."""

    light: bool = True
    things: list[Thing] = field(default_factory=list)
    character: str = ""
    """A digit or a letter held to the camera."""

    def slots(self) -> list[str]:
        """Words of the picture tokens; empty ones stay blank."""
        out = [""] * SLOTS
        out[:CELLS] = "light" if self.light else "dark", UNITS[len(self.things)], self.character_word
        for thing in self.things:
            colour, shape = thing.slots
            out[colour], out[shape] = thing.colour, thing.shape
        return out

    @property
    def in_order(self) -> list[Thing]:
        """The things as one reads: row by row."""
        return sorted(self.things, key=lambda thing: (thing.row, thing.column))

    @property
    def character_word(self) -> str:
        """The shown digit as a word, the letter as itself."""
        return UNITS[int(self.character)] if self.character.isdigit() else self.character.lower()


def random_scene(rng: random.Random, characters: float = 0.25) -> Scene:
    """One to four things, a character (in that share of the scenes), or nothing."""
    kind = rng.random()
    light = rng.random() < 0.8
    if kind < characters:
        return Scene(light, [], rng.choice("0123456789" * 3 + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    if kind < characters + 0.07:
        return Scene(light)
    cells = rng.sample([(r, c) for r in range(3) for c in range(3)], rng.choice((1, 1, 2, 2, 3, 4)))
    if len(cells) == 1 and rng.random() < 0.5:
        cells = [(1, 1)]
    return Scene(light, [Thing(rng.choice(COLOURS), rng.choice(SHAPES), r, c) for r, c in cells])


# --- questions -----------------------------------------------------------------------------------------------------


def describe(scene: Scene) -> str:
    """One sentence about all that is there, in the order of the picture tokens."""
    if scene.character:
        return f"I see the {'number' if scene.character.isdigit() else 'letter'} {scene.character_word}."
    if not scene.things:
        return "I see nothing that I know."
    if len(scene.things) == 1:
        thing = scene.things[0]
        return f"I see {thing.article} {thing.colour} {thing.shape}."
    listed = ", ".join(f"{t.colour} {t.shape}" for t in scene.in_order)
    return f"I see {UNITS[len(scene.things)]} shapes: {listed}."


def _read_in_order(scene: Scene) -> Looks:
    """Where the words of :func:`describe` are read."""
    if scene.character:
        return ((scene.character_word, CHARACTER),)
    parts = [(UNITS[len(scene.things)], COUNT)] if len(scene.things) > 1 else []
    for thing in scene.in_order:
        colour, shape = thing.slots
        parts += [(thing.colour, colour), (thing.shape, shape)]
    return tuple(parts)


def _read_of(thing: Thing, words: str) -> Looks:
    """Where ``words`` about a thing are read: at its shape, which knows its colour and its place."""
    return tuple((word, thing.slots[1]) for word in words.split())


LOOK = (
    "what do you see", "what is in the picture", "what is in front of you", "look at this", "what am i holding",
    "what can you see", "tell me what you see", "what is there", "what do you see now",
)  # fmt: skip


Asked = tuple[str, str, Looks]
"""A question, its answer, and where in the picture the answer is read."""


def ask(scene: Scene, rng: random.Random) -> Asked:
    """A question that the scene answers."""
    light = "light" if scene.light else "dark"
    # What there is to see is asked more than anything else, and the hardest: everything has to be said, in order.
    options: list[Asked] = [(rng.choice(LOOK), describe(scene), _read_in_order(scene))] * 3
    options += [
        (rng.choice(("can you see me", "do you see me", "can you see")), "Yes, I can see you.", ()),
        (rng.choice(("is it light or dark", "is it dark or light", "is it dark", "is it light")), f"It is {light}.",
         ((light, LIGHT),)),
    ]  # fmt: skip
    options += _about_character(scene, rng) if scene.character else [_how_many(scene, rng)] * 2
    for thing in scene.things:
        options += _about(thing, scene, rng)
    return rng.choice(options)


def _about_character(scene: Scene, rng: random.Random) -> list[Asked]:
    kind = "number" if scene.character.isdigit() else "letter"
    wording = rng.choice((f"which {kind} is this", f"what {kind} is this", f"what {kind} do you see",
                          f"which {kind} do you see", f"what {kind} can you see", f"what {kind} is it",
                          f"which {kind} is it", f"what {kind} am i holding", "what is this"))  # fmt: skip
    answer = f"It is the {kind} {scene.character_word}."
    return [(wording, answer, ((scene.character_word, CHARACTER),))] * 5


def _how_many(scene: Scene, rng: random.Random) -> Asked:
    count = len(scene.things)
    number = UNITS[count] if count else "no"
    answer = f"There {'is' if count == 1 else 'are'} {number} shape{'' if count == 1 else 's'}."
    wording = rng.choice(("how many shapes are there", "how many shapes do you see", "how many things are there",
                          "how many shapes can you see", "how many shapes are in the picture"))  # fmt: skip
    return wording, answer, ((number, COUNT),)


def _about(thing: Thing, scene: Scene, rng: random.Random) -> list[Asked]:
    """Questions that have one answer about ``thing``."""
    colour_word = rng.choice(("color", "colour"))
    same_shape = [t for t in scene.things if t.shape == thing.shape]
    same_colour = [t for t in scene.things if t.colour == thing.colour]
    has_colour = (f"The {thing.shape} is {thing.colour}.", _read_of(thing, f"{thing.shape} {thing.colour}"))
    has_place = (f"The {thing.shape} is {thing.place}.", _read_of(thing, f"{thing.shape} {thing.place}"))
    options: list[Asked] = []
    # Colour and place are not named next to the shape in the picture: they need more practice than what is.
    if len(same_shape) == 1:
        wording = rng.choice(("what {} is the", "which {} is the", "what is the {} of the", "tell me the {} of the"))
        where = rng.choice(("where is the", "where do you see the"))
        options += [(f"{wording.format(colour_word)} {thing.shape}", *has_colour)] * 2
        options += [(f"{where} {thing.shape}", *has_place)] * 3
    if len(scene.things) == 1:
        wording = rng.choice(("is this", "do you see", "is it", "is that"))
        shape = rng.choice(("what shape is this", "which shape is this", "what shape is it", "what shape do you see",
                            "what is this"))  # fmt: skip
        options += [
            (f"what {colour_word} {wording}", f"It is {thing.colour}.", ((thing.colour, thing.slots[0]),)),
            (shape, f"It is a {thing.shape}.", ((thing.shape, thing.slots[1]),)),
        ]
    elif len(same_colour) == 1:
        options.append((f"what shape is {thing.colour}", *has_colour))
        options.append((f"where is the {thing.colour} {thing.shape}", *has_place))
    count = len(same_shape)
    plural = "crosses" if thing.shape == "cross" else thing.shape + "s"
    counted = f"There is one {thing.shape}." if count == 1 else f"There are {UNITS[count]} {plural}."
    options.append((f"how many {plural} {rng.choice(('are there', 'do you see', 'can you see'))}", counted, ()))
    return options
