"""What a camera may show: shapes, printed digits and letters. What is to be known about each scene, as words in the
places of picture tokens, and questions about it. :mod:`engine.mini.rendering` draws them.

The first picture tokens say: light or dark; how many shapes; the character shown; then, for each cell of a 3 x 3 grid,
colour and shape of what is in it. All others stay blank.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from engine.mini.vocabulary import COLOURS, SHAPES, UNITS

ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "middle", "right")
CELLS = 3
"""Picture tokens before those of the grid."""
SLOTS = CELLS + 9 * 2
"""Picture tokens that mean something."""


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
        """``on the left``, ``at the top right``, ``in the middle``."""
        if self.row == 1:
            return "in the middle" if self.column == 1 else f"on the {COLUMNS[self.column]}"
        return f"at the {ROWS[self.row]}" + ("" if self.column == 1 else f" {COLUMNS[self.column]}")


@dataclass(slots=True)
class Scene:
    """What is in a picture."""

    light: bool = True
    things: list[Thing] = field(default_factory=list)
    character: str = ""
    """A digit or a letter held to the camera."""

    def slots(self) -> list[str]:
        """Words of the picture tokens; empty ones stay blank."""
        out = ["light" if self.light else "dark", UNITS[len(self.things)], self.character_word]
        cells = {(t.row, t.column): t for t in self.things}
        for row in range(3):
            for column in range(3):
                thing = cells.get((row, column))
                out += [thing.colour, thing.shape] if thing else ["", ""]
        return out

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


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def describe(scene: Scene) -> str:
    """One sentence about all that is there."""
    if scene.character:
        return f"I see the {'number' if scene.character.isdigit() else 'letter'} {scene.character_word}."
    if not scene.things:
        return "I see nothing that I know."
    return f"I see {_listed([f'{t.article} {t.colour} {t.shape}' for t in scene.things])}."


LOOK = (
    "what do you see", "what is in the picture", "what is in front of you", "look at this", "what am i holding",
    "what can you see", "tell me what you see", "what is there",
)  # fmt: skip


def ask(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """A question that the scene answers, and the answer."""
    # Asked more than anything else, and the hardest: everything has to be said, in order.
    options = [(rng.choice(LOOK), describe(scene))] * 3
    options += [
        (rng.choice(("can you see me", "do you see me", "can you see")), "Yes, I can see you."),
        (rng.choice(("is it light or dark", "is it dark or light", "is it dark", "is it light")),
         f"It is {'light' if scene.light else 'dark'}."),
    ]  # fmt: skip
    if scene.character:
        kind = "number" if scene.character.isdigit() else "letter"
        wording = rng.choice((f"which {kind} is this", f"what {kind} is this", f"what {kind} do you see",
                              f"which {kind} do you see", f"what {kind} can you see", "what is this"))  # fmt: skip
        options += [(wording, f"It is the {kind} {scene.character_word}.")] * 5
    else:
        count = len(scene.things)
        answer = (
            f"There {'is' if count == 1 else 'are'} {UNITS[count] if count else 'no'} shape{'' if count == 1 else 's'}."
        )
        wording = rng.choice(("how many shapes are there", "how many shapes do you see", "how many things are there",
                              "how many shapes can you see"))  # fmt: skip
        options += [(wording, answer)] * 2
    for thing in scene.things:
        colour_word = rng.choice(("color", "colour"))
        same_shape = [t for t in scene.things if t.shape == thing.shape]
        same_colour = [t for t in scene.things if t.colour == thing.colour]
        if len(same_shape) == 1:
            wording = rng.choice(
                ("what {} is the", "which {} is the", "what is the {} of the", "tell me the {} of the")
            )
            options += [
                (f"{wording.format(colour_word)} {thing.shape}", f"The {thing.shape} is {thing.colour}."),
                (
                    rng.choice(("where is the", "where do you see the")) + f" {thing.shape}",
                    f"The {thing.shape} is {thing.place}.",
                ),
            ]
        if len(scene.things) == 1:
            wording = rng.choice(("is this", "do you see", "is it"))
            options += [
                (f"what {colour_word} {wording}", f"It is {thing.colour}."),
                (
                    rng.choice(("what shape is this", "which shape is this", "what shape do you see", "what is this")),
                    f"It is a {thing.shape}.",
                ),
            ]
        elif len(same_colour) == 1:
            options.append((f"what shape is {thing.colour}", f"The {thing.shape} is {thing.colour}."))
            options.append((f"where is the {thing.colour} {thing.shape}", f"The {thing.shape} is {thing.place}."))
        count = len(same_shape)
        plural = "crosses" if thing.shape == "cross" else thing.shape + "s"
        counted = f"There is one {thing.shape}." if count == 1 else f"There are {UNITS[count]} {plural}."
        options.append((f"how many {plural} {rng.choice(('are there', 'do you see'))}", counted))
    return rng.choice(options)
