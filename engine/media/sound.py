"""Sound files of any format that FFmpeg reads → mono samples: the whole file, or one sentence why not.

A file may hold several recordings one after the other (MP3 files joined byte by byte, a chain of Ogg streams, RFC 3533
section 4) that differ in rate and channels: all of them are read, at one rate.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from engine.errors import MediaError, reason
from engine.media.containers import Lost, ogg_links, promised_seconds, refuse_lost

Samples = NDArray[np.float32]

MAX_SECONDS = 4 * 3600
LOST_S = 0.1
"""A sound that ends this much before the length that its own header tells has lost its end."""
LOST_IN_CONTAINER_S = 0.3
"""The same in a container whose length may count what the decoder takes to start with (2,112 samples of AAC)."""
REMEDY = "give WAV, FLAC, Ogg, MP3 or MP4 with a sound track"


@dataclass(frozen=True, slots=True)
class Sound:
    """Mono ``samples`` in [−1, 1] at ``rate`` Hz; ``channels`` were averaged, the most that the file has at a time."""

    samples: Samples
    rate: int
    channels: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


@dataclass(frozen=True, slots=True)
class _Piece:
    samples: Samples
    rate: int
    channels: int


def read_sound(path: str | Path, rate: int | None = None) -> Sound:
    """The first sound track of a file as mono at ``rate`` Hz (None: the rate that it begins with).

    Channels are averaged: FFmpeg's own way to mono is louder, and clips. Raises MediaError for a file that is none, is
    damaged or cut off, or gives no sample.
    """
    try:
        refuse_lost(Path(path))
        pieces = list(_limited(_pieces(path), path))
        if not pieces:
            raise MediaError(path, "holds no sound that can be decoded", REMEDY)
        target = rate or pieces[0].rate
        runs = [
            _resample(np.concatenate([piece.samples for piece in run]), own, target)
            for own, run in groupby(pieces, lambda piece: piece.rate)
        ]
    except Lost as error:
        raise MediaError(path, error.fault, error.remedy) from None
    except (FFmpegError, OSError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(path, f"cannot be read as sound ({reason(error)})", REMEDY) from None
    samples = np.concatenate(runs)
    if not np.isfinite(samples).all():
        raise MediaError(path, "holds samples that are not numbers", "export it again as 16-bit sound")
    heard, promised = sum(len(piece.samples) / piece.rate for piece in pieces), promised_seconds(Path(path))
    if promised is not None and heard < promised - LOST_S:
        fault = f"is cut off: it holds {heard:.1f} s and its header tells of {promised:.1f} s"
        raise MediaError(path, fault, "copy or export it again")
    if not len(samples):
        raise MediaError(path, f"is too short ({heard * 1000:.2g} ms of sound)", "give a longer one")
    return Sound(samples, target, max(piece.channels for piece in pieces))


def _limited(pieces: Iterator[_Piece], path: str | Path) -> Iterator[_Piece]:
    seconds = 0.0
    for piece in pieces:
        seconds += len(piece.samples) / piece.rate
        if seconds > MAX_SECONDS:
            raise MediaError(path, f"is longer than {MAX_SECONDS / 3600:g} hours", "cut it into shorter ones")
        yield piece


def _pieces(path: str | Path) -> Iterator[_Piece]:
    """The sound in the pieces that the decoder gives, each mono at its own rate."""
    links = ogg_links(Path(path))
    sources: list[BinaryIO] = [io.BytesIO(link) for link in links] or [Path(path).open("rb")]  # noqa: SIM115
    for source in sources:
        with source, av.open(source) as container:
            if not container.streams.audio:
                raise MediaError(path, "has no sound", REMEDY)
            yield from _decode(container, path)


def _decode(container: Any, path: str | Path) -> Iterator[_Piece]:
    stream = container.streams.audio[0]
    seconds = 0.0
    shape, unpack = None, None
    for packet in container.demux(stream):
        if packet.is_corrupt and container.format.name != "wav":  # the end of a WAV of unknown length is no damage
            raise MediaError(path, f"is cut off or damaged after {seconds:.1f} s", "copy or export it again")
        for frame in packet.decode():
            # A resampler is made for one kind of frame, and here it changes nothing but the layout in memory.
            if unpack is None or shape != (frame.sample_rate, frame.layout.name, frame.format.name):
                shape = frame.sample_rate, frame.layout.name, frame.format.name
                unpack = av.AudioResampler(format="flt")  # not by planes: av counts too many of them from eight on
            for part in unpack.resample(frame):
                channels = part.layout.nb_channels
                seconds += part.samples / part.sample_rate
                mono = part.to_ndarray().reshape(-1, channels).mean(axis=1, dtype=np.float32)
                yield _Piece(mono, part.sample_rate, channels)
    declared = _declared_seconds(container, stream)
    if declared is not None and seconds < declared - LOST_IN_CONTAINER_S:
        fault = f"is cut off: it holds {seconds:.1f} s of sound and its header tells of {declared:.1f} s"
        raise MediaError(path, fault, "copy or export it again")


def _declared_seconds(container: Any, stream: Any) -> float | None:
    """The length of a track in a container that writes it down (MP4; Matroska only of the whole file)."""
    names = container.format.name.split(",")
    if "mp4" in names and stream.duration:
        return float(stream.duration * stream.time_base)
    if "matroska" in names and container.duration and len(container.streams) == 1:
        return float(container.duration / av.time_base)
    return None


def _resample(samples: Samples, rate: int, target: int) -> Samples:
    if rate == target or not len(samples):
        return samples
    resampler = av.AudioResampler(format="flt", layout="mono", rate=target)
    made = []
    for start in range(0, len(samples), rate):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + rate], "flt", "mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        made += resampler.resample(frame)
    made += resampler.resample(None)
    return np.concatenate([np.zeros(0, np.float32), *(part.to_ndarray()[0] for part in made)])
