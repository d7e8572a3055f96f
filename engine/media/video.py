"""Video files → frames with their times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from PIL import Image

from engine.errors import MediaError, reason
from engine.media.containers import Lost, refuse_lost
from engine.media.upright import Fit, upright_frame

COPY = "copy or export it again, as MP4, MKV, WebM or Y4M"
LOST_S = 0.1
"""A video that ends this much before the length that its own header tells has lost its end."""
LOST_AMONG_OTHERS_S = 0.5
"""The same where the header's length may be that of a sound track in the file."""


class Video:
    """The first picture track of a file, read from its beginning. A context manager; every call raises MediaError."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        try:
            refuse_lost(Path(path))
            if not Path(path).stat().st_size:
                raise Lost("is empty", COPY)
            self._file = Path(path).open("rb")  # noqa: SIM115 (av takes no path that is not Unicode)
        except Lost as error:
            raise MediaError(path, error.fault, error.remedy) from None
        except (FFmpegError, OSError, ValueError) as error:
            raise self._unreadable(error) from None
        try:
            self._container = av.open(self._file)
        except (FFmpegError, OSError, ValueError) as error:
            self._file.close()
            raise self._unreadable(error) from None
        if not self._container.streams.video:
            self.__exit__()
            raise MediaError(path, "has no pictures", "give a video")
        self._stream = self._container.streams.video[0]

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()
        self._file.close()

    def check(self) -> int:
        """Read through all packets, without decoding more than one picture: the file is whole as far as they tell.
        Returns how many pictures it says to have.

        The video is read to its end by this: open it again for its frames.
        """
        container, stream = self._container, self._stream
        stream.thread_type = "AUTO"
        times: list[float] = []
        pictures, decoded, shown_s = 0, False, 0.0
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise MediaError(self.path, f"is cut off or damaged after {max(times, default=0):.1f} s", COPY)
                if not decoded and container.format.name == "yuv4mpegpipe" and self._y4m_lacks_data(packet.size):
                    raise MediaError(self.path, "is cut off in the middle of a picture", COPY)
                pictures += packet.size > 0
                if packet.pts is not None:
                    times.append(float(packet.pts * packet.time_base) - self._begin_s)
                    shown_s = max(shown_s, float((packet.duration or 0) * packet.time_base))
                decoded = decoded or any(True for _ in packet.decode())
        except FFmpegError as error:
            raise self._unreadable(error) from None
        if not decoded:
            raise MediaError(self.path, "holds no picture that can be decoded", COPY)
        times.sort()
        last_picture_s = max([shown_s, *np.diff(times)])  # not every format tells how long a picture is shown
        end_s = max(times, default=0.0) + last_picture_s
        lost_s = LOST_S if len(container.streams) == 1 else LOST_AMONG_OTHERS_S
        declared_s = container.duration / av.time_base if container.duration else 0.0
        if declared_s > end_s + lost_s:
            fault = f"is cut off: it ends after {end_s:.1f} s and its header tells {declared_s:.1f} s"
            raise MediaError(self.path, fault, COPY)
        return pictures

    def frames(self) -> Iterator[tuple[float, Any]]:
        """Times in seconds from the beginning of the file, as players show them, and decoded frames (``av``)."""
        begin = self._begin_s
        time_s, seen = 0.0, False
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt:
                    raise MediaError(self.path, f"is cut off or damaged after {time_s:.1f} s", COPY)
                for frame in packet.decode():
                    if frame.is_corrupt:
                        raise MediaError(self.path, f"is damaged after {time_s:.1f} s", COPY)
                    time_s = max(0.0, float(frame.time) - begin) if frame.time is not None else time_s
                    seen = True
                    yield time_s, frame
        except (FFmpegError, OSError, ValueError) as error:
            if isinstance(error, MediaError):
                raise
            raise MediaError(self.path, f"cannot be decoded after {time_s:.1f} s ({reason(error)})", COPY) from None
        if not seen:
            raise MediaError(self.path, "holds no picture that can be decoded", COPY)

    @property
    def frames_per_second(self) -> float:
        """On average, as the file tells; 1 where it does not."""
        return float(self._stream.average_rate or self._stream.guessed_rate or 1)

    def upright(self, frame: Any, fit: Fit | None = None) -> Image.Image:
        """A frame as a person sees it (see :func:`~engine.media.upright.upright_frame`)."""
        return upright_frame(frame, self._stream.sample_aspect_ratio, fit)

    def _y4m_lacks_data(self, picture_bytes: int) -> bool:
        """Whether a Y4M file ends in the middle of a picture (libav drops such a picture and says nothing)."""
        path = Path(self.path)
        with path.open("rb") as file:
            header, marker = file.readline(), file.readline()
        return (path.stat().st_size - len(header)) % (len(marker) + picture_bytes) != 0

    def _unreadable(self, error: Exception) -> MediaError:
        return MediaError(self.path, f"cannot be read as video ({reason(error)})", COPY)

    @property
    def _begin_s(self) -> float:
        return self._container.start_time / av.time_base if self._container.start_time else 0.0
