"""aiortc.codecs.opus.OpusEncoder: mono at 32 kb/s with forward error correction.

Reason: aiortc encodes every voice as 96 kb/s stereo without redundancy, and has no option for it. Speech needs a
third of that; the encoder's in-band copy of the packet before (RFC 6716 section 2.1.7) lets the browser repair single
losses.
"""

from __future__ import annotations

from aiortc.codecs import opus
from av import AudioResampler, CodecContext

BIT_RATE = 32_000
"""Bits per second of the assistant's voice."""

EXPECTED_LOSS_PERCENT = 5
"""How much loss the encoder prepares for; at 0 it adds no redundancy."""

_create = opus.OpusEncoder.__init__


def apply() -> None:
    """Put the patch in place."""
    opus.OpusEncoder.__init__ = _create_for_speech  # type: ignore[method-assign, assignment]


def _create_for_speech(encoder: opus.OpusEncoder) -> None:
    _create(encoder)
    codec = CodecContext.create("libopus", "w")
    codec.bit_rate = BIT_RATE
    codec.format = "s16"
    codec.layout = "mono"
    codec.options = {"application": "voip", "fec": "1", "packet_loss": str(EXPECTED_LOSS_PERCENT)}
    codec.sample_rate = opus.SAMPLE_RATE
    codec.time_base = opus.TIME_BASE
    encoder.codec = codec
    encoder.resampler = AudioResampler(
        format="s16", layout="mono", rate=opus.SAMPLE_RATE, frame_size=opus.SAMPLES_PER_FRAME
    )
