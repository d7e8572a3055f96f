"""Sound and video files → what the model takes, for offline use. Any format that FFmpeg reads."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray
from PIL import Image

from engine.client import INPUT_RATE
from engine.errors import InputError
from engine.processing.prompts import UNIT, Part


def load_sound(path: str | Path) -> NDArray[np.float32]:
    """The first sound track of a file, mono float32 ``[N]`` at 16 kHz in [−1, 1]. Raises InputError."""
    pieces: list[NDArray[np.float32]] = []
    # Channels are averaged here: FFmpeg's own way to mono is louder, and clips.
    resampler = av.AudioResampler(format="fltp", rate=INPUT_RATE)
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise InputError(f"{path} has no sound; give a file with a sound track")
            for frame in container.decode(audio=0):
                pieces += [part.to_ndarray().mean(0) for part in resampler.resample(frame)]
        pieces += [part.to_ndarray().mean(0) for part in resampler.resample(None)]
    except (FFmpegError, OSError) as error:
        raise InputError(f"{path} cannot be read as sound ({error}); check the path and the format") from error
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def load_frames(path: str | Path, *, per_second: float = 1.0, limit: int = 64) -> list[Image.Image]:
    """Pictures of a video, ``per_second`` of them, or ``limit`` evenly spaced ones where that would be more.

    Raises InputError.
    """
    frames = _every(path, per_second, None)
    if len(frames) > limit:
        frames = [frames[index] for index in np.linspace(0, len(frames) - 1, limit).round().astype(int)]
    return frames


def _every(path: str | Path, per_second: float, limit: int | None) -> list[Image.Image]:
    """The first frame of a video and the first one in every further ``1 / per_second`` seconds, ``limit`` at most."""
    frames: list[Image.Image] = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path} has no pictures; give a video")
            begin: float | None = None
            for frame in container.decode(video=0):
                if frame.time is None:
                    continue
                begin = frame.time if begin is None else begin
                # A frame may be shown a little before the whole second that it stands for.
                if (frame.time - begin) * per_second >= len(frames) - 1e-3:
                    frames.append(frame.to_image())
                if len(frames) == limit:
                    break
    except (FFmpegError, OSError) as error:
        raise InputError(f"{path} cannot be read as video ({error}); check the path and the format") from error
    if not frames:
        raise InputError(f"{path} holds no picture that can be decoded; give another video")
    return frames


def load_units(path: str | Path, *, limit: int = 64) -> list[Part]:
    """A video with sound as the model hears and sees a call: per second a unit mark, a picture and that second's sound.

    It ends after ``limit`` seconds. Raises InputError.
    """
    frames, sound = _every(path, 1.0, limit), load_sound(path)
    parts: list[Part] = []
    for second, frame in enumerate(frames):
        piece = sound[second * INPUT_RATE : (second + 1) * INPUT_RATE]
        if len(piece) < INPUT_RATE:
            piece = np.pad(piece, (0, INPUT_RATE - len(piece)))
        parts += [UNIT, frame, piece]
    return parts
