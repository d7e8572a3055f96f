"""Sound → log-mel frames of 10 ms, as Whisper's front end makes them (arXiv 2212.04356, section 2.2).

The published front end pads every clip with silence to 30 s before it looks at the spectrum. Only the frames that a
clip can touch are computed here; the result is the same, a one-second chunk costs a thirtieth.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.config import MelConfig
from engine.errors import InputError

FLOOR = 1e-10
"""Smallest mel energy, before the logarithm."""
DYNAMIC_RANGE = 8.0
"""Decades below a clip's loudest value at which it is cut off."""
MIN_MEL_FRAMES = 3
"""Fewer frames leave nothing after the convolutions and the pooling."""


def mel_length(samples: int, hop_length: int = 160) -> int:
    """Frames of a clip."""
    return math.ceil(samples / hop_length)


@lru_cache(maxsize=8)
def mel_filters(bins: int, n_fft: int, rate: int) -> NDArray[np.float64]:
    """Triangular filters of equal area on Slaney's mel scale, ``[n_fft // 2 + 1, bins]`` (Auditory Toolbox, 1998).

    The scale is linear up to 1 kHz (15 mel) and logarithmic above (27 mel for a factor of 6.4).
    """
    step = 27.0 / math.log(6.4)
    nyquist = rate / 2
    top = 15 + step * math.log(nyquist / 1000) if nyquist >= 1000 else nyquist * 3 / 200
    mels = np.linspace(0, top, bins + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) / step))
    bands = np.linspace(0, nyquist, n_fft // 2 + 1)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.minimum((bands - low) / (centre - low), (high - bands) / (high - centre)).clip(min=0)
    out: NDArray[np.float64] = triangles * (2 / (high - low))
    return out


class MelExtractor:
    """Log-mel frames of clips of up to 30 s."""

    def __init__(self, config: MelConfig, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.window = torch.hann_window(config.n_fft, device=device)
        filters = mel_filters(config.num_mel_bins, config.n_fft, config.sampling_rate)
        self.filters = torch.from_numpy(filters.T.copy()).to(device, torch.float32)

    @torch.inference_mode()
    def __call__(self, samples: NDArray[np.float32] | NDArray[np.int16] | Tensor) -> Tensor:
        """``samples`` ``[..., N]`` → float32 ``[..., mel bins, ceil(N / 160)]``.

        Samples are mono at 16 kHz, float in [−1, 1] or int16.
        Every clip is cut off at 8 decades below its own loudest value, so that clips of one batch do not depend on
        each other. Raises InputError for a clip that is too short, too long or not finite.
        """
        if isinstance(samples, np.ndarray):
            samples = torch.from_numpy(np.require(samples, requirements="W"))
        x = samples.to(self.window.device)
        x = x.float() / 32768 if x.dtype == torch.int16 else x.float()
        self._check(x)
        config = self.config
        count, half = x.shape[-1], config.n_fft // 2
        # The last frames that the clip touches may lie behind its end: they count for the maximum, then they go.
        frames = min(math.ceil((count + half) / config.hop_length), config.max_samples // config.hop_length)
        x = self._pad(x, (frames - 1) * config.hop_length + config.n_fft)
        spectrum = torch.fft.rfft(x.unfold(-1, config.n_fft, config.hop_length) * self.window)
        power = spectrum.real.square() + spectrum.imag.square()
        energy = self.filters @ power.transpose(-1, -2)
        log = energy.clamp_(min=FLOOR).log10_()
        log = torch.maximum(log, log.amax((-2, -1), keepdim=True) - DYNAMIC_RANGE)
        return ((log + 4.0) / 4.0)[..., : mel_length(count, config.hop_length)]

    def _pad(self, x: Tensor, length: int) -> Tensor:
        """The clip from half a window before its start, mirrored there; silence follows up to 30 s, then a mirror."""
        half, limit = self.config.n_fft // 2, self.config.max_samples
        beyond = max(0, length - half - limit)
        inside = torch.nn.functional.pad(x, (0, max(half + 1, length - half - beyond) - x.shape[-1]))
        left = inside[..., 1 : half + 1].flip(-1)
        right = inside[..., limit - 1 - beyond : limit - 1].flip(-1)
        return torch.cat([left, inside, right], dim=-1)[..., :length]

    def _check(self, x: Tensor) -> None:
        rate, seconds = self.config.sampling_rate, self.config.chunk_length
        count = x.shape[-1] if x.dim() else 0
        if mel_length(count, self.config.hop_length) < MIN_MEL_FRAMES:
            least = (MIN_MEL_FRAMES - 1) * self.config.hop_length + 1
            raise InputError(f"the sound has {count} samples; at least {least} at {rate} Hz are needed")
        if count > self.config.max_samples:
            raise InputError(f"the sound has {count} samples; cut it into pieces of at most {seconds} s at {rate} Hz")
        if not torch.isfinite(x).all():
            raise InputError("the sound holds NaN or infinite samples; send finite values between -1 and 1")


def split_clips(samples: NDArray[np.float32], config: MelConfig) -> list[NDArray[np.float32]]:
    """``samples`` ``[N]`` in pieces of at most 30 s. A last piece too short to give a single vector is left out."""
    pieces = [samples[start : start + config.max_samples] for start in range(0, len(samples), config.max_samples)]
    if len(pieces) > 1 and mel_length(len(pieces[-1]), config.hop_length) < MIN_MEL_FRAMES:
        pieces.pop()
    return pieces
