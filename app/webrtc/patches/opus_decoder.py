"""aiortc.codecs.opus.OpusDecoder: mono, with lost packets recovered or concealed.

Reason: aiortc decodes what came and says nothing of what did not, and FFmpeg's decoder has no way to ask libopus for
the copy of a lost packet in the next one (forward error correction) or for a guess (concealment). The call fills the
gap with silence, which cuts holes into words. With 10 % of the packets lost, mini gets 17 % of the words wrong with
silence, 15 % with guesses and 12 % with copies (docs/hearing.md).

A loss is seen as a step of the time stamps, which the decoder gets in order. Nothing waits for it: the packet after the
loss brings its repair. Where libopus cannot be reached, gaps stay silent as before, and the log says so once.
"""

from __future__ import annotations

import logging
from errno import EINVAL
from typing import Any

import numpy as np
from aiortc.codecs import opus
from aiortc.jitterbuffer import JitterFrame
from av import AudioFrame
from av.error import InvalidDataError
from av.frame import Frame
from numpy.typing import NDArray

from app.webrtc.opus import FRAME_STEP, OpusError, OpusStream, available, packet_samples

log = logging.getLogger(__name__)

MAX_GUESSED = opus.SAMPLE_RATE // 10
"""Samples, 100 ms, that are guessed at most; the rest of a loss is silence. libopus has faded away by then."""

MAX_LOSS = opus.SAMPLE_RATE
"""A longer step is a pause or a new stream, not a loss."""


def apply() -> None:
    """Put the patch in place."""
    if not available():
        log.warning("libopus is not to be found in av: lost packets are heard as silence. Install av's wheel.")
        return
    opus.OpusDecoder.__init__ = _create  # type: ignore[method-assign, assignment]
    opus.OpusDecoder.decode = _decode  # type: ignore[method-assign, assignment]


def _create(decoder: Any) -> None:
    decoder.repair = LossRepair()


def _decode(decoder: Any, encoded_frame: JitterFrame) -> list[Frame]:
    return decoder.repair.decode(encoded_frame.data, encoded_frame.timestamp)  # type: ignore[no-any-return]


class LossRepair:
    """Packets in order, with gaps → frames with fewer gaps."""

    def __init__(self) -> None:
        self._stream = OpusStream()
        self._end: int | None = None
        """Time stamp after the newest sample."""

    def decode(self, packet: bytes, timestamp: int) -> list[Frame]:
        """What is heard now that ``packet`` is here: mono frames at 48 kHz, the repair of a loss before it first.
        Raises InvalidDataError for what is no Opus packet."""
        length = packet_samples(packet)
        if not length:
            raise InvalidDataError(EINVAL, f"{len(packet)} bytes are no Opus packet (RFC 6716 section 3)")
        lost = 0 if self._end is None else timestamp - self._end
        try:
            frames = self._repair(packet, timestamp, lost, min(lost, length)) if 0 < lost <= MAX_LOSS else []
            frames.append(_frame(self._stream.decode(packet), timestamp))
        except OpusError as error:
            raise InvalidDataError(EINVAL, str(error)) from None
        self._end = timestamp + length
        return frames

    def _repair(self, packet: bytes, timestamp: int, lost: int, copied: int) -> list[Frame]:
        """What takes the place of ``lost`` samples before ``packet``, which may hold a copy of the last ``copied``."""
        if lost % FRAME_STEP:
            return []
        frames: list[Frame] = []
        if guessed := min(lost - copied, MAX_GUESSED):
            frames.append(_frame(self._stream.conceal(guessed), timestamp - lost))
        frames.append(_frame(self._stream.recover(packet, copied), timestamp - copied))
        return frames


def _frame(pcm: NDArray[np.int16], timestamp: int) -> AudioFrame:
    frame = AudioFrame.from_ndarray(pcm[np.newaxis], format="s16", layout="mono")
    frame.sample_rate, frame.time_base, frame.pts = opus.SAMPLE_RATE, opus.TIME_BASE, timestamp
    return frame
