"""What the fake microphone and the fake camera of a browser play: recorded people, silence, and a moving picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import av
import librosa
import numpy as np
import soundfile
from numpy.typing import NDArray

SPEECH = Path(__file__).parent.parent / "data" / "speech"
RATE = 48_000
"""Rate of the fake microphone, Hz."""


def speech(name: str) -> NDArray[np.float32]:
    """A recorded person at 48 kHz, float32 in −1 … 1, brought to a peak of 0.5."""
    samples, rate = soundfile.read(SPEECH / f"{name}.flac", dtype="float32")
    audio = librosa.resample(samples, orig_sr=rate, target_sr=RATE)
    out: NDArray[np.float32] = (audio * (0.5 / np.abs(audio).max())).astype(np.float32)
    return out


def silence(seconds: float) -> NDArray[np.float32]:
    """A quiet room: noise at −80 dBFS, since a real microphone is never digitally silent."""
    return np.random.default_rng(0).normal(0, 1e-4, round(seconds * RATE)).astype(np.float32)


def write_microphone(path: Path, *parts: NDArray[np.float32]) -> Path:
    """A 48 kHz mono 16-bit WAV for ``--use-file-for-fake-audio-capture``, which plays it in a loop."""
    soundfile.write(path, np.concatenate(parts), RATE, subtype="PCM_16")
    return path


def write_camera(path: Path, seconds: float = 4.0, rate: int = 15) -> Path:
    """A Motion-JPEG file, 640×480, of somebody who sways before a bright wall, for the fake camera."""
    total = round(seconds * rate)
    rows, columns = np.mgrid[0:480, 0:640]
    light = (1.15 - columns / 900 - rows / 1600)[..., None]
    wall = np.clip(np.array([214, 190, 160]) * light, 0, 255)

    def picture(index: int) -> NDArray[np.uint8]:
        middle = 320 + 40 * np.sin(2 * np.pi * index / total)
        seen: NDArray[np.uint8] = wall.astype(np.uint8)
        seen[((columns - middle) / 185) ** 2 + ((rows - 500) / 170) ** 2 < 1] = (58, 72, 92)
        seen[((columns - middle) / 78) ** 2 + ((rows - 235) / 98) ** 2 < 1] = (96, 66, 52)
        return seen

    return write_pictures(path, map(picture, range(total)), rate)


def write_pictures(path: Path, pictures: Iterable[NDArray[np.uint8]], rate: int = 15) -> Path:
    """A Motion-JPEG file of ``pictures`` [480, 640, 3], for the fake camera, which plays it in a loop."""
    with av.open(str(path), "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuvj420p"
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path
