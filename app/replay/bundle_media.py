"""Sound and pictures of a call bundle, decoded and checked.

Whatever is wrong with a file ends as one :class:`BundleError` that names the file, the fault and the remedy.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from app.call.frames import MAX_SIDE, FrameSampler, encode_jpeg
from app.text import printable

AUDIO_NAMES = ("audio.wav", "audio.flac", "audio.ogg", "audio.opus", "audio.mp3")
VIDEO_NAMES = ("video.mp4", "video.mkv", "video.webm", "video.y4m")
RATES_HZ = (8_000, 192_000)
MAX_AUDIO_S = 4 * 3600
LOST_VIDEO_S = 0.1
"""A video that ends this much before the length that its own header tells has lost its end."""
LOST_VIDEO_AMONG_OTHERS_S = 0.5
"""The same where the header's length may be that of a sound track in the file."""


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
    remedy = "save the microphone as a WAV, FLAC or Ogg file with one or two channels"
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            rate, channels, promised = file.samplerate, file.channels, file.frames
            if channels > 2:
                raise BundleError(path, f"has {channels} channels", remedy)
            if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
                raise BundleError(path, f"has a sample rate of {rate} Hz", "use one from 8,000 to 192,000 Hz")
            if promised > MAX_AUDIO_S * rate:
                raise BundleError(path, f"is {promised / rate / 3600:.1f} hours long", "cut it to at most four hours")
            blocks = [_to_mono(path, block) for block in file.blocks(rate * 10, dtype="float32", always_2d=True)]
    except (OSError, soundfile.SoundFileError) as error:
        raise BundleError(path, f"cannot be read as sound ({_reason(error)})", remedy) from None
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.int16)
    if not len(samples):
        raise BundleError(path, "holds no sound that can be decoded", remedy)
    if len(samples) < promised or _wav_lacks_data(path):
        fault = f"is cut off: it holds {len(samples) / rate:.1f} s and its header tells of more"
        raise BundleError(path, fault, "copy or export it again")
    return Audio(samples, rate)


def check_video(path: Path) -> None:
    """Read through the packets of a video file, without decoding more than one picture. Raises BundleError."""
    remedy = "copy or export it again, as MP4, MKV, WebM or Y4M"
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise BundleError(path, "holds no video", remedy)
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            times: list[float] = []
            decoded = False
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise BundleError(path, f"is cut off or damaged after {max(times, default=0):.1f} s", remedy)
                if not decoded and path.suffix == ".y4m" and _y4m_lacks_data(path, packet.size):
                    raise BundleError(path, "is cut off in the middle of a picture", remedy)
                if packet.pts is not None:
                    times.append(float(packet.pts * packet.time_base) - _start_s(container))
                decoded = decoded or any(True for _ in packet.decode())
            lost_s = LOST_VIDEO_S if len(container.streams) == 1 else LOST_VIDEO_AMONG_OTHERS_S
            declared = container.duration / av.time_base if container.duration else 0.0
    except (av.FFmpegError, OSError) as error:
        raise BundleError(path, f"cannot be read as video ({_reason(error)})", remedy) from None
    if not decoded:
        raise BundleError(path, "holds no picture that can be decoded", remedy)
    times.sort()
    last_picture_s = max(np.diff(times), default=0.0)  # not every format tells how long the last one is shown
    if declared > times[-1] + last_picture_s + lost_s:
        fault = f"is cut off: it ends after {times[-1] + last_picture_s:.1f} s and its header tells {declared:.1f} s"
        raise BundleError(path, fault, remedy)


def video_pictures(path: Path) -> Iterator[Picture]:
    """The pictures of a video file that a live peer would have encoded, in order. Raises BundleError on damage.

    Times count from the beginning of the file, as players show them.
    """
    sampler = FrameSampler()
    time_s = 0.0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            start = _start_s(container)
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise BundleError(path, f"is damaged after {time_s:.1f} s", "copy or export it again")
                time_s = max(0.0, float(frame.time) - start) if frame.time is not None else time_s
                if sampler.wants(time_s):
                    yield Picture(time_s, encode_jpeg(frame))
    except (av.FFmpegError, OSError) as error:
        raise BundleError(path, f"cannot be decoded after {time_s:.1f} s ({_reason(error)})",
                          "copy or export it again") from None  # fmt: skip


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
    try:
        raw = path.read_bytes()
        with Image.open(io.BytesIO(raw)) as image:
            image.load()
            upright = image.getexif().get(0x0112, 1) == 1
            if image.format == "JPEG" and image.mode == "RGB" and upright and max(image.size) <= MAX_SIDE:
                return raw
            if image.format not in ("JPEG", "MPO", "PNG"):
                raise BundleError(path, f"is a {image.format} picture", "save it as JPEG or PNG")
            return encode_jpeg(image)
    except UnidentifiedImageError:  # whose own words hold an address in memory
        fault = "is not a whole picture (no format is recognised)"
        raise BundleError(path, fault, "save it again as JPEG or PNG") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BundleError(path, f"is not a whole picture ({_reason(error)})", "save it again as JPEG or PNG") from None


def _to_mono(path: Path, block: NDArray[np.float32]) -> NDArray[np.int16]:
    if not np.isfinite(block).all():
        raise BundleError(path, "holds samples that are not numbers", "export it again as 16-bit sound")
    mono = block.mean(axis=1, dtype=np.float32) * 32_768
    out: NDArray[np.int16] = np.clip(np.rint(mono), -32_768, 32_767).astype(np.int16)
    return out


def _wav_lacks_data(path: Path) -> bool:
    """Whether a WAV file is shorter than its header tells (libsndfile reads what is there and says nothing)."""
    with path.open("rb") as file:
        if file.read(4) != b"RIFF" or file.read(8)[4:] != b"WAVE":
            return False
        while len(header := file.read(8)) == 8:
            name, size = header[:4], struct.unpack("<I", header[4:])[0]
            if name == b"data":
                streamed = size >= 0x7FFF_0000  # written to a pipe: its length was not known
                return not streamed and file.tell() + size > path.stat().st_size
            file.seek(size + size % 2, 1)
    return False


def _y4m_lacks_data(path: Path, picture_bytes: int) -> bool:
    """Whether a Y4M file ends in the middle of a picture (libav drops such a picture and says nothing)."""
    with path.open("rb") as file:
        header, marker = file.readline(), file.readline()
    return (path.stat().st_size - len(header)) % (len(marker) + picture_bytes) != 0


def _start_s(container: Any) -> float:
    return container.start_time / av.time_base if container.start_time else 0.0


def _reason(error: Exception) -> str:
    """The cause in the library's words, on one line and without the path that the sentence begins with."""
    text = getattr(error, "strerror", None) or str(error)
    text = re.sub(r"^Error opening .*?: ", "", " ".join(text.split()))
    return (text or type(error).__name__).rstrip(".")
