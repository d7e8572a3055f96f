"""Draws the scenes of :mod:`engine.mini.world.scenes` as a camera might see them: on plain, textured or cluttered
ground, on a sheet of paper, held by a hand, seen at an angle, out of focus, in poor light."""

from __future__ import annotations

import math
import random
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from engine.mini.world.scenes import Scene

SIZES = ((224, 168), (224, 168), (224, 168), (256, 144), (168, 224))
"""Width and height of rendered pictures: mostly a camera's 4:3, some wide, some of a tablet held upright."""
PALETTE: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((220, 30, 30), (180, 20, 35), (255, 60, 50), (255, 0, 0)),
    "green": ((30, 160, 50), (20, 120, 40), (80, 200, 80), (0, 128, 0), (0, 230, 0)),
    "blue": ((30, 60, 210), (20, 40, 150), (60, 120, 240), (0, 0, 255)),
    "yellow": ((250, 220, 40), (230, 200, 20), (255, 240, 90), (255, 255, 0)),
    "orange": ((245, 140, 20), (230, 120, 10), (255, 160, 60), (255, 165, 0)),
    "purple": ((130, 40, 170), (100, 30, 130), (150, 70, 200), (128, 0, 128)),
    "pink": ((250, 130, 180), (240, 100, 160), (255, 170, 200), (255, 192, 203)),
    "black": ((15, 15, 15), (35, 35, 40), (0, 0, 0)),
    "white": ((250, 250, 250), (235, 235, 240), (255, 255, 255)),
    "brown": ((120, 70, 30), (100, 60, 35), (140, 90, 50), (139, 69, 19)),
    "grey": ((128, 128, 128), (110, 110, 115), (150, 150, 150)),
}
"""Red, green and blue of a few shades of every colour."""
FONTS = (
    "DejaVuSans-Bold.ttf", "DejaVuSans.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono-Bold.ttf",
    "DejaVuSansCondensed-Bold.ttf", "LiberationSans-Bold.ttf", "LiberationSans-Regular.ttf", "LiberationSerif-Bold.ttf",
    "LiberationSansNarrow-Bold.ttf", "FreeSansBold.ttf", "FreeSans.ttf", "FreeSerifBold.ttf", "FreeMonoBold.ttf",
    "Lato-Black.ttf", "Lato-Bold.ttf", "Lato-Regular.ttf", "Humor-Sans.ttf", "Quicksand-Bold.ttf", "Ecolier-court.ttf",
)  # fmt: skip
JUDGE_FONTS = ("Roboto-Bold.ttf", "Roboto-Regular.ttf", "RobotoCondensed-Bold.ttf", "Inconsolata.otf")
"""Fonts that only the evaluation uses."""
SKINS = ((236, 196, 168), (205, 145, 110), (150, 96, 66), (92, 60, 44))


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
    if rng.random() < 0.2 * difficulty:
        _furnish(image, base, rng)
    if light and rng.random() < 0.2 * difficulty:
        _lay_paper(image, rng)
    if rng.random() < 0.2 * difficulty:
        _hold(image, rng)
    return image


def _furnish(image: Image.Image, base: NDArray[np.float64], rng: random.Random) -> None:
    """Large areas of nearly the ground's colour: a wall's corner, a table, a shelf."""
    draw, (width, height) = ImageDraw.Draw(image), image.size
    for _ in range(rng.randint(1, 3)):
        tone = tuple(int(min(255, max(0, c + rng.uniform(-28, 28)))) for c in base)
        edge = rng.uniform(0.15, 0.85)
        if rng.random() < 0.5:
            draw.rectangle((0, edge * height, width, height), tone)
        else:
            draw.polygon(
                [(edge * width, 0), (width, 0), (width, height), (rng.uniform(0.15, 0.85) * width, height)], tone
            )


def _lay_paper(image: Image.Image, rng: random.Random) -> None:
    """A sheet that nearly fills the picture; its edges show."""
    width, height = image.size
    x, y, turn = rng.uniform(0.02, 0.1) * width, rng.uniform(0.02, 0.1) * height, rng.uniform(-0.05, 0.05) * height
    corners = [(x, y + turn), (width - x, y - turn), (width - x, height - y - turn), (x, height - y + turn)]
    ImageDraw.Draw(image).polygon(corners, (rng.randint(225, 255),) * 3)


