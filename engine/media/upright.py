"""A picture as a person sees it: upright, 8-bit RGB, on white where it is transparent, of square pixels.

Cameras store what their sensor reads and note how it is to be turned (EXIF orientation, CIPA DC-008 4.6.5; the display
matrix of a video track, ISO/IEC 14496-12 8.3.2); the model sees pixels only. Colours stay as the file has them: colour
profiles are not applied.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Fit = Callable[[int, int], tuple[int, int]]
"""Chooses the size that a picture of this width and height (pixels) is scaled to."""

ORIENTATION_TAG = 0x0112
BITS_PER_SAMPLE_TAG = 258
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture of each EXIF orientation upright; 1 is upright."""


def upright(image: Image.Image) -> Image.Image:
    """A decoded picture of any mode as upright RGB with no notes left on it (so that twice is the same as once).

    Of an animation it is the picture that is shown. Raises ValueError for modes without a way to RGB.
    """
    image.load()  # some formats turn the picture themselves, and know the transparent colour only now
    turn = _TURNS.get(orientation(image))
    image = _to_rgb(image)
    image = image.transpose(turn) if turn is not None else image
    image.info.clear()
    return image


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none."""
    try:
        noted = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # the notes are damaged, in one of many ways; the picture is not
        return 1
    return noted if noted in _TURNS else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _grey_to_rgb(image)
    if image.has_transparency_data:
        layer = _with_straight_alpha(image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _with_straight_alpha(image: Image.Image) -> Image.Image:
    """A picture whose colours are not multiplied with their opacity."""
    straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    return image.convert(straight) if straight else image


def _grey_to_rgb(image: Image.Image) -> Image.Image:
    """Greys of more than 8 bits, scaled so that white stays white."""
    levels = np.asarray(image).astype(np.float64)
    finite = np.nan_to_num(levels, nan=0.0)
    grey = np.rint(np.clip(finite / _white(image, finite), 0, 1) * 255).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[levels == clear] = 255
    return Image.fromarray(grey).convert("RGB")


def _white(image: Image.Image, levels: NDArray[np.float64]) -> float:
    """The level of white: what the format says, else the smallest usual one that no level is above."""
    if image.mode.startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE_TAG, (16,))
        return float(2 ** min(int(bits[0]), 16) - 1)
    if image.format in ("PNG", "PPM"):  # 16 bits, whatever the mode; Pillow has scaled what had fewer
        return 65535.0
    finite = levels[np.isfinite(levels)]
    highest = float(finite.max()) if finite.size else 0.0
    usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    return next((white for white in usual if highest <= white), highest)


def upright_frame(
    frame: Any,
    pixel_shape: Fraction | None = None,
    fit: Fit | None = None,
) -> Image.Image:
    """A decoded video frame (``av.VideoFrame``) of any pixel format as upright RGB.

    ``pixel_shape`` is the width of a stored pixel over its height, None for square ones. The frame is scaled
    to what ``fit`` says, before it is turned, while its colours are converted.
    """
    width, height = _square(frame.width, frame.height, pixel_shape)
    if fit is not None:
        width, height = fit(width, height)
    see_through = frame.format.has_palette or any(part.is_alpha for part in frame.format.components)
    pixels = frame.reformat(width=width, height=height, format="rgba" if see_through else "rgb24").to_ndarray()
    image = Image.fromarray(np.ascontiguousarray(_turn(pixels, frame)))
    return upright(image)


def _square(width: int, height: int, pixel_shape: Fraction | None) -> tuple[int, int]:
    """The size in square pixels; the picture only grows."""
    if not pixel_shape or pixel_shape == 1:
        return width, height
    if pixel_shape > 1:
        return round(width * pixel_shape), height
    return width, round(height / pixel_shape)


def _turn(pixels: NDArray[np.uint8], frame: Any) -> NDArray[np.uint8]:
    """Turn and mirror ``[H, W, C]`` as the frame's display matrix says, by the right angle that comes closest.

    The matrix is nine int32 by rows, (a, b, u, c, d, v, x, y, w): column x and row y are shown at column a·x + c·y and
    row b·x + d·y, y downwards.
    """
    note = frame.side_data.get("DISPLAYMATRIX")
    if note is None:
        return pixels
    a, b, _, c, d, *_ = (int(value) for value in np.frombuffer(bytes(note), np.int32))
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, column, row = pixels.swapaxes(0, 1), c, b
    else:
        column, row = a, d
    return pixels[:: -1 if row < 0 else 1, :: -1 if column < 0 else 1]
