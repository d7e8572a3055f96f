"""Odd and broken sound files, made here, each with its length and level or the sentence that it gets.

Offline questions and call bundles read sound in the same way.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from app.replay.bundle_media import BundleError, read_audio
from engine.chat.media import load_sound
from engine.errors import InputError
from engine.media.sound import read_sound


def tone(rate: int, channels: int = 1, seconds: float = 1.0, level: float = 0.3) -> np.ndarray:
    """440 Hz, ``[N, channels]``."""
    wave = np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate) * level
    return np.stack([wave.astype(np.float32)] * channels, axis=1)


def sound(kind: str, rate: int, channels: int = 1, seconds: float = 1.0, subtype: str | None = None) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, tone(rate, channels, seconds), rate, format=kind, subtype=subtype)
    return out.getvalue()


def encoded(container: str, codec: str, rate: int = 44_100, **options: Any) -> bytes:
    """One second of the tone from FFmpeg's encoders."""
    with TemporaryDirectory() as folder:  # moving the index to the front takes a file
        return _encoded(Path(folder) / "sound", container, codec, rate, options)


def _encoded(path: Path, container: str, codec: str, rate: int, options: dict[str, str]) -> bytes:
    with av.open(str(path), "w", format=container, container_options=options) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(rate).T.copy(), "fltp", "mono")
        frame.sample_rate, frame.pts = rate, 0
        for part in av.AudioResampler(stream.format.name, "mono", rate, frame_size=1024).resample(frame):
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return path.read_bytes()


def wav_of_unknown_length() -> bytes:
    data = bytearray(sound("WAV", 16_000))
    data[4:8] = data[40:44] = struct.pack("<I", 0xFFFF_FFFF)
    return bytes(data)


WHOLE: dict[str, tuple[bytes, float]] = {
    "8-bit WAV": (sound("WAV", 16_000, subtype="PCM_U8"), 1.0),
    "24-bit WAV": (sound("WAV", 48_000, 2, subtype="PCM_24"), 1.0),
    "32-bit WAV": (sound("WAV", 48_000, subtype="PCM_32"), 1.0),
    "float WAV": (sound("WAV", 44_100, 2, subtype="FLOAT"), 1.0),
    "double WAV": (sound("WAV", 22_050, subtype="DOUBLE"), 1.0),
    "µ-law WAV": (sound("WAV", 8_000, subtype="ULAW"), 1.0),
    "WAV at 192 kHz": (sound("WAV", 192_000), 1.0),
    "WAV of unknown length": (wav_of_unknown_length(), 1.0),
    "WAV of 25 ms": (sound("WAV", 16_000, seconds=0.025), 0.025),
    "RF64": (sound("RF64", 16_000), 1.0),
    "AIFF": (sound("AIFF", 44_100, 2), 1.0),
    "CAF": (sound("CAF", 44_100), 1.0),
    "FLAC": (sound("FLAC", 44_100, 2), 1.0),
    "Ogg Vorbis": (sound("OGG", 44_100, 2), 1.0),
    "Ogg Opus": (sound("OGG", 48_000, 2, subtype="OPUS"), 1.0),
    "MP3": (sound("MP3", 44_100, 2), 1.0),
    "MP3 at 16 kHz": (sound("MP3", 16_000), 1.0),
    "MP3 behind a tag": (b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(256) + sound("MP3", 44_100), 1.0),
    "M4A": (encoded("ipod", "aac"), 1.0),
    "AAC": (encoded("adts", "aac"), 1.0),
    "MKA": (encoded("matroska", "aac"), 1.0),
    "MP4 in fragments": (encoded("mp4", "aac", movflags="frag_keyframe+empty_moov"), 1.0),
    "MP3, mono then stereo": (sound("MP3", 44_100) + sound("MP3", 44_100, 2), 2.0),
    "MP3, 44.1 then 48 kHz": (sound("MP3", 44_100) + sound("MP3", 48_000, 2), 2.0),
    "MP3, 48 then 16 kHz": (sound("MP3", 48_000, 2) + sound("MP3", 16_000), 2.0),
    "MP3, three at once": (sound("MP3", 44_100) * 3, 3.0),
    "AAC, 44.1 then 22.05 kHz": (encoded("adts", "aac") + encoded("adts", "aac", 22_050), 2.0),
    "a chain of Vorbis": (sound("OGG", 44_100) + sound("OGG", 44_100), 2.0),
    "a chain of Vorbis, mono then stereo": (sound("OGG", 44_100) + sound("OGG", 48_000, 2), 2.0),
    "a chain of Opus, mono then stereo": (
        sound("OGG", 48_000, subtype="OPUS") + sound("OGG", 48_000, 2, subtype="OPUS"), 2.0),
    "a chain of Vorbis and Opus": (sound("OGG", 44_100) + sound("OGG", 48_000, subtype="OPUS"), 2.0),
}  # fmt: skip


def level(samples: np.ndarray) -> float:
    return float(np.sqrt(np.square(samples.astype(np.float64)).mean()))


