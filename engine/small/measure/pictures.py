"""Pictures with what may truly be said of them: drawings on a screen, sheets held in a room, felt-pen drawings,
empty sheets, drawn rooms, photographs. Every picture follows from its number alone."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from engine.small.measure.judge import UNITS

SIZE = (640, 480)
INKS = {
    "red": (205, 25, 35), "green": (25, 140, 50), "blue": (30, 60, 190), "orange": (240, 135, 20),
    "purple": (120, 40, 160), "black": (22, 22, 26), "brown": (112, 66, 32), "pink": (245, 120, 175),
}  # fmt: skip
"""Colours that show on paper."""
SHAPES = ("circle", "square", "rectangle", "triangle", "star", "cross", "heart")
CHARACTERS = "0123456789ABCDEFGHKLMNPRSTUVXYZ"
FONTS = ("Roboto-Bold.ttf", "Roboto-Regular.ttf", "RobotoCondensed-Bold.ttf", "Inconsolata.otf")
"""No eyes have learnt from these."""
SKINS = ((236, 196, 168), (205, 145, 110), (150, 96, 66), (92, 60, 44))
KINDS = ("screen", "held", "pen", "held pen", "empty", "held empty", "room", "photo")
"""Of an empty sheet, a room and a photograph nothing may be said."""


@dataclass(frozen=True, slots=True)
class MadePicture:
    """One picture, and the words that name what is drawn in it: each of ``needed`` must be in what is said; none where
    nothing is drawn."""

    kind: str
    number: int
    picture: Image.Image
    needed: tuple[str, ...]


def make_pictures(kind: str, numbers: Sequence[int], photos: Sequence[Path] = ()) -> list[MadePicture]:
    """Pictures of one of :data:`KINDS`. ``photos`` are what is shown as such, and what is behind every other thing that
    is held; with fewer photographs than numbers there are fewer pictures."""
    if kind == "photo":
        return [
            MadePicture(kind, number, _cut(photos[number], random.Random(number)), ())
            for number in numbers
            if number < len(photos)
        ]
    return [_make(kind, number, photos) for number in numbers]


def _make(kind: str, number: int, photos: Sequence[Path]) -> MadePicture:
    rng = random.Random(f"{kind} {number} of the pictures to be measured with")
    if kind == "room":
        return MadePicture(kind, number, _camera(draw_room(rng), rng), ())
    drawing = Drawing() if "empty" in kind else _draw(rng, characters="pen" not in kind)
    ground = _tone(rng, 150, 250) if kind == "screen" else _white(rng)
    sheet = draw_sheet(drawing, rng, ground, pen="pen" in kind)
    if "held" in kind:
        photo = number % 2 and photos
        behind = _cut(photos[number % len(photos)], rng) if photo else draw_room(rng)
        picture = hold(sheet, behind, rng)
    else:
        picture = sheet.resize(SIZE, Image.Resampling.BICUBIC)
    return MadePicture(kind, number, _camera(picture, rng), drawing.words)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A character, or things (colour, shape) beside each other, or nothing."""

    character: str = ""
    things: tuple[tuple[str, str], ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """What must be said of it: its character, or the colour and the shape of every thing; of several, how many."""
        if self.character:
            return (UNITS[int(self.character)] if self.character.isdigit() else self.character.lower(),)
        named = [word for thing in self.things for word in thing]
        return (UNITS[len(self.things)], *named) if len(self.things) > 1 else tuple(named)


def _draw(rng: random.Random, *, characters: bool) -> Drawing:
    """One thing, sometimes two, sometimes a character."""
    if characters and rng.random() < 0.25:
        return Drawing(rng.choice(CHARACTERS))
    count = 1 if rng.random() < 0.7 else 2
    return Drawing("", tuple((rng.choice(list(INKS)), rng.choice(SHAPES)) for _ in range(count)))


def outline(shape: str, rng: random.Random) -> list[tuple[float, float]]:
    """Corners of a shape of radius 1 around the origin."""
    circle = [2 * math.pi * k / 40 for k in range(40)]
    tenths = [math.pi * k / 5 for k in range(10)]
    third, wide = 0.33, rng.random() < 0.7
    corners: dict[str, list[tuple[float, float]]] = {
        "circle": [(math.cos(a), math.sin(a)) for a in circle],
        "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
        "rectangle": [(u, v) if wide else (v, u) for u, v in ((-1.05, -0.5), (1.05, -0.5), (1.05, 0.5), (-1.05, 0.5))],
        "triangle": [(0, -1), (0.95, 0.75), (-0.95, 0.75)],
        "star": [(r * math.sin(a), -r * math.cos(a)) for a, r in zip(tenths, (1.1, 0.45) * 5, strict=True)],
        "cross": [(-third, -1), (third, -1), (third, -third), (1, -third), (1, third), (third, third), (third, 1),
                  (-third, 1), (-third, third), (-1, third), (-1, -third), (-third, -third)],
        "heart": [(16 * math.sin(a) ** 3 / 17, -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a)
                  - math.cos(4 * a)) / 16) for a in circle],
    }  # fmt: skip
    return corners[shape]


