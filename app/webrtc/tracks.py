"""The three media streams of a call: the microphone and the camera come in, the assistant's voice goes out."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from fractions import Fraction

import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame, VideoFrame
from numpy.typing import NDArray

from app.call.frames import FrameSampler, encode_jpeg
from engine.client import OUTPUT_RATE

log = logging.getLogger(__name__)

RTC_RATE = 48_000
"""Rate of Opus in RTP, Hz (RFC 7587 section 4.1)."""

FRAME_S = 0.020
FRAME_SAMPLES = round(FRAME_S * RTC_RATE)
MAX_LATE_S = 1.0
"""How much the voice catches up with in a burst, which the browser's jitter buffer takes in. What is older is left out
of the stream's time, as the silence that it was."""

MAX_GAP_S = 1.0
"""A longer step in the microphone's time stamps is a pause or a new stream, not a loss to be filled in."""


class Upsampler:
    """Doubles the sample rate of a stream with a windowed-sinc half-band filter; delays it by 16 input samples.

    aiortc can resample too, but its resampler holds back a whole frame of 20 ms.
    """

    TAPS = 32

    def __init__(self) -> None:
        # Even output samples are the input; odd ones lie half a sample later, where the filter interpolates.
        offset = np.arange(self.TAPS) - (self.TAPS - 1) / 2
        taps = np.sinc(offset) * np.kaiser(self.TAPS, 7.0)
        self._taps = (taps / taps.sum()).astype(np.float32)
        self._past = np.zeros(self.TAPS, np.float32)

    def __call__(self, pcm: NDArray[np.int16]) -> NDArray[np.int16]:
        """int16 [n] at rate r → int16 [2n] at rate 2r. Pieces of any length join without a seam."""
        line = np.concatenate([self._past, pcm.astype(np.float32)])
        self._past = line[-self.TAPS :]
        out = np.empty(2 * len(pcm), np.float32)
        out[0::2] = line[self.TAPS // 2 : self.TAPS // 2 + len(pcm)]
        out[1::2] = np.convolve(line, self._taps, "valid")[1:]
        return np.clip(np.rint(out), -32768, 32767).astype(np.int16)


class VoiceTrack(MediaStreamTrack):
    """The assistant's voice as a track that never ends and never runs ahead.

    The frame with time stamp p (samples of 48 kHz) is handed over at ``t0 + p / 48000`` of the monotonic clock and is
    taken from ``pull`` at that moment, so that whatever is flushed from the queue behind ``pull`` is not heard. It
    carries silence when nothing is said: a gap would make the browser's buffer learn its delay anew.

    The schedule stands. After the event loop was held up, the frames that are due are handed over at once: on a busy
    machine, where each frame is late, the stream is whole nevertheless.
    """

    kind = "audio"

    def __init__(self, pull: Callable[[int], NDArray[np.int16]]) -> None:
        """``pull(n)`` gives the next n samples to be heard: int16 [n], mono, 24 kHz."""
        super().__init__()
        self._pull = pull
        self._upsample = Upsampler()
        self._start: float | None = None
        self._pts = 0

    async def recv(self) -> AudioFrame:
        """The next 20 ms as a mono frame of 960 samples at 48 kHz, when it is time for it."""
        now = time.monotonic()
        if self._start is None:
            self._start = now
        late = now - self._start - self._pts / RTC_RATE
        if late > MAX_LATE_S:
            self._pts += FRAME_SAMPLES * math.ceil((late - MAX_LATE_S) / FRAME_S)
        elif late < 0:
            await asyncio.sleep(-late)
        if self.readyState != "live":
            raise MediaStreamError
        pcm = self._upsample(self._pull(round(OUTPUT_RATE * FRAME_S)))
        frame = AudioFrame.from_ndarray(pcm[np.newaxis], format="s16", layout="mono")
        frame.sample_rate = RTC_RATE
        frame.time_base = Fraction(1, RTC_RATE)
        frame.pts = self._pts
        self._pts += len(pcm)
        return frame


class MicrophoneTimeline:
    """Joins the time stamps of all the streams that one call's microphone ever had into one line.

    A lost packet leaves its gap, which the call fills with silence. A pause of the microphone or a new connection
    leaves none: the call's media time stands still meanwhile.
    """

    def __init__(self) -> None:
        self._offset = 0
        self._end = 0
        self._stream: object = None

    def place(self, stream: object, pts: int, samples: int) -> int:
        """Where a frame lies in the call, in samples of 48 kHz, when its own ``stream`` places it at ``pts``."""
        begin = pts + self._offset
        if stream is not self._stream or not -RTC_RATE <= begin - self._end <= MAX_GAP_S * RTC_RATE:
            self._offset, begin, self._stream = self._end - pts, self._end, stream
        self._end = max(self._end, begin + samples)
        return begin


async def receive_microphone(
    track: MediaStreamTrack,
    timeline: MicrophoneTimeline,
    push: Callable[[NDArray[np.int16], int, int], None],
    heard: Callable[[], None],
) -> None:
    """Pass on every decoded frame until the track ends, as ``push(int16 mono [n], 48000, pts)``; then ``heard()``."""
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        assert isinstance(frame, AudioFrame)
        assert frame.pts is not None
        channels = len(frame.layout.channels)
        pcm = frame.to_ndarray().reshape(-1, channels)  # packed s16: one row of interleaved samples
        mono = pcm[:, 0] if channels == 1 else (pcm.sum(axis=1, dtype=np.int32) // channels).astype(np.int16)
        push(mono, frame.sample_rate, timeline.place(track, frame.pts, len(mono)))
        heard()


async def receive_camera(track: MediaStreamTrack, workers: Executor, push: Callable[[bytes], None]) -> None:
    """Pass on a few pictures per second as JPEG until the track ends; every frame is taken off the track.

    Pictures are encoded one at a time on ``workers``. While one is in work only the newest of those that follow is
    kept.
    """
    newest: asyncio.Queue[VideoFrame] = asyncio.Queue(1)
    encoder = asyncio.create_task(_encode(newest, workers, push))
    sampler = FrameSampler()
    try:
        while True:
            frame = await track.recv()
            assert isinstance(frame, VideoFrame)
            if sampler.wants(frame.time or 0.0):
                if newest.full():
                    newest.get_nowait()
                newest.put_nowait(frame)
    except MediaStreamError:
        return
    finally:
        encoder.cancel()


async def _encode(newest: asyncio.Queue[VideoFrame], workers: Executor, push: Callable[[bytes], None]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        frame = await newest.get()
        try:
            push(await loop.run_in_executor(workers, encode_jpeg, frame))
        except (OSError, ValueError):
            log.warning("a camera picture could not be encoded", exc_info=True)
