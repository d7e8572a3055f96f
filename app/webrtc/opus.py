"""Opus with what a lost packet needs: libopus itself, since FFmpeg's decoder asks it for neither of the two.

Forward error correction (FEC): a packet may hold a coarse copy of the one before it (RFC 6716 section 2.1.7). Packet
loss concealment (PLC): the decoder goes on with the sound that it heard last, and fades (section 4.4).
"""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
from av.codec import codec as linked
from numpy.typing import NDArray

SAMPLE_RATE = 48_000
MAX_PACKET_SAMPLES = 5_760
"""The longest packet, 120 ms (RFC 6716 section 3.2.5)."""

FRAME_STEP = SAMPLE_RATE // 400
"""Losses are filled in multiples of 2.5 ms, the shortest frame."""


class OpusError(Exception):
    """A packet that cannot be decoded. ``str()`` is a sentence."""


class OpusStream:
    """One decoder's state. Sound is int16 [n], mono, 48 kHz; a stereo packet is mixed down."""

    def __init__(self) -> None:
        """Raises OSError or AttributeError where libopus is not to be found (:func:`available`)."""
        self._opus = _libopus()
        size = self._opus.opus_decoder_get_size(1)
        self._state = ctypes.create_string_buffer(size)  # freed with this object: no destroy to forget
        if self._opus.opus_decoder_init(self._state, SAMPLE_RATE, 1) != 0:
            raise OpusError("libopus could not be set up for 48 kHz mono; install the wheel of av in requirements.txt.")

    def decode(self, packet: bytes) -> NDArray[np.int16]:
        """The sound of a packet. Raises OpusError."""
        return self._run(packet, MAX_PACKET_SAMPLES, fec=False)

    def conceal(self, samples: int) -> NDArray[np.int16]:
        """int16 [samples] in the place of a loss, a multiple of 2.5 ms and at most 120 ms long."""
        return self._run(None, samples, fec=False)

    def recover(self, following: bytes, samples: int) -> NDArray[np.int16]:
        """int16 [samples] of what was lost before the packet ``following``, from the copy in it as far as there is one;
        to be called before that one's :meth:`decode`. ``samples`` as for :meth:`conceal`. Raises OpusError."""
        return self._run(following, samples, fec=True)

    def _run(self, packet: bytes | None, samples: int, *, fec: bool) -> NDArray[np.int16]:
        pcm = np.empty(samples, np.int16)
        made = self._opus.opus_decode(
            self._state, packet, len(packet or b""), pcm.ctypes.data_as(ctypes.POINTER(ctypes.c_int16)), samples, fec
        )
        if made < 0:
            raise OpusError(f"The Opus packet of {len(packet or b'')} bytes cannot be decoded (libopus: {made}).")
        return pcm[:made]


def packet_samples(packet: bytes) -> int:
    """How long a packet is, in samples of 48 kHz; 0 for what is no packet."""
    return max(0, int(_libopus().opus_packet_get_nb_samples(packet, len(packet), SAMPLE_RATE)))


@cache
def available() -> bool:
    """Whether this process has libopus: with av's wheels it does."""
    try:
        _libopus()
    except (OSError, AttributeError):
        return False
    return True


@cache
def _libopus() -> ctypes.CDLL:
    """The libopus that FFmpeg uses: the dynamic linker finds its functions in what av's own module depends on, whatever
    the file is called and wherever it lies."""
    opus = ctypes.CDLL(linked.__file__)
    pcm = ctypes.POINTER(ctypes.c_int16)
    opus.opus_decoder_get_size.argtypes = (ctypes.c_int,)
    opus.opus_decoder_init.argtypes = (ctypes.c_char_p, ctypes.c_int32, ctypes.c_int)
    opus.opus_decode.argtypes = (
        ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int32, pcm, ctypes.c_int, ctypes.c_int
    )  # fmt: skip
    opus.opus_packet_get_nb_samples.argtypes = (ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32)
    return opus
