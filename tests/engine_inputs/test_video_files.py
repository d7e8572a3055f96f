"""Videos that are turned, mirrored, of oblong pixels, see-through or damaged, made here."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from app.replay.bundle_media import BundleError, check_video, video_pictures
from engine.chat.media import load_frames
from engine.errors import InputError
from engine.media.video import Video
from tests.engine_inputs.test_upright import SHOWN, marked

MATRICES = {
    "as it is": ((1, 0, 0, 1), SHOWN[1]),
    "mirrored": ((-1, 0, 0, 1), SHOWN[2]),
    "180 degrees": ((-1, 0, 0, -1), SHOWN[3]),
    "upside down": ((1, 0, 0, -1), SHOWN[4]),
    "rows to columns": ((0, 1, 1, 0), SHOWN[5]),
    "90 degrees": ((0, 1, -1, 0), SHOWN[6]),
    "rows to columns, upside down": ((0, -1, -1, 0), SHOWN[7]),
    "270 degrees": ((0, -1, 1, 0), SHOWN[8]),
}
"""The upper left of the display matrix (a, b, c, d), and what it does to a picture."""


def write_video(path: Path, pixel_shape: Fraction | None = None, seconds: int = 1, rate: int = 5) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *marked().size, "yuv420p"
        stream.codec_context.qmin = stream.codec_context.qmax = 1
        if pixel_shape is not None:
            stream.codec_context.sample_aspect_ratio = pixel_shape
        for _ in range(seconds * rate):
            file.mux(stream.encode(av.VideoFrame.from_image(marked())))
        file.mux(stream.encode(None))
    return path


def turn(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write a display matrix into the track header of an MP4 (ISO/IEC 14496-12 section 8.3.2), version 0."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (value * 0x10000 for value in matrix)
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x4000_0000)
    path.write_bytes(data)
    return path


def close(shown: Image.Image, wanted: np.ndarray, most: float = 12) -> bool:
    own = np.asarray(shown).astype(int)
    return own.shape == wanted.shape and bool(np.abs(own - wanted).mean() < most)


@pytest.mark.parametrize("case", MATRICES)
def test_every_display_matrix(case: str, tmp_path: Path) -> None:
    matrix, change = MATRICES[case]
    path = turn(write_video(tmp_path / "video.mp4"), matrix)
    wanted = change(np.asarray(marked()))
    assert close(load_frames(path)[0], wanted)
    assert close(Image.open(io.BytesIO(next(video_pictures(path)).jpeg)), wanted, most=20)


@pytest.mark.parametrize(("shape", "size"), [(Fraction(2), (192, 48)), (Fraction(1, 2), (96, 96)),
                                             (Fraction(64, 45), (137, 48))])  # fmt: skip
def test_oblong_pixels_become_square(shape: Fraction, size: tuple[int, int], tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", shape)
    assert load_frames(path)[0].size == size
    assert Image.open(io.BytesIO(next(video_pictures(path)).jpeg)).size == size
    assert load_frames(turn(path, (0, 1, -1, 0)))[0].size == size[::-1]


def test_an_animation_is_a_video_on_white(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (32, 32), (0, 0, 0, 0)) for _ in range(3)]
    for frame in frames:
        frame.paste((255, 0, 0, 255), (0, 0, 16, 32))
    path = tmp_path / "video.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=1000, disposal=2)
    shown = np.asarray(load_frames(path)[0])
    assert shown[5, 5] == pytest.approx((255, 0, 0), abs=3)
    assert shown[5, 25] == pytest.approx((255, 255, 255), abs=3)


def cut(share: float, name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = write_video(folder / name, seconds=4)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        return path

    return make


def two(folder: Path) -> Path:
    path = write_video(folder / "video.mp4")
    path.write_bytes(path.read_bytes() * 2)
    return path


def bytes_of(data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "video.mp4").write_bytes(data)
        return folder / "video.mp4"

    return make


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no byte": (bytes_of(b""), "video.mp4 is empty"),
    "text": (bytes_of(b"hello" * 99), "cannot be read as video"),
    "a folder": (lambda folder: folder, "cannot be read as video"),
    "MP4 cut off": (cut(0.7, "video.mp4"), "cut off"),
    "MKV cut off": (cut(0.7, "video.mkv"), "cut off"),
    "AVI cut off": (cut(0.7, "video.avi"), "cut off|cannot be"),
    "two MP4s": (two, "holds two recordings"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_video_gets_one_sentence(case: str, tmp_path: Path) -> None:
    make, fault = BROKEN[case]
    path = make(tmp_path)
    for read in (load_frames, check_video):
        with pytest.raises((InputError, BundleError), match=fault) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path} ")
        assert "\n" not in str(caught.value)


def test_frames_come_with_their_times(tmp_path: Path) -> None:
    with Video(write_video(tmp_path / "video.mkv")) as video:
        assert [time_s for time_s, _ in video.frames()] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8], abs=0.002)
