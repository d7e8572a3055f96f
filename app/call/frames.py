"""Camera pictures on their way to the model: few, upright, of bounded size, as JPEG.

The live peer and replay use the same two helpers, so that a video file and a camera are seen alike. The functions
here take milliseconds of CPU per picture: call them off the event loop. The classes take none.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.media.upright import upright, upright_frame

MAX_SIDE = 1280
"""Longest side of a picture that the model is given, pixels; larger ones are scaled down."""

MAX_FPS = 4.0
"""Pictures per second that are encoded at most. A unit is one second long and takes the newest."""

QUALITY = 85
"""JPEG quality, 1 to 95."""


class FrameSampler:
    """Chooses at most ``max_fps`` pictures per second of a stream: the first of each 1/``max_fps`` slot of time.

    Slots lie on a fixed grid, so that the choice depends on the time stamps alone, and the mean rate is exact
    whatever the rate of the camera.
    """

    def __init__(self, max_fps: float = MAX_FPS) -> None:
        if max_fps <= 0:
            raise ValueError(f"max_fps must be above zero, not {max_fps}")
        self._max_fps = max_fps
        self._slot: int | None = None

    def wants(self, time_s: float) -> bool:
        """Whether the picture of stream time ``time_s`` (seconds) is to be encoded. Call it once per picture."""
        slot = int(np.floor(time_s * self._max_fps + 1e-6))  # 0.25 s may arrive as 0.2499999 from a time base
        if slot == self._slot:
            return False
        self._slot = slot  # a stream that starts again from zero is a new slot, not a reason to wait
        return True


class NewestPicture:
    """The picture that the next unit takes: the newest one, until another comes or the camera goes off."""

    def __init__(self, on_taken: Callable[[int, bytes], None] | None = None) -> None:
        """``on_taken(t_samples, jpeg)`` hears of every picture that is taken, once, with the time it came."""
        self._on_taken = on_taken
        self._newest: tuple[int, bytes] | None = None
        self._told = self._off = False

    def push(self, t_samples: int, jpeg: bytes) -> None:
        """A new picture at media time ``t_samples``. Ignored while the camera is off."""
        if not self._off:
            self._newest, self._told = (t_samples, jpeg), False

    def switch(self, off: bool) -> None:
        """While the camera is off, there is no picture."""
        self._off = off
        if off:
            self._newest = None

    def take(self) -> bytes | None:
        """The newest picture, JPEG."""
        if self._newest is None:
            return None
        if self._on_taken is not None and not self._told:
            self._on_taken(*self._newest)
        self._told = True
        return self._newest[1]


def encode_jpeg(
    frame: av.VideoFrame | NDArray[np.uint8] | Image.Image, max_side: int = MAX_SIDE, quality: int = QUALITY
) -> bytes:
    """Encode one picture as a baseline JPEG whose longest side is at most ``max_side`` pixels.

    ``frame`` is a decoded video frame of any pixel format, an array uint8 [height, width, 3] in RGB, or a PIL image of
    any mode; it is shown as :mod:`engine.media.upright` says.
    """
    if isinstance(frame, Image.Image):
        image = upright(frame)
    elif isinstance(frame, np.ndarray):
        image = Image.fromarray(frame)
    else:
        image = upright_frame(frame, fit=partial(fit, max_side=max_side))
    size = fit(image.width, image.height, max_side)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def fit(width: int, height: int, max_side: int = MAX_SIDE) -> tuple[int, int]:
    """The size (width, height) in pixels with the same shape and no side longer than ``max_side``; never larger."""
    scale = min(1.0, max_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
