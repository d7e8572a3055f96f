"""Odd and broken pictures, made here, each with the pixels that a person would see or the sentence that it gets.

Every way in gives the same pixels: a file or bytes, a live frame, an offline question, a call's camera, a bundle.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.call.frames import encode_jpeg
from app.replay.bundle_media import BundleError, read_still
from engine.client import EngineError
from engine.errors import InputError
from engine.media.picture import MAX_SHAPE
from engine.media.upright import upright
from engine.processing.image import open_image
from engine.serving.checks import decode_frame

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)
RAMP = np.linspace(0, 65_535, 64).astype(np.uint16).reshape(8, 8)
RAMP_8 = np.rint(RAMP / 257).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def marked() -> Image.Image:
    """A picture whose every turn and mirror image differs: a red bar on top and a black corner at its left end."""
    image = Image.new("RGB", (96, 48), "white")
    image.paste(RED, (0, 0, 96, 16))
    image.paste(BLACK, (0, 0, 16, 16))
    return image


SHOWN: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, -1)[::-1],
    8: lambda a: np.rot90(a, 1),
}
"""How a picture of each EXIF orientation is shown (CIPA DC-008, table of the orientation tag)."""


def with_orientation(value: int, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return encoded(marked(), kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("value", SHOWN)
def test_exif_orientation(value: int, kind: str) -> None:
    shown = pixels(open_image(with_orientation(value, kind)))
    wanted = SHOWN[value](np.asarray(marked()))
    assert shown.shape == wanted.shape
    assert np.abs(shown - wanted).mean() < 8


@pytest.mark.parametrize("value", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_is_none(value: int) -> None:
    assert (pixels(open_image(with_orientation(value))) == np.asarray(marked())).all()


def test_damaged_notes_do_no_harm_to_a_picture() -> None:
    data = bytearray(with_orientation(6, "JPEG"))
    at = data.index(b"Exif\0\0") + 6
    data[at : at + 12] = b"\xff" * 12
    assert open_image(bytes(data)).size == (96, 48)


@pytest.mark.parametrize("value", SHOWN)
def test_twice_upright_is_once_upright(value: int) -> None:
    once = open_image(with_orientation(value))
    assert (pixels(open_image(once)) == pixels(once)).all()
    assert (pixels(upright(Image.open(io.BytesIO(with_orientation(value))))) == pixels(once)).all()


def palette(*colours: tuple[int, int, int]) -> Image.Image:
    """8 by 8 pixels of the first colour, the first pixel of the second."""
    image = Image.new("P", (8, 8))
    image.putpalette([level for colour in colours for level in colour])
    image.putpixel((0, 0), 1)
    return image


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "white")]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **lossless)


PNG = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def grey_16(clear: int | None = None) -> bytes:
    """A grey PNG of 16 bits, written by hand so that it can hold a transparent level (PNG 3rd ed. 11.3.1.1)."""

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in RAMP)
    note = chunk(b"tRNS", struct.pack(">H", clear)) if clear is not None else b""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 0, 0, 0, 0))
    return PNG + head + note + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def two_colours(mode: str, ground: Any, mark: Any) -> Image.Image:
    image = Image.new(mode, (8, 8), ground)
    image.putpixel((0, 0), mark)
    return image


C = Image.new("RGB", (8, 8), (200, 30, 40))
FLAT: dict[str, tuple[bytes, tuple[int, int, int], tuple[int, int, int]]] = {
    "grey PNG": (encoded(two_colours("L", 90, 255), "PNG"), WHITE, (90, 90, 90)),
    "1-bit PNG": (encoded(two_colours("1", 0, 1), "PNG"), WHITE, BLACK),
    "1-bit PNG, black transparent": (encoded(two_colours("1", 0, 1), "PNG", transparency=0), WHITE, WHITE),
    "grey PNG, a transparent level": (encoded(two_colours("L", 7, 90), "PNG", transparency=7), (90,) * 3, WHITE),
    "RGB PNG, a transparent colour": (
        encoded(two_colours("RGB", (1, 2, 3), RED), "PNG", transparency=(1, 2, 3)), RED, WHITE),
    "RGBA PNG": (encoded(two_colours("RGBA", (9, 9, 9, 0), (255, 0, 0, 255)), "PNG"), RED, WHITE),
    "RGBA PNG, half transparent": (
        encoded(two_colours("RGBA", (0, 0, 0, 128), (255, 0, 0, 128)), "PNG"), (255, 127, 127), (127, 127, 127)),
    "LA PNG": (encoded(two_colours("LA", (0, 0), (0, 255)), "PNG"), BLACK, WHITE),
    "RGBA WebP": (
        encoded(two_colours("RGBA", (9, 9, 9, 0), (255, 0, 0, 255)), "WEBP", lossless=True), RED, WHITE),
    "RGBA TIFF": (encoded(two_colours("RGBA", (9, 9, 9, 0), (255, 0, 0, 255)), "TIFF"), RED, WHITE),
    "palette PNG": (encoded(palette(BLACK, RED), "PNG"), RED, BLACK),
    "palette PNG, a transparent colour": (encoded(palette(BLACK, RED), "PNG", transparency=0), RED, WHITE),
    "palette PNG, opacity by colour": (
        encoded(palette(BLACK, RED), "PNG", transparency=bytes([0, 128])), (255, 127, 127), WHITE),
    "GIF, a transparent colour": (encoded(palette(BLACK, RED), "GIF", transparency=0), RED, WHITE),
    "animated GIF": (animation("GIF"), RED, RED),
    "animated WebP": (animation("WEBP"), RED, RED),
    "animated PNG": (animation("PNG"), RED, RED),
    "TIFF of three pages": (animation("TIFF"), RED, RED),
    "CMYK JPEG": (encoded(C.convert("CMYK"), "JPEG", quality=98), (200, 30, 40), (200, 30, 40)),
    "CMYK TIFF": (encoded(C.convert("CMYK"), "TIFF"), (200, 30, 40), (200, 30, 40)),
    "grey JPEG": (encoded(C.convert("L"), "JPEG", quality=98), (82, 82, 82), (82, 82, 82)),
    "BMP": (encoded(C, "BMP"), (200, 30, 40), (200, 30, 40)),
    "palette BMP": (encoded(palette(BLACK, RED), "BMP"), RED, BLACK),
    "PPM": (encoded(C, "PPM"), (200, 30, 40), (200, 30, 40)),
    "LAB TIFF": (encoded(Image.new("LAB", (8, 8), (255, 128, 128)), "TIFF"), WHITE, WHITE),
}  # fmt: skip


@pytest.mark.parametrize("case", FLAT)
def test_colours_and_transparency(case: str, tmp_path: Path) -> None:
    data, first, last = FLAT[case]
    (tmp_path / "picture").write_bytes(data)
    for image in (open_image(data), open_image(tmp_path / "picture"), open_image(Image.open(io.BytesIO(data)))):
        assert pixels(image)[0, 0] == pytest.approx(first, abs=3)
        assert pixels(image)[-1, -1] == pytest.approx(last, abs=3)


@pytest.mark.parametrize(
    "image",
    [
        two_colours("PA", (0, 0), (0, 255)),
        two_colours("La", (0, 0), (0, 255)),
        two_colours("RGBa", (0, 0, 0, 0), (0, 0, 0, 255)),
        two_colours("RGBX", (255, 255, 255, 0), (0, 0, 0, 0)),
        two_colours("HSV", (0, 0, 255), (0, 0, 0)),
        two_colours("YCbCr", (255, 128, 128), (0, 128, 128)),
    ],
    ids=lambda image: image.mode,
)
def test_modes_that_only_programs_make(image: Image.Image) -> None:
    assert pixels(open_image(image))[0, 0] == pytest.approx(BLACK, abs=1)
    assert pixels(open_image(image))[-1, -1] == pytest.approx(WHITE, abs=1)


LEVELS: dict[str, Image.Image | bytes] = {
    "I;16": Image.fromarray(RAMP),
    "I;16B": Image.frombytes("I;16B", (8, 8), RAMP.astype(">u2").tobytes()),
    "I": Image.fromarray(RAMP.astype(np.int32)),
    "I of 8 bits": Image.fromarray(RAMP_8.astype(np.int32)),
    "F up to 1": Image.fromarray((RAMP / 65_535).astype(np.float32)),
    "F up to 255": Image.fromarray((RAMP / 257).astype(np.float32)),
    "F up to 65,535": Image.fromarray(RAMP.astype(np.float32)),
    "16-bit PNG": encoded(Image.fromarray(RAMP), "PNG"),
    "16-bit TIFF": encoded(Image.fromarray(RAMP), "TIFF"),
    "16-bit PGM": encoded(Image.fromarray(RAMP), "PPM"),
    "32-bit TIFF": encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
    "float TIFF": encoded(Image.fromarray((RAMP / 65_535).astype(np.float32)), "TIFF"),
}


@pytest.mark.parametrize("case", LEVELS)
def test_levels_of_more_than_8_bits_are_scaled(case: str) -> None:
    shown = pixels(open_image(LEVELS[case]))
    assert np.abs(shown - RAMP_8[:, :, None]).max() <= 1
    assert (shown[0, 0].tolist(), shown[-1, -1].tolist()) == ([0] * 3, [255] * 3)


def test_a_dark_picture_of_16_bits_stays_dark() -> None:
    dark = encoded(Image.fromarray(RAMP // 64), "PNG")
    assert pixels(open_image(dark)).max() == 4


def test_a_transparent_level_of_16_bits_is_white() -> None:
    shown = pixels(open_image(grey_16(clear=0)))
    assert (shown[0, 0].tolist(), shown[0, 1].tolist()) == ([255] * 3, [4] * 3)


def test_levels_that_are_no_numbers_are_black() -> None:
    levels = np.array([[np.nan, 0.5], [1.0, -3.0]], np.float32)
    assert pixels(open_image(Image.fromarray(levels)))[:, :, 0].tolist() == [[0, 128], [255, 0]]


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b""))


NOISE = Image.effect_noise((64, 64), 50).convert("RGB")
BROKEN: dict[str, tuple[bytes, str]] = {
    "no byte": (b"", "is empty"),
    "text": (b"hello" * 99, "not a picture in a known format"),
    "zeros": (bytes(1000), "not a picture in a known format"),
    "an SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture in a known format"),
    "EPS, which is a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "not a picture"),
    "half a JPEG": (encoded(NOISE, "JPEG")[:1500], "not a whole picture"),
    "half a PNG": (encoded(NOISE, "PNG")[:4000], "not a whole picture"),
    "half a WebP": (encoded(NOISE, "WEBP")[:500], "not a"),
    "half a GIF": (encoded(NOISE, "GIF")[:1500], "not a whole picture"),
    "half a TIFF": (encoded(NOISE, "TIFF")[:1500], "not a"),
    "half a BMP": (encoded(NOISE, "BMP")[:1500], "not a whole picture"),
    "a PNG of which a byte flipped": (
        encoded(NOISE, "PNG")[:200] + b"\xff" + encoded(NOISE, "PNG")[201:], "not a whole picture"),
    "the head of a JPEG": (b"\xff\xd8\xff\xe0", "not a"),
    "120 megapixels": (bomb(12_000, 10_000), "more than 89,000,000 pixels"),
    "ten gigapixels": (bomb(100_000, 100_000), "more than 89,000,000 pixels"),
    "a line": (bomb(MAX_SHAPE * 20 + 20, 20), "one side over 1,000 times the other"),
    "no pixel": (bomb(0, 10), "not a"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_picture_gets_one_sentence(case: str, tmp_path: Path) -> None:
    data, fault = BROKEN[case]
    path = tmp_path / "1.jpg"
    path.write_bytes(data)
    reads: list[Callable[[], object]] = [
        lambda: open_image(data),
        lambda: open_image(path),
        lambda: decode_frame(data),
    ]
    for read in reads:
        with pytest.raises((InputError, EngineError)) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert "; " in str(caught.value)
    with pytest.raises(InputError, match=fault):
        open_image(path)
    with pytest.raises(BundleError, match=r"1\.jpg .*; "):
        read_still(path)


@pytest.mark.parametrize("name", ["", "none.png", "x" * 4_000, "nul\0byte"])
def test_a_path_that_leads_nowhere_gets_one_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"; ") as caught:
        open_image(f"{tmp_path}/{name}")
    assert "\n" not in str(caught.value)


def test_a_picture_in_memory_that_cannot_be_used_gets_one_sentence() -> None:
    with pytest.raises(InputError, match="at least one each way"):
        open_image(Image.new("RGB", (0, 5)))
    lazy = Image.open(io.BytesIO(encoded(NOISE, "JPEG")[:1500]))
    with pytest.raises(InputError, match="cannot be shown in RGB"):
        open_image(lazy)


def as_stored(data: bytes) -> np.ndarray:
    return pixels(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("data", [with_orientation(6), with_orientation(7, "JPEG"), FLAT["RGBA PNG"][0],
                                  FLAT["palette PNG, opacity by colour"][0], grey_16(),
                                  FLAT["CMYK JPEG"][0]])  # fmt: skip
def test_every_way_in_shows_the_same(data: bytes, tmp_path: Path) -> None:
    wanted = pixels(open_image(data))
    assert (pixels(decode_frame(data)) == wanted).all()
    (tmp_path / "0.jpg").write_bytes(data)
    for jpeg in (encode_jpeg(Image.open(io.BytesIO(data))), read_still(tmp_path / "0.jpg")):
        shown = as_stored(jpeg)
        assert shown.shape == wanted.shape
        assert np.abs(shown - wanted).mean() < 12  # JPEG blurs the edges
