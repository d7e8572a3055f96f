"""Finds plain ground in a picture, a sheet of paper or all of it, and what is drawn on it, thing by thing.

Eyes that have only ever seen drawings find drawings everywhere. So this looks first whether there is anything that
could be one: a large smooth area without dents, and on it a few things, each of one colour, that lie wholly inside.
What reaches in from its border is a hand, or the room. No weights, no chance: the same picture gives the same things.
The numbers were chosen on half of the pictures of ``engine.small.measure.pictures``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import ConvexHull

LONGEST = 224
"""Pixels of the longer side that is looked at."""
EDGE, MOST_EDGE, TYPICAL_EDGES = 9.0, 16.0, 2.5
"""Levels from pixel to pixel, smoothed, from which on something ends; in a grainy picture so many times its median."""
GROUNDS, LEAST_GROUND = 4, 0.06
"""How many areas are looked at, and the share of the picture that the smallest has."""
LEAST_CONVEX = 0.86
"""Share of its convex hull that a sheet has, its holes filled: fingers hide a part."""
WALL = 0.85
"""A ground that touches two sides of the picture is a wall unless it has this share of it."""
NEAR = 14.0
"""Pixels of neighbourhood in which a ground's own colour is looked for."""
INK = 38.0
"""Levels of the furthest colour channel by which ink differs from its ground."""
LEAST_INK, MOST_INK, MOST_REACHING = 0.002, 0.45, 0.12
"""Shares of the ground: of the smallest thing, of all things, and of what reaches in from its border."""
MOST_THINGS = 5
ALIKE, LEAST_ALIKE = 40.0, 0.75
"""Levels within which colours are one, and the share of a drawn thing that is within them."""
PAPER, GREY = 185.0, 45.0
"""What is as light as this and has no more colour than this is paper, or a window."""
OUTLINE = 0.4
"""From this share of holes on a thing is an outline rather than a character, and is filled in."""
CANVAS = (224, 168)
"""Width and height of the pictures of single things."""
REACH = 96
"""Longer side of a thing in its picture."""

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class DrawnThing:
    """One thing on a ground."""

    picture: Image.Image
    """It alone in the middle of its ground, filled in where it is an outline."""
    x: float
    y: float
    """Its middle on the ground, 0 (left, top) to 1."""


def find_things(picture: Image.Image) -> tuple[DrawnThing, ...]:
    """What is drawn on the largest ground of a picture that has anything on it, in reading order."""
    return next((things for things in _grounds(picture) if things), ())


def _grounds(picture: Image.Image) -> Iterator[tuple[DrawnThing, ...]]:
    """The things on each area that could be a sheet, the largest area first."""
    scale = LONGEST / max(picture.size)
    size = max(8, round(picture.width * scale)), max(8, round(picture.height * scale))
    pixels = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BOX), np.float32)
    smooth = ndimage.gaussian_filter(pixels, (1, 1, 0))
    across, down = (ndimage.sobel(smooth, axis) / 4 for axis in (1, 0))
    edge = np.sqrt(across**2 + down**2).max(2)
    labels, count = ndimage.label(edge < max(EDGE, min(MOST_EDGE, TYPICAL_EDGES * float(np.median(edge)))))
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:] / labels.size
    for index in np.argsort(-areas, kind="stable")[:GROUNDS]:
        if areas[index] < LEAST_GROUND:
            return
        yield _things(pixels, labels == index + 1)


