"""Files to samples and frames."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from engine.chat.media import load_frames, load_sound, load_units
from engine.errors import InputError
from engine.processing.prompts import UNIT


def write_video(path: Path, seconds: int, *, fps: int = 5, sound: bool = True) -> Path:
    """A video whose grey level tells the second, with a tone whose loudness does."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=fps)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=48_000, layout="mono") if sound else None
        for index in range(seconds * fps):
            picture = np.full((48, 64, 3), 20 + 10 * (index // fps), np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(video.encode())
        if audio is not None:
            time = np.arange(seconds * 48_000)
            wave = (np.sin(time / 10) * (1 + time // 48_000) / (2 * seconds)).astype(np.float32)
            for start in range(0, len(wave), 1024):
                frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], "flt", "mono")
                frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
                container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


def level(frame: object) -> float:
    assert isinstance(frame, Image.Image)
    return float(np.asarray(frame).mean())


def test_16_khz_samples_are_taken_as_they_are(tmp_path: Path) -> None:
    pcm = np.random.default_rng(0).integers(-32768, 32768, 5_000).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", pcm, 16_000)
    sound = load_sound(tmp_path / "a.wav")
    assert sound.dtype == np.float32
    np.testing.assert_array_equal(sound, pcm.astype(np.float32) / 32768)


def test_other_rates_and_channels_become_16_khz_mono(tmp_path: Path) -> None:
    time = np.arange(44_100) / 44_100
    tone = np.sin(2 * np.pi * 440 * time) / 2
    soundfile.write(tmp_path / "a.flac", np.stack([tone, tone], 1), 44_100)
    sound = load_sound(tmp_path / "a.flac")
    assert abs(len(sound) - 16_000) <= 1
    spectrum = np.abs(np.fft.rfft(sound[:16_000]))
    assert abs(int(spectrum.argmax()) - 440) <= 1
    assert 0.45 < np.abs(sound[1000:-1000]).max() < 0.55


def test_one_frame_per_second(tmp_path: Path) -> None:
    frames = load_frames(write_video(tmp_path / "a.mp4", 6))
    assert [round((level(frame) - 20) / 10) for frame in frames] == [0, 1, 2, 3, 4, 5]


def test_other_rates_and_limits(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", 8)
    assert len(load_frames(video, per_second=0.5)) == 4
    assert [round((level(frame) - 20) / 10) for frame in load_frames(video, limit=3)] == [1, 4, 6]


def test_units_are_a_mark_a_picture_and_a_second(tmp_path: Path) -> None:
    units = load_units(write_video(tmp_path / "a.mp4", 4), limit=3)
    assert units[0::3] == [UNIT] * 3
    assert [round((level(frame) - 20) / 10) for frame in units[1::3]] == [0, 1, 2]
    sounds = [part for part in units[2::3] if isinstance(part, np.ndarray)]
    assert [len(sound) for sound in sounds] == [16_000] * 3
    loudness = [float(np.abs(sound[4_000:12_000]).max()) for sound in sounds]
    np.testing.assert_allclose(loudness, [0.125, 0.25, 0.375], atol=0.03)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFFnonsense")
    silent = write_video(tmp_path / "silent.mp4", 1, sound=False)
    soundfile.write(tmp_path / "blind.wav", np.zeros(100), 16_000)
    for load, name, words in (
        (load_sound, "a.wav", "cannot be read as sound"),
        (load_sound, "none.wav", "cannot be read as sound"),
        (load_sound, silent.name, "has no sound"),
        (load_units, silent.name, "has no sound"),
        (load_frames, "a.wav", "cannot be read as video"),
        (load_frames, "blind.wav", "has no pictures"),
    ):
        with pytest.raises(InputError, match=f"{name} {words}"):
            load(tmp_path / name)