def draw_sheet(drawing: Drawing, rng: random.Random, ground: tuple[int, int, int], *, pen: bool) -> Image.Image:
    """A sheet, 480 × 360, with a drawing printed on it or made with a felt pen."""
    sheet = Image.new("RGB", (480, 360), ground)
    draw = ImageDraw.Draw(sheet)
    if drawing.character:
        names = [name for name in FONTS if _is_installed(name)]
        font = ImageFont.truetype(rng.choice(names), 230) if names else ImageFont.load_default(230)
        draw.text((240, 180), drawing.character, (20, 20, 30), font, anchor="mm")
    alone = len(drawing.things) == 1
    for place, (colour, shape) in enumerate(drawing.things):
        radius = rng.uniform(75, 125) if alone else rng.uniform(55, 75)
        x, y = 240 + (0 if alone else 230 * place - 115) + rng.uniform(-8, 8), 180 + rng.uniform(-15, 15)
        turn = rng.uniform(-0.2, 0.2)
        ink = tuple(min(255, max(0, part + rng.randint(-12, 12))) for part in INKS[colour])
        points = [
            (x + radius * (u * math.cos(turn) - v * math.sin(turn)),
             y + radius * (u * math.sin(turn) + v * math.cos(turn))) for u, v in outline(shape, rng)
        ]  # fmt: skip
        if pen:
            _trace(draw, points, ink, rng)
        else:
            draw.polygon(points, ink)
    return sheet


def _trace(
    draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], colour: tuple[int, ...], rng: random.Random
) -> None:
    """An outline as a hand draws it: it wavers, and does not quite close. Every other one is filled in, with lines."""
    thick, shaky = rng.randint(9, 15), rng.uniform(1, 3)
    path = []
    for (x, y), (u, v) in zip(points, [*points[1:], points[0]], strict=True):
        steps = max(2, int(math.hypot(u - x, v - y) / 12))
        path += [(x + (u - x) * k / steps, y + (v - y) * k / steps) for k in range(steps)]
    drift = [0.0, 0.0]
    shaken = []
    for x, y in [*path, path[0]]:
        drift = [0.8 * part + rng.gauss(0, shaky) for part in drift]
        shaken.append((x + drift[0], y + drift[1]))
    draw.line(shaken, colour, thick, joint="curve")
    for x, y in shaken:
        draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), colour)
    if rng.random() < 0.5:
        mask = Image.new("L", (480, 360))
        ImageDraw.Draw(mask).polygon(path, 255)
        lines = Image.new("L", (480, 360))
        pen = ImageDraw.Draw(lines)
        for offset in range(-360, 480, int(thick * 0.9)):
            pen.line((offset + rng.uniform(-2, 2), 0, offset + 360 + rng.uniform(-2, 2), 360), 255, thick)
        filled = Image.fromarray(np.minimum(np.asarray(mask), np.asarray(lines)))
        draw.bitmap((0, 0), filled, colour)


def hold(sheet: Image.Image, behind: Image.Image, rng: random.Random) -> Image.Image:
    """The sheet at about half of the picture's width, turned and tilted, with fingers on its edges, in front of
    ``behind``."""
    width, height = SIZE
    across = rng.uniform(0.38, 0.6) * width
    down = across * rng.uniform(0.62, 0.8)
    x, y = rng.uniform(0.4, 0.6) * width, rng.uniform(0.45, 0.6) * height
    turn = rng.uniform(-0.15, 0.15)
    corners = []
    for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        a = across / 2 * u * rng.uniform(0.94, 1.04)
        b = down / 2 * v * rng.uniform(0.94, 1.04)
        corners.append((x + a * math.cos(turn) - b * math.sin(turn), y + a * math.sin(turn) + b * math.cos(turn)))
    bounds = [(0, 0), (sheet.width, 0), (sheet.width, sheet.height), (0, sheet.height)]
    rows = []
    for (p, q), (u, v) in zip(corners, bounds, strict=True):
        rows += [[p, q, 1, 0, 0, 0, -u * p, -u * q], [0, 0, 0, p, q, 1, -v * p, -v * q]]
    data = np.linalg.solve(np.array(rows, float), np.array(bounds, float).flatten()).tolist()
    warped = sheet.transform(SIZE, Image.Transform.PERSPECTIVE, data, Image.Resampling.BICUBIC)
    mask = Image.new("L", SIZE)
    ImageDraw.Draw(mask).polygon(corners, 255)
    picture = behind.copy()
    picture.paste(warped, (0, 0), mask)
    draw, skin = ImageDraw.Draw(picture), rng.choice(SKINS)
    for (ax, ay), (bx, by) in ((corners[0], corners[3]), (corners[1], corners[2])):
        place, thick = rng.uniform(0.45, 0.9), rng.uniform(16, 24)
        px, py = ax + (bx - ax) * place, ay + (by - ay) * place
        out = 1 if px > x else -1
        for finger in range(rng.randint(1, 3)):
            fy = py + finger * thick * 1.05
            draw.line((px + out * 60, fy + 12, px - out * 14, fy), skin, int(thick))
            draw.ellipse((px - out * 14 - thick / 2, fy - thick / 2, px - out * 14 + thick / 2, fy + thick / 2), skin)
    return picture


