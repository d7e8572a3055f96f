"""Sound and video files → what the model takes (any format that FFmpeg reads), and its speech → a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from engine.client import INPUT_RATE, OUTPUT_RATE
from engine.config import OmniConfig, VisionLanguageConfig
from engine.errors import InputError, reason
from engine.media.sound import read_sound
from engine.media.video import Video
from engine.processing.prompts import UNIT, Part

NAME_ANOTHER = "name a writable .wav, .flac or .ogg file"
VIDEO_SLICES = 2
"""Cells that a frame of a video may be cut into: as published."""
WHOLE_FRAMES = 16
"""In the published demo of the MiniCPM-V models, frames of a video that has more are not cut: they would not fit."""


def fits_in_slices(config: VisionLanguageConfig, frames: int) -> bool:
    """Whether the frames of a video may be cut."""
    return isinstance(config, OmniConfig) or frames <= WHOLE_FRAMES


def load_sound(path: str | Path) -> NDArray[np.float32]:
    """The first sound track of a file, mono float32 ``[N]`` at 16 kHz in [−1, 1]. Raises InputError."""
    return read_sound(path, INPUT_RATE).samples


def load_frames(path: str | Path, *, per_second: float = 1.0, limit: int = 64) -> list[Image.Image]:
    """Pictures of a video, ``per_second`` of them, or ``limit`` evenly spaced ones where that would be more.

    As published: of a video with so many frames a second on average, every n-th, and of those that are too many the
    middle one of every equal part. Raises InputError.
    """
    with Video(path) as video:
        wanted = range(0, video.check(), max(1, round(video.frames_per_second / per_second)))
    if len(wanted) > limit:
        part = len(wanted) / limit
        chosen = {wanted[int(index * part + part / 2)] for index in range(limit)}
    else:
        chosen = set(wanted)
    frames: list[Image.Image] = []
    with Video(path) as video:
        for index, (_, frame) in enumerate(video.frames()):
            if index in chosen:
                frames.append(video.upright(frame))
            if len(frames) == len(chosen):
                break
    return frames


def _every_second(path: str | Path, limit: int) -> list[Image.Image]:
    """The first frame of a video and the first one in every further second, ``limit`` at most."""
    frames: list[Image.Image] = []
    with Video(path) as video:
        video.check()
    with Video(path) as video:
        begin: float | None = None
        for time_s, frame in video.frames():
            begin = time_s if begin is None else begin
            # A frame may be shown a little before the whole second that it stands for.
            if time_s - begin >= len(frames) - 1e-3:
                frames.append(video.upright(frame))
            if len(frames) == limit:
                break
    return frames


def load_units(path: str | Path, *, limit: int = 64) -> list[Part]:
    """A video with sound as the model hears and sees a call: per second a unit mark, a picture and that second's sound.

    It ends after ``limit`` seconds. Raises InputError.
    """
    frames, sound = _every_second(path, limit), load_sound(path)
    parts: list[Part] = []
    for second, frame in enumerate(frames):
        piece = sound[second * INPUT_RATE : (second + 1) * INPUT_RATE]
        if len(piece) < INPUT_RATE:
            piece = np.pad(piece, (0, INPUT_RATE - len(piece)))
        parts += [UNIT, frame, piece]
    return parts


def write_sound(path: str | Path, wave: NDArray[np.float32]) -> None:
    """Write speech (24 kHz) to a file whose ending names the format. Raises InputError."""
    try:
        with Path(path).open("wb") as file:
            soundfile.write(file, wave, OUTPUT_RATE, format=_sound_format(path))
    except (soundfile.LibsndfileError, TypeError, ValueError, OSError) as error:
        raise InputError(f"{path} cannot be written ({reason(error)}); {NAME_ANOTHER}") from error


def check_writable(path: str | Path) -> None:
    """Raise InputError for a file that :func:`write_sound` could not write, before an answer is made for it."""
    target = Path(path)
    _sound_format(target)
    try:
        existed = target.exists()
        target.open("ab").close()
        if not existed:
            target.unlink()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be written ({reason(error)}); {NAME_ANOTHER}") from error


def _sound_format(path: str | Path) -> str:
    """The name of the format that a path's ending stands for. Raises InputError."""
    kind = Path(path).suffix[1:].upper()
    if kind not in ("WAV", "FLAC", "OGG"):
        raise InputError(f"{path} cannot be written (its ending names no format); {NAME_ANOTHER}")
    return kind
