"""Pacing, resampling and time stamps of the tracks, on a clock that the test moves."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame, VideoFrame
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from app.webrtc import tracks
from app.webrtc.tracks import MicrophoneTimeline, Upsampler, VoiceTrack, receive_camera, receive_microphone


class Clock:
    """The monotonic clock and the sleep of one task, without waiting."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tracks, "time", SimpleNamespace(monotonic=clock.monotonic))
    monkeypatch.setattr(tracks, "asyncio", SimpleNamespace(sleep=clock.sleep))
    return clock


def counting_pull() -> tuple[list[int], VoiceTrack]:
    pulled: list[int] = []

    def pull(count: int) -> NDArray[np.int16]:
        pulled.append(count)
        return np.zeros(count, np.int16)

    return pulled, VoiceTrack(pull)


async def test_voice_frames_are_handed_over_when_they_are_due_and_not_before(clock: Clock) -> None:
    pulled, track = counting_pull()
    begin = clock.now
    for k in range(100):
        frame = await track.recv()
        assert (frame.pts, frame.samples, frame.sample_rate) == (960 * k, 960, 48_000)
        assert frame.time_base == Fraction(1, 48_000)
        assert clock.now == pytest.approx(begin + 0.020 * k)
    assert pulled == [480] * 100


async def test_what_is_late_is_caught_up_with_at_once(clock: Clock) -> None:
    pulled, track = counting_pull()
    begin = clock.now
    await track.recv()
    clock.now += 0.81
    stamps = [(await track.recv()).pts for _ in range(40)]  # frames 1 to 40 are due by now
    assert clock.slept == []
    assert stamps == [960 * k for k in range(1, 41)]
    await track.recv()
    assert clock.now == pytest.approx(begin + 0.820)
    assert len(pulled) == 42


@pytest.mark.parametrize("stall_s", [0.03, 0.09, 0.3, 0.9])
async def test_on_a_busy_machine_the_stream_is_as_long_as_the_time_that_passed(clock: Clock, stall_s: float) -> None:
    """Every 20 ms of work the loop is held up for so long."""
    pulled, track = counting_pull()
    begin = clock.now
    while clock.now < begin + 60:
        for _ in range(int(stall_s / 0.020) + 1):
            await track.recv()
        clock.now += stall_s
    assert len(pulled) * 0.020 == pytest.approx(clock.now - begin, abs=stall_s + 0.040)


async def test_after_a_long_stall_the_older_part_is_left_out_of_the_time_stamps(clock: Clock) -> None:
    pulled, track = counting_pull()
    begin = clock.now
    await track.recv()
    clock.now += 5.01
    stamps = [(await track.recv()).pts for _ in range(50)]
    assert clock.slept == []
    assert stamps == [960 * k for k in range(201, 251)]  # 4.02 s to 5.00 s
    assert (await track.recv()).pts == 960 * 251
    assert clock.now == pytest.approx(begin + 5.020)
    assert len(pulled) == 52


async def test_a_stopped_voice_track_gives_no_more(clock: Clock) -> None:
    pulled, track = counting_pull()
    await track.recv()
    track.stop()
    with pytest.raises(MediaStreamError):
        await track.recv()
    assert len(pulled) == 1


@given(st.lists(st.integers(0, 700), min_size=1, max_size=12))
def test_upsampling_does_not_depend_on_how_the_stream_is_cut(sizes: list[int]) -> None:
    pcm = np.random.default_rng(0).integers(-20_000, 20_000, sum(sizes)).astype(np.int16)
    upsample = Upsampler()
    pieces = [upsample(piece) for piece in np.split(pcm, np.cumsum(sizes)[:-1])]
    np.testing.assert_array_equal(np.concatenate(pieces), Upsampler()(pcm))
    assert sum(map(len, pieces)) == 2 * len(pcm)