def draw_room(rng: random.Random) -> Image.Image:
    """A wall, a floor, furniture, a window or a lamp, and usually a person in front of it."""
    width, height = SIZE
    noise = np.random.default_rng(rng.randrange(1 << 30))
    wall = noise.uniform(90, 225) + noise.uniform(-25, 25, 3)
    picture = np.broadcast_to(wall, (height, width, 3)).copy()
    picture *= (
        np.linspace(1.08, rng.uniform(0.6, 1), width)[None, :, None] * np.linspace(1, 0.85, height)[:, None, None]
    )
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    floor = rng.uniform(0.6, 0.85) * height
    draw.rectangle((0, floor, width, height), _tone(rng, 60, 150))
    for _ in range(rng.randint(2, 5)):
        left, top = rng.uniform(-0.1, 0.9) * width, rng.uniform(0.05, 0.7) * height
        right, bottom = left + rng.uniform(0.1, 0.4) * width, top + rng.uniform(0.1, 0.5) * height
        draw.rectangle((left, top, right, bottom), _tone(rng, 30, 220))
        if rng.random() < 0.4:  # shelves, or books
            for k in range(1, rng.randint(3, 9)):
                at = left + (right - left) * k / 9
                draw.rectangle((at, top + 6, at + (right - left) / 12, bottom), _tone(rng, 20, 230))
    if rng.random() < 0.5:
        left, top = rng.uniform(0, 0.7) * width, rng.uniform(0, 0.2) * height
        draw.rectangle((left, top, left + 150, top + 170), (238, 243, 250))
        draw.line((left + 75, top, left + 75, top + 170), (180, 180, 180), 6)
    if rng.random() < 0.4:
        x, y, radius = rng.uniform(0.1, 0.9) * width, rng.uniform(0.05, 0.4) * height, rng.uniform(15, 45)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), _tone(rng, 120, 255))
    if rng.random() < 0.75:
        _person(draw, rng)
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.8, 3)))


def _person(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    width, height = SIZE
    x, y, head = rng.uniform(0.3, 0.7) * width, rng.uniform(0.22, 0.42) * height, rng.uniform(50, 90)
    skin, hair, shirt = rng.choice(SKINS), _tone(rng, 10, 120), _tone(rng, 20, 230)
    draw.ellipse((x - 2.1 * head, y + 1.25 * head, x + 2.1 * head, y + 6 * head), shirt)
    draw.rectangle((x - 0.4 * head, y + 0.7 * head, x + 0.4 * head, y + 1.5 * head), skin)
    draw.ellipse((x - 0.85 * head, y - 1.2 * head, x + 0.85 * head, y + 0.9 * head), hair)
    draw.ellipse((x - 0.72 * head, y - 0.85 * head, x + 0.72 * head, y + 1.05 * head), skin)
    for side in (-1, 1):
        eye = x + side * 0.3 * head
        draw.ellipse((eye - 5, y - 5, eye + 5, y + 5), (30, 30, 30))
    draw.line((x - 0.25 * head, y + 0.55 * head, x + 0.25 * head, y + 0.55 * head), (150, 60, 60), 5)


def _white(rng: random.Random) -> tuple[int, int, int]:
    tone = rng.randint(225, 252)
    return tone, tone, tone - rng.randint(0, 10)


def _tone(rng: random.Random, low: int, high: int) -> tuple[int, int, int]:
    base = rng.randint(low, high)
    red, green, blue = (min(255, max(0, base + rng.randint(-45, 45))) for _ in range(3))
    return red, green, blue


def _cut(path: Path, rng: random.Random) -> Image.Image:
    """A photograph at the size of a camera's picture: most of it, anywhere."""
    image = Image.open(path).convert("RGB")
    share = rng.uniform(0.75, 1)
    width = share * min(image.width, image.height * SIZE[0] / SIZE[1])
    height = width * SIZE[1] / SIZE[0]
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    return image.resize(SIZE, Image.Resampling.BICUBIC, (left, top, left + width, top + height))


def _camera(image: Image.Image, rng: random.Random) -> Image.Image:
    """Blur, light, and noise."""
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2)))
    noise = np.random.default_rng(rng.randrange(1 << 30))
    pixels = np.asarray(image).astype(np.float32) * noise.uniform(0.85, 1.05) * noise.uniform(0.95, 1.05, 3)
    pixels += noise.normal(0, 4, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _is_installed(name: str) -> bool:
    try:
        ImageFont.truetype(name, 10)
    except OSError:
        return False
    return True
