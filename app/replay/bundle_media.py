"""Sound and pictures of a call bundle, decoded and checked.

Whatever is wrong with a file ends as one :class:`BundleError` that names the file, the fault and the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.call.frames import MAX_SIDE, FrameSampler, encode_jpeg, fit
from app.text import printable
from engine.errors import MediaError, reason
from engine.media.picture import decode_picture, make_upright
from engine.media.sound import read_sound
from engine.media.upright import orientation
from engine.media.video import Video

AUDIO_NAMES = ("audio.wav", "audio.flac", "audio.ogg", "audio.opus", "audio.mp3")
VIDEO_NAMES = ("video.mp4", "video.mkv", "video.webm", "video.y4m")
RATES_HZ = (8_000, 192_000)


class BundleError(Exception):
    """A bundle that cannot be replayed. The message is one sentence: the file, the fault and the remedy."""

    def __init__(self, path: Path, fault: str, remedy: str) -> None:
        super().__init__(f"{printable(path)} {printable(fault)}; {remedy}.")


@dataclass(frozen=True, slots=True)
class Audio:
    """The microphone: int16 mono ``samples`` at ``rate`` Hz, from the beginning of the call."""

    samples: NDArray[np.int16]
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


@dataclass(frozen=True, slots=True)
class Picture:
    """One camera picture, encoded, ``time_s`` seconds after the beginning of the call."""

    time_s: float
    jpeg: bytes


def read_audio(path: Path) -> Audio:
    """Decode a sound file to mono. Stereo is averaged. Raises BundleError."""
    with _told_of(path):
        sound = read_sound(path)
    if sound.channels > 2:
        remedy = "save the microphone as a WAV, FLAC or Ogg file with one or two channels"
        raise BundleError(path, f"has {sound.channels} channels", remedy)
    if not RATES_HZ[0] <= sound.rate <= RATES_HZ[1]:
        raise BundleError(path, f"has a sample rate of {sound.rate} Hz", "use one from 8,000 to 192,000 Hz")
    samples = np.clip(np.rint(sound.samples * np.float32(32_768)), -32_768, 32_767)
    return Audio(samples.astype(np.int16), sound.rate)


def check_video(path: Path) -> None:
    """Read through the packets of a video file, without decoding more than one picture. Raises BundleError."""
    with _told_of(path), Video(path) as video:
        video.check()


def video_pictures(path: Path) -> Iterator[Picture]:
    """The pictures of a video file that a live peer would have encoded, in order. Raises BundleError on damage.

    Times count from the beginning of the file, as players show them.
    """
    sampler = FrameSampler()
    with _told_of(path), Video(path) as video:
        for time_s, frame in video.frames():
            if sampler.wants(time_s):
                yield Picture(time_s, encode_jpeg(video.upright(frame, fit)))


def list_stills(folder: Path) -> list[tuple[int, Path]]:
    """The pictures of ``frames/`` as (milliseconds, file), in order of time. Raises BundleError on other names."""
    if not folder.is_dir():
        raise BundleError(folder, "is not a folder", "make it one, with pictures named after their milliseconds")
    stills: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue  # what file managers leave behind
        match = re.fullmatch(r"(\d{1,9})\.(jpe?g|png)", path.name, re.IGNORECASE)
        if match is None or not path.is_file():
            raise BundleError(path, "is not named after its time", "name it <milliseconds>.jpg or .png, as 1500.jpg")
        if (other := stills.get(int(match[1]))) is not None:
            raise BundleError(path, f"has the same time as {other.name}", "keep one of the two")
        stills[int(match[1])] = path
    return sorted(stills.items())


def read_still(path: Path) -> bytes:
    """One picture as the call takes it: a small upright JPEG untouched, all else encoded as one. Raises BundleError."""
    with _told_of(path):
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise MediaError(path, f"cannot be read ({reason(error)})", "check the file") from None
        image = decode_picture(raw, str(path), ("JPEG", "MPO", "PNG"))
        if image.format == "JPEG" and image.mode == "RGB" and orientation(image) == 1 and max(image.size) <= MAX_SIDE:
            return raw
        return encode_jpeg(make_upright(image, str(path)))


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """What is wrong with a file of a bundle, as the bundle's error."""
    try:
        yield
    except MediaError as error:
        raise BundleError(path, error.fault, error.remedy) from None
