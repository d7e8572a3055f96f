"""Pictures for the eyes: shapes, printed digits and letters on plain, textured and cluttered backgrounds, as a camera
sees them. And what is to be known about each, as words in the places of picture tokens.

The first picture tokens say: light or dark; how many shapes; the character shown; then, for each cell of a 3 x 3 grid,
colour and shape of what is in it. All others stay blank.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from engine.mini.vocabulary import UNITS

SIZES = ((224, 168), (224, 168), (224, 168), (256, 144), (168, 224))
"""Width and height of rendered pictures: mostly a camera's 4:3, some wide, some of a tablet held upright."""
PALETTE: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((220, 30, 30), (180, 20, 35), (255, 60, 50)),
    "green": ((30, 160, 50), (20, 120, 40), (80, 200, 80)),
    "blue": ((30, 60, 210), (20, 40, 150), (60, 120, 240)),
    "yellow": ((250, 220, 40), (230, 200, 20), (255, 240, 90)),
    "orange": ((245, 140, 20), (230, 120, 10), (255, 160, 60)),
    "purple": ((130, 40, 170), (100, 30, 130), (150, 70, 200)),
    "pink": ((250, 130, 180), (240, 100, 160), (255, 170, 200)),
    "black": ((15, 15, 15), (35, 35, 40), (0, 0, 0)),
    "white": ((250, 250, 250), (235, 235, 240), (255, 255, 255)),
    "brown": ((120, 70, 30), (100, 60, 35), (140, 90, 50)),
    "grey": ((128, 128, 128), (110, 110, 115), (150, 150, 150)),
}
"""Red, green and blue of a few shades of every colour."""
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "rectangle")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "middle", "right")
SLOTS = 3 + 9 * 2
"""Picture tokens that mean something."""
FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSans.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono-Bold.ttf")


@dataclass(frozen=True, slots=True)
class Thing:
    colour: str
    shape: str
    row: int
    column: int

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