@pytest.mark.parametrize("case", WHOLE)
def test_a_sound_is_read_whole(case: str, tmp_path: Path) -> None:
    data, seconds = WHOLE[case]
    path = tmp_path / "sound"
    path.write_bytes(data)
    heard, recorded = load_sound(path), read_audio(path)
    for length in (len(heard) / 16_000, recorded.seconds):
        assert length == pytest.approx(seconds, abs=0.05 + 0.05 * seconds)
    wanted = level(tone(16_000))
    assert level(heard) == pytest.approx(wanted, rel=0.1)
    assert level(recorded.samples / 32_768) == pytest.approx(wanted, rel=0.1)
    middle = heard[len(heard) // 4 : len(heard) // 4 + 8_000]  # half a second holds 220 periods
    if len(middle) == 8_000:
        assert abs(int(np.abs(np.fft.rfft(middle)).argmax()) - 220) <= 1


@pytest.mark.parametrize("channels", [3, 6, 8, 16])
def test_many_channels_are_averaged_or_refused(channels: int, tmp_path: Path) -> None:
    path = tmp_path / "many.wav"
    wave = tone(16_000, channels)
    wave[:, 1:] = 0
    soundfile.write(path, wave, 16_000, subtype="FLOAT")
    np.testing.assert_allclose(load_sound(path), wave[:, 0] / channels, atol=1e-6)
    with pytest.raises(BundleError, match=f"has {channels} channels"):
        read_audio(path)


def test_both_halves_of_a_joined_file_are_heard(tmp_path: Path) -> None:
    path = tmp_path / "joined.mp3"
    loud, quiet = io.BytesIO(), io.BytesIO()
    soundfile.write(loud, tone(44_100, 1, level=0.4), 44_100, format="MP3")
    soundfile.write(quiet, tone(44_100, 2, level=0.1), 44_100, format="MP3")
    path.write_bytes(loud.getvalue() + quiet.getvalue())
    heard = load_sound(path)
    assert level(heard[2_000:14_000]) / level(heard[-12_000:-2_000]) == pytest.approx(4, rel=0.1)


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


NAN = np.full(1_000, np.nan, np.float32)


def wav_of(samples: np.ndarray, rate: int = 16_000, subtype: str = "PCM_16") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="WAV", subtype=subtype)
    return out.getvalue()


LONG = sound("OGG", 44_100, 2, seconds=20.0)
BROKEN: dict[str, tuple[bytes, str]] = {
    "no byte": (b"", "cannot be read as sound"),
    "text": (b"hello" * 99, "cannot be read as sound"),
    "the head of a WAV": (b"RIFF\x24\x00\x00\x00WAVE", "cannot be read as sound"),
    "WAV of no sample": (wav_of(np.zeros(0, np.int16)), "holds no sound"),
    "FLAC of no sample": (sound("FLAC", 16_000, seconds=0), "(holds no|cannot be read as) sound"),
    "WAV of numbers that are none": (wav_of(NAN, subtype="FLOAT"), "not numbers"),
    "WAV cut off": (cut(sound("WAV", 16_000), 0.6), "is cut off: it holds 0.6 s"),
    "FLAC cut off": (cut(sound("FLAC", 44_100), 0.5), "cannot be read as sound|is cut off"),
    "FLAC cut off between frames": (sound("FLAC", 44_100, seconds=3)[:-1], "cannot be read as sound|is cut off"),
    "Vorbis cut off": (cut(LONG, 0.5), "in the middle of an Ogg page"),
    "Vorbis without its last byte": (LONG[:-1], "in the middle of an Ogg page"),
    "Vorbis with a hole": (LONG[: len(LONG) // 3] + LONG[len(LONG) // 2 :], "does not follow"),
    "a chain cut off": (sound("OGG", 44_100) + cut(LONG, 0.5), "in the middle of an Ogg page"),
    "MP3 cut off": (cut(sound("MP3", 44_100, seconds=3), 0.5), "is cut off"),
    "M4A cut off": (cut(encoded("ipod", "aac"), 0.5), "cannot be read as sound|is cut off"),
    "M4A with its index in front, cut off": (cut(encoded("ipod", "aac", movflags="faststart"), 0.7), "is cut off"),
    "MKA cut off": (cut(encoded("matroska", "aac"), 0.6), "is cut off"),
    "two WAVs": (sound("WAV", 16_000) * 2, "holds two recordings"),
    "two FLACs": (sound("FLAC", 44_100) + sound("FLAC", 48_000, 2), "holds two recordings"),
    "two M4As": (encoded("ipod", "aac") * 2, "holds two recordings"),
    "MP3, then a WAV": (sound("MP3", 44_100) + sound("WAV", 44_100), "cannot be read as sound|is cut off"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_sound_gets_one_sentence(case: str, tmp_path: Path) -> None:
    data, fault = BROKEN[case]
    path = tmp_path / "sound"
    path.write_bytes(data)
    for read in (load_sound, read_audio):
        with pytest.raises((InputError, BundleError), match=fault) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path} ")
        assert "; " in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "none.wav", "x" * 4_000, "nul\0byte"])
def test_a_path_that_leads_nowhere_gets_one_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as sound"):
        load_sound(f"{tmp_path}/{name}")


def test_one_sample_is_a_sound_at_its_own_rate_only(tmp_path: Path) -> None:
    path = tmp_path / "one.wav"
    path.write_bytes(wav_of(np.ones(1, np.int16), 48_000))
    assert read_sound(path).samples.tolist() == [1 / 32_768]
    with pytest.raises(InputError, match="is too short"):
        load_sound(path)
