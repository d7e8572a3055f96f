"""Bundles and media for the tests of recording and replay."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.replay.bundle import write_bundle
from tests.speechlike import speechlike

RATE = 16_000

MakeBundle = Callable[..., Path]


def silence(seconds: float, rate: int = RATE) -> NDArray[np.int16]:
    return np.zeros(round(seconds * rate), np.int16)


def picture(colour: str = "red", size: tuple[int, int] = (64, 48), kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return out.getvalue()


def write_video(path: Path, seconds: float = 2.0, fps: int = 10, codec: str = "mpeg4") -> None:
    """Grey pictures that become lighter."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = 160, 120
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        count = round(seconds * fps)
        random = np.random.default_rng(0)
        for number in range(count):
            pixels = random.integers(0, 100, (120, 160, 3), np.uint8) + np.uint8(155 * number // count)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """A good bundle with one turn of speech, in a folder of the given name."""

    def make(name: str = "call", **more: Any) -> Path:
        audio = np.concatenate([silence(0.5), speechlike(1.2), silence(1.0)])
        return write_bundle(tmp_path / name, audio, RATE, **more)

    return make