def random_scene(rng: random.Random) -> Scene:
    """One to four things, a character, or nothing."""
    kind = rng.random()
    light = rng.random() < 0.8
    if kind < 0.25:
        return Scene(light, [], rng.choice("0123456789" * 3 + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    if kind < 0.32:
        return Scene(light)
    cells = rng.sample([(r, c) for r in range(3) for c in range(3)], rng.choice((1, 1, 2, 2, 3, 4)))
    if len(cells) == 1 and rng.random() < 0.5:
        cells = [(1, 1)]
    return Scene(light, [Thing(rng.choice(list(PALETTE)), rng.choice(SHAPES), r, c) for r, c in cells])


def outline(shape: str, rng: random.Random) -> list[tuple[float, float]]:
    """Corners of a shape of radius 1 around the origin."""
    if shape == "circle":
        return [(math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 40)]
    if shape == "square":
        return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    if shape == "rectangle":
        w, h = (1.05, 0.5) if rng.random() < 0.7 else (0.5, 1.05)
        return [(-w, -h), (w, -h), (w, h), (-w, h)]
    if shape == "triangle":
        return [(0, -1), (0.95, 0.75), (-0.95, 0.75)]
    if shape == "star":
        return [((1.1 if k % 2 == 0 else 0.45) * math.sin(k * math.pi / 5), -(1.1 if k % 2 == 0 else 0.45)
                 * math.cos(k * math.pi / 5)) for k in range(10)]  # fmt: skip
    if shape == "cross":
        a, b = 0.33, 1.0
        return [
            (-a, -b),
            (a, -b),
            (a, -a),
            (b, -a),
            (b, a),
            (a, a),
            (a, b),
            (-a, b),
            (-a, a),
            (-b, a),
            (-b, -a),
            (-a, -a),
        ]
    t = np.linspace(0, 2 * math.pi, 40)
    return [(float(16 * math.sin(x) ** 3 / 17), float(-(13 * math.cos(x) - 5 * math.cos(2 * x) - 2 * math.cos(3 * x)
             - math.cos(4 * x)) / 16)) for x in t]  # fmt: skip


def background(rng: random.Random, light: bool, difficulty: float) -> Image.Image:
    """Plain, a gradient, a texture, or clutter, in one of :data:`SIZES`."""
    noise = np.random.default_rng(rng.randrange(1 << 30))
    width, height = rng.choice(SIZES)
    low, high = (170, 250) if light else (5, 70)
    base = noise.uniform(low, high) + noise.uniform(-25, 25, 3) * min(1.0, 0.3 + difficulty)
    picture = np.broadcast_to(base, (height, width, 3)).astype(np.float32).copy()
    kind = rng.random()
    if kind < 0.5 * difficulty:
        small = noise.uniform(-1, 1, (rng.randint(2, 8), rng.randint(2, 8), 3)) * 45 * difficulty
        picture += _enlarge(small, (width, height))
    elif kind < 0.8:
        ramp = np.linspace(-1, 1, width)[None, :, None] * noise.uniform(-25, 25)
        ramp = ramp + np.linspace(-1, 1, height)[:, None, None] * noise.uniform(-25, 25)
        picture += ramp.astype(np.float32)
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    if rng.random() < 0.25 * difficulty:
        draw = ImageDraw.Draw(image)
        for _ in range(rng.randint(1, 5)):
            x, y = rng.randint(0, width), rng.randint(0, height)
            tone = int(rng.uniform(low, high))
            draw.line((x, y, x + rng.randint(-90, 90), y + rng.randint(-90, 90)), (tone,) * 3, rng.randint(1, 4))
    return image


def _enlarge(small: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float32]:
    planes = [np.asarray(Image.fromarray(small[..., k].astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
              for k in range(3)]  # fmt: skip
    return np.stack(planes, -1)


def render(scene: Scene, rng: random.Random, difficulty: float = 1.0) -> Image.Image:
    """Draws the scene; ``difficulty`` 0 to 1 scales clutter, turning, blur, noise and lighting."""
    return render_with_plan(scene, rng, difficulty)[0]


def render_with_plan(scene: Scene, rng: random.Random, difficulty: float = 1.0) -> tuple[Image.Image, Image.Image]:
    """The picture, and a plan of the same size: 0 for the background, else 1 + the index of the thing that is there; 1
    also for the character."""
    image = background(rng, scene.light, difficulty)
    plan = Image.new("L", image.size)
    draw, planned = ImageDraw.Draw(image), ImageDraw.Draw(plan)
    width, height = image.size
    alone = len(scene.things) == 1
    for index, thing in enumerate(scene.things):
        radius = rng.uniform(14, 25) if not alone else rng.uniform(16, 45)
        x = (thing.column + 0.5 + rng.uniform(-0.18, 0.18)) * width / 3
        y = (thing.row + 0.5 + rng.uniform(-0.14, 0.14)) * height / 3
        angle = rng.uniform(-0.25, 0.25) * difficulty
        stretch = 1 + rng.uniform(-0.12, 0.12) * difficulty
        cos, sin = math.cos(angle), math.sin(angle)
        corners = outline(thing.shape, rng)
        points = [
            (x + radius * stretch * (px * cos - py * sin), y + radius * (px * sin + py * cos)) for px, py in corners
        ]
        colour = tuple(int(min(255, max(0, c + rng.uniform(-14, 14)))) for c in rng.choice(PALETTE[thing.colour]))
        edge = None
        if rng.random() < 0.4 or _near(
            colour, image.getpixel((int(min(max(x, 0), width - 1)), int(min(max(y, 0), height - 1))))
        ):
            edge = (20, 20, 20) if sum(colour) > 200 else (230, 230, 230)
        draw.polygon(points, fill=colour)
        planned.polygon(points, fill=index + 1)
        if edge:
            draw.line([*points, points[0]], edge, 2, joint="curve")
    if scene.character:
        _draw_character(image, plan, scene, rng, difficulty)
    return _camera(image, rng, difficulty), plan


def _near(a: tuple[int, ...], b: object) -> bool:
    return isinstance(b, tuple) and sum(abs(p - q) for p, q in zip(a, b, strict=False)) < 110


def _draw_character(image: Image.Image, plan: Image.Image, scene: Scene, rng: random.Random, difficulty: float) -> None:
    width, height = image.size
    size = rng.randint(70, 140)
    try:
        font: ImageFont.FreeTypeFont | ImageFont.ImageFont = ImageFont.truetype(rng.choice(FONTS), size)
    except OSError:
        font = ImageFont.load_default(size)
    card = Image.new("RGBA", (int(size * 1.3), int(size * 1.4)), (0, 0, 0, 0))
    pen = ImageDraw.Draw(card)
    dark_ink = scene.light or rng.random() < 0.5
    if (not scene.light and dark_ink) or rng.random() < 0.5:
        tone = rng.randint(225, 255)
        pen.rectangle((0, 0, *card.size), (tone, tone, tone, 255))
        dark_ink = True
    ink = rng.choice(((10, 10, 10), (20, 20, 120), (150, 15, 15))) if dark_ink else (240, 240, 240)
    pen.text((card.width / 2, card.height / 2), scene.character, ink, font, anchor="mm")
    card = card.rotate(rng.uniform(-12, 12) * difficulty, Image.Resampling.BICUBIC, expand=True)
    x = int((width - card.width) / 2 + rng.uniform(-25, 25))
    y = int((height - card.height) / 2 + rng.uniform(-12, 12))
    image.paste(card, (x, y), card)
    half = size // 2
    ImageDraw.Draw(plan).rectangle(
        (x + card.width // 2 - half // 2, y + card.height // 2 - half, x + card.width // 2 + half // 2,
         y + card.height // 2 + half), fill=1,
    )  # fmt: skip


def _camera(image: Image.Image, rng: random.Random, difficulty: float) -> Image.Image:
    """Blur, light and noise."""
    if rng.random() < 0.5 * difficulty:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.3)))
    noise = np.random.default_rng(rng.randrange(1 << 30))
    pixels = np.asarray(image).astype(np.float32)
    pixels *= (1 + noise.uniform(-0.12, 0.12, 3) * difficulty).astype(np.float32)
    pixels += noise.standard_normal(pixels.shape, dtype=np.float32) * np.float32(6 * difficulty)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


# --- questions -----------------------------------------------------------------------------------------------------


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def describe(scene: Scene) -> str:
    """One sentence about all that is there."""
    if scene.character:
        return f"I see the {'number' if scene.character.isdigit() else 'letter'} {scene.character_word}."
    if not scene.things:
        return "I see nothing that I know."
    return f"I see {_listed([f'a {t.colour} {t.shape}' for t in scene.things])}."


def ask(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """A question that the scene answers, and the answer."""
    options: list[tuple[str, str]] = [
        (rng.choice(("what do you see", "what is in the picture", "what is in front of you", "look at this",
                     "what am i holding", "what can you see", "tell me what you see", "what is there")),
         describe(scene)),
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
