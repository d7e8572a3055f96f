"""Encoded pictures (a file or bytes) → upright RGB. Whatever is wrong with one ends as one sentence."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from engine.errors import MediaError, reason
from engine.media.upright import upright

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO")
"""Formats that are read: those of cameras, browsers and scanners. Not those that run programs (EPS) or that take any
data for a picture (TGA)."""
MAX_PIXELS = 89_000_000
"""Largest picture; above it Pillow itself warns of a small file that fills the memory."""
MAX_SHAPE = 1_000
"""Longest side over the shortest: the model sees about 450 · √shape pixels along the longer one."""

Encoded = bytes | str | Path


def open_picture(
    source: Encoded, name: str = "the picture", formats: Sequence[str] = FORMATS, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode a picture to upright RGB; the first one of an animation.

    ``name`` is what the sentence calls the data; a file is called by its path. Raises MediaError.
    """
    return make_upright(decode_picture(source, name, formats, max_pixels), _called(source, name))


def decode_picture(
    source: Encoded, name: str = "the picture", formats: Sequence[str] = FORMATS, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode every pixel of a picture and leave mode, orientation and notes as they are. Raises MediaError."""
    name, remedy = _called(source, name), f"send {_either(formats)}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd notes beside a picture that is whole
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.init()
            known = [kind for kind in formats if kind in Image.OPEN]
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=known) as image:
                _check_size(image, name, max_pixels)
                image.load()
                return image
    except UnidentifiedImageError:  # whose own words hold an address in memory
        fault = "is not a picture in a known format" if _has_bytes(source) else "is empty"
        raise MediaError(name, fault, remedy) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise MediaError(name, f"has more than {max_pixels:,} pixels", "send a smaller picture") from None
    except FileNotFoundError:
        raise MediaError(name, "does not exist", "check its path") from None
    except MediaError:
        raise
    except Exception as error:  # damage makes decoders fail in many ways, SyntaxError and IndexError among them
        unreachable = isinstance(error, OSError) and error.errno is not None
        fault = "cannot be read" if unreachable else "is not a whole picture"
        raise MediaError(name, f"{fault} ({reason(error)})", remedy) from error


def make_upright(image: Image.Image, name: str = "the picture") -> Image.Image:
    """A decoded picture as upright RGB. Raises MediaError."""
    _check_size(image, name, MAX_PIXELS)
    try:
        return upright(image)
    except Exception as error:  # of a picture that is decoded only now: see decode_picture
        raise MediaError(name, f"cannot be shown in RGB ({reason(error)})", "send JPEG or PNG") from error


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    size = f"{width} by {height} pixels"
    if min(width, height) < 1:
        raise MediaError(name, f"is {size}", "it needs at least one each way")
    if width * height > max_pixels:
        raise MediaError(name, f"has {size}, allowed are {max_pixels:,}", "send a smaller picture")
    if max(width, height) > MAX_SHAPE * min(width, height):
        raise MediaError(name, f"is {size}, one side over {MAX_SHAPE:,} times the other", "cut it into pieces")


def _has_bytes(source: Encoded) -> bool:
    return bool(source) if isinstance(source, bytes) else Path(source).stat().st_size > 0


def _called(source: Encoded, name: str) -> str:
    return name if isinstance(source, bytes) else str(source)


def _either(formats: Sequence[str]) -> str:
    return "JPEG or PNG" if "JPEG" in formats else " or ".join(formats)