def _things(pixels: Array, flat: Mask) -> tuple[DrawnThing, ...]:
    """What is drawn on a smooth area: nothing where that is no sheet, or where not all of it can have been drawn."""
    filled = ndimage.binary_fill_holes(flat)
    hull = _hull(filled)
    area = int(hull.sum())
    sides = sum(bool(side.any()) for side in (hull[0], hull[-1], hull[:, 0], hull[:, -1]))
    if filled.sum() < LEAST_CONVEX * area or (sides > 1 and area < WALL * hull.size):
        return ()
    ink = (np.abs(pixels - _around(pixels, flat)).max(2) > INK) & hull
    labels, count = ndimage.label(ink, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1) / area
    inner = ndimage.binary_erosion(hull, iterations=2)
    reaching = np.unique(labels[~inner & ink])
    kept = [n for n in range(1, count + 1) if n not in reaching and sizes[n] >= LEAST_INK]
    if len(kept) > MOST_THINGS or sizes[kept].sum() > MOST_INK or sizes[reaching].sum() > MOST_REACHING:
        return ()
    paper = np.median(pixels[flat], 0)
    if not all(_is_drawn(pixels, labels == n, paper) for n in kept):
        return ()
    rows, columns = np.nonzero(hull)
    box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    things = [_thing(pixels, labels == n, paper, box) for n in kept]
    return tuple(sorted(things, key=lambda thing: (round(2 * thing.y), thing.x)))


def _is_drawn(pixels: Array, ink: Mask, paper: Array) -> bool:
    """Whether a thing is of one colour, but for its rim, which has some of the ground's; and not itself paper."""
    core = ndimage.binary_erosion(ink)
    inner = pixels[core if core.sum() > 20 else ink]
    colour = np.median(inner, 0)
    if colour.min() > max(PAPER, float(paper.min())) and np.ptp(colour) < GREY:
        return False
    return bool((np.abs(inner - colour).max(1) < ALIKE).mean() >= LEAST_ALIKE)


def _thing(pixels: Array, ink: Mask, paper: Array, box: tuple[int, int, int, int]) -> DrawnThing:
    rows, columns = np.nonzero(ink)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    shape, own = ink[top:bottom, left:right], pixels[top:bottom, left:right]
    closed = np.pad(shape, 4)  # a hand does not quite close a line
    filled = ndimage.binary_fill_holes(ndimage.binary_closing(closed, iterations=3))[4:-4, 4:-4] | shape
    drawn = np.where(ndimage.binary_dilation(shape)[..., None], own, paper)
    if filled.sum() - shape.sum() > OUTLINE * filled.sum():
        drawn = np.where(filled[..., None], np.median(own[shape], 0), paper)
    x0, y0, x1, y1 = box
    x, y = ((left + right) / 2 - x0) / (x1 - x0), ((top + bottom) / 2 - y0) / (y1 - y0)
    return DrawnThing(_centred(drawn, paper), float(x), float(y))


def _centred(thing: Array, paper: Array) -> Image.Image:
    """A thing in the middle of a picture of its paper."""
    height, width = thing.shape[:2]
    scale = REACH / max(height, width)
    image = Image.fromarray(np.clip(thing, 0, 255).astype(np.uint8))
    image = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BICUBIC)
    red, green, blue = (int(part) for part in paper)
    canvas = Image.new("RGB", CANVAS, (red, green, blue))
    canvas.paste(image, ((CANVAS[0] - image.width) // 2, (CANVAS[1] - image.height) // 2))
    return canvas


def _around(pixels: Array, flat: Mask) -> Array:
    """The ground's own colour everywhere: what it has in the neighbourhood, with its light and its texture."""
    weight = ndimage.gaussian_filter(flat.astype(np.float32), NEAR) + 1e-6
    return np.stack([ndimage.gaussian_filter(plane * flat, NEAR) / weight for plane in np.moveaxis(pixels, 2, 0)], 2)


def _hull(mask: Mask) -> Mask:
    """The convex hull of a mask."""
    points = np.argwhere(mask & ~ndimage.binary_erosion(mask))[:, ::-1]
    out = Image.new("1", (mask.shape[1], mask.shape[0]))
    if len(points) >= 3 and np.ptp(points[:, 0]) and np.ptp(points[:, 1]):
        corners = [(int(x), int(y)) for x, y in points[ConvexHull(points).vertices]]
        ImageDraw.Draw(out).polygon(corners, 1, 1)
    return np.asarray(out, bool)