@pytest.mark.parametrize("hertz", [100, 1_000, 4_000, 8_000])
def test_upsampling_keeps_speech_and_adds_no_image(hertz: int) -> None:
    pcm = np.rint(20_000 * np.sin(2 * np.pi * hertz * np.arange(24_000) / 24_000)).astype(np.int16)
    spectrum = np.abs(np.fft.rfft(Upsampler()(pcm)[2_000:26_000].astype(float) * np.hanning(24_000)))
    frequency = np.fft.rfftfreq(24_000, 1 / 48_000)
    tone = spectrum[np.abs(frequency - hertz) < 20].max()
    image = spectrum[np.abs(frequency - (24_000 - hertz)) < 20].max()
    assert tone == pytest.approx(20_000 * 12_000 / 2, rel=0.01)
    assert image < tone / 1_000


def test_full_scale_is_clipped_and_does_not_wrap() -> None:
    step = np.repeat(np.array([-32_768, 32_767], np.int16), 100)
    out = Upsampler()(step).astype(int)
    assert (out[40:230] < 0).all()  # before that the filter fills, after that lies the step
    assert (out[236:] > 0).all()


def test_a_lost_packet_leaves_its_gap_in_the_timeline() -> None:
    timeline, stream = MicrophoneTimeline(), object()
    assert [timeline.place(stream, pts, 960) for pts in (5_000, 5_960, 7_880)] == [0, 960, 2_880]


def test_a_pause_and_a_backward_step_leave_none() -> None:
    timeline, stream = MicrophoneTimeline(), object()
    timeline.place(stream, 0, 960)
    assert timeline.place(stream, 48_000 * 600, 960) == 960
    assert timeline.place(stream, 48_000 * 600 + 960, 960) == 1_920
    assert timeline.place(stream, 0, 960) == 2_880


def test_another_stream_follows_where_the_last_one_ended() -> None:
    timeline, old, new = MicrophoneTimeline(), object(), object()
    timeline.place(old, 0, 960)
    timeline.place(old, 960, 960)
    assert timeline.place(new, 300, 960) == 1_920
    assert timeline.place(new, 1_260, 960) == 2_880


class FakeTrack(MediaStreamTrack):
    def __init__(self, kind: str, frames: list[AudioFrame | VideoFrame]) -> None:
        super().__init__()
        self.kind = kind
        self.frames = frames

    async def recv(self) -> AudioFrame | VideoFrame:
        await asyncio.sleep(0.002)
        if not self.frames:
            raise MediaStreamError
        return self.frames.pop(0)


async def test_the_microphone_is_mixed_to_mono_and_passed_on_with_its_stamps() -> None:
    left, right = np.full(960, 1_000, np.int16), np.full(960, 3_000, np.int16)
    frame = AudioFrame.from_ndarray(np.stack([left, right], 1).reshape(1, -1), format="s16", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = 48_000, 4_711, Fraction(1, 48_000)
    got: list[tuple[NDArray[np.int16], int, int]] = []
    heard: list[None] = []
    await receive_microphone(
        FakeTrack("audio", [frame]), MicrophoneTimeline(), lambda *a: got.append(a), lambda: heard.append(None)
    )
    (pcm, rate, pts) = got[0]
    assert (rate, pts, len(heard)) == (48_000, 0, 1)
    assert pcm.dtype == np.int16
    np.testing.assert_array_equal(pcm, np.full(960, 2_000))


async def test_the_camera_is_thinned_out_and_passed_on_as_jpeg() -> None:
    frames: list[AudioFrame | VideoFrame] = []
    for k in range(60):  # two seconds at 30 per second
        frame = VideoFrame.from_ndarray(np.full((48, 64, 3), 4 * k, np.uint8), format="rgb24")
        frame.pts, frame.time_base = 3_000 * k, Fraction(1, 90_000)
        frames.append(frame)
    track, pictures = FakeTrack("video", frames), list[bytes]()
    with ThreadPoolExecutor(1) as workers:
        await receive_camera(track, workers, pictures.append)
    assert 1 <= len(pictures) <= 8
    assert Image.open(io.BytesIO(pictures[0])).size == (64, 48)
    assert track.frames == []