def _hold(image: Image.Image, rng: random.Random) -> None:
    """Fingers that reach in from an edge."""
    draw, (width, height) = ImageDraw.Draw(image), image.size
    skin = rng.choice(SKINS)
    left, thick = rng.random() < 0.5, rng.uniform(9, 16)
    y = rng.uniform(0.3, 0.9) * height
    for finger in range(rng.randint(1, 4)):
        reach = rng.uniform(0.06, 0.16) * width
        tone = tuple(int(c * rng.uniform(0.9, 1.05)) for c in skin)
        tip = reach if left else width - reach
        draw.line((0 if left else width, y, tip, y), tone, int(thick))
        draw.ellipse((tip - thick / 2, y - thick / 2, tip + thick / 2, y + thick / 2), tone)
        y += thick * (1.1 if finger else 1.4)


def _enlarge(small: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float32]:
    planes = [np.asarray(Image.fromarray(small[..., k].astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
              for k in range(3)]  # fmt: skip
    return np.stack(planes, -1)


def render(scene: Scene, rng: random.Random, difficulty: float = 1.0, fonts: tuple[str, ...] = FONTS) -> Image.Image:
    """Draws the scene; ``difficulty`` 0 to 1 scales clutter, turning, blur, noise and lighting."""
    return render_with_plan(scene, rng, difficulty, fonts)[0]


def render_with_plan(
    scene: Scene, rng: random.Random, difficulty: float = 1.0, fonts: tuple[str, ...] = FONTS
) -> tuple[Image.Image, Image.Image]:
    """The picture, and a plan of the same size: 0 for the background, else 1 + the index of the thing that is there; 1
    also for the character."""
    image = background(rng, scene.light, difficulty)
    plan = Image.new("L", image.size)
    draw, planned = ImageDraw.Draw(image), ImageDraw.Draw(plan)
    width, height = image.size
    alone = len(scene.things) == 1
    for index, thing in enumerate(scene.things):
        central = alone and thing.row == thing.column == 1
        radius = rng.uniform(16, 62 if central else 45) if alone else rng.uniform(14, 25)
        x = (thing.column + 0.5 + rng.uniform(-0.18, 0.18)) * width / 3
        y = (thing.row + 0.5 + rng.uniform(-0.14, 0.14)) * height / 3
        angle = rng.uniform(-0.3, 0.3) * difficulty
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
        _draw_character(image, plan, scene, rng, difficulty, fonts)
    if rng.random() < 0.35 * difficulty:
        image, plan = _lean(image, plan, rng)
    return _camera(image, rng, difficulty), plan


def _lean(image: Image.Image, plan: Image.Image, rng: random.Random) -> tuple[Image.Image, Image.Image]:
    """Both as seen at an angle: every corner is drawn from a little further inside."""
    width, height = image.size
    corners = [(0, 0), (width, 0), (width, height), (0, height)]
    sources = [
        (
            x + (rng.uniform(0, 0.05) * width) * (1 if x == 0 else -1),
            y + rng.uniform(0, 0.05) * height * (1 if y == 0 else -1),
        )
        for x, y in corners
    ]
    rows = []
    for (x, y), (u, v) in zip(corners, sources, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    data = np.linalg.solve(np.array(rows, float), np.array(sources, float).flatten()).tolist()
    perspective = Image.Transform.PERSPECTIVE
    return image.transform(image.size, perspective, data, Image.Resampling.BILINEAR), plan.transform(
        plan.size, perspective, data
    )


def _near(a: tuple[int, ...], b: object) -> bool:
    return isinstance(b, tuple) and sum(abs(p - q) for p, q in zip(a, b, strict=False)) < 110


@lru_cache(maxsize=8)
def _installed(fonts: tuple[str, ...]) -> list[str]:
    """Those fonts that this machine has."""
    found = []
    for name in fonts:
        try:
            ImageFont.truetype(name, 10)
        except OSError:
            continue
        found.append(name)
    return found


def _draw_character(
    image: Image.Image, plan: Image.Image, scene: Scene, rng: random.Random, difficulty: float, fonts: tuple[str, ...]
) -> None:
    width, height = image.size
    size = rng.randint(70, 140)
    installed = _installed(fonts)
    font = ImageFont.truetype(rng.choice(installed), size) if installed else ImageFont.load_default(size)
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
