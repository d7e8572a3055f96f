"""Vocos: log-mel frames to a waveform by predicting a spectrum per frame (arXiv 2306.00814).

Kept in float32 always. Its state dict is the released ``Vocos.pt`` without ``feature_extractor.*`` and the window.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.config import VocosConfig
from engine.model.dvae import cut

LEAST_WEIGHT = 1e-6


class VocosBlock(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(width, width, kernel_size=7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1 = nn.Linear(width, inner)
        self.pwconv2 = nn.Linear(inner, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        # [B, dim, T] -> the same; norm and the pointwise layers work on [B, T, dim]
        y = self.norm(self.dwconv(cut(x, keep)).transpose(1, 2))
        out: Tensor = x + (self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))).transpose(1, 2)
        return out


class Backbone(nn.Module):
    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.embed = nn.Conv1d(config.input_channels, config.dim, kernel_size=7, padding=3)
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.convnext = nn.ModuleList(VocosBlock(config.dim, config.intermediate_dim) for _ in range(config.num_layers))
        self.final_layer_norm = nn.LayerNorm(config.dim, eps=1e-6)

    def forward(self, mel: Tensor, keep: Tensor | None = None) -> Tensor:
        # mel [B, mel bins, T] -> [B, T, dim]
        x = self.norm(self.embed(cut(mel, keep)).transpose(1, 2)).transpose(1, 2)
        for block in self.convnext:
            x = block(x, keep)
        out: Tensor = self.final_layer_norm(x.transpose(1, 2))
        return out


def overlap_add(frames: Tensor, hop_length: int) -> Tensor:
    """Sum frames [B, T, n] that begin ``hop_length`` apart -> [B, (T - 1) * hop_length + n]."""
    size, count, length = frames.shape
    parts = -(-length // hop_length)
    # A sum of shifted rows: many times faster on a CPU than a fold, whose columns lie far apart in memory.
    pieces = F.pad(frames, (0, parts * hop_length - length)).view(size, count, parts, hop_length)
    summed = frames.new_zeros(size, count + parts - 1, hop_length)
    for part in range(parts):
        summed[:, part : part + count] += pieces[:, :, part]
    return summed.flatten(1)[:, : (count - 1) * hop_length + length]


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def envelope(n_fft: int, hop_length: int, count: int, device: torch.device) -> Tensor:
    """What ``count`` squared windows add up to, float32 [1, samples]."""
    window = torch.hann_window(n_fft, device=device)
    return overlap_add(window.square().expand(1, count, -1), hop_length)


class ISTFT(nn.Module):
    """Inverse short-time Fourier transform with "same" padding: T frames give exactly T * hop samples."""

    def __init__(self, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length

    def forward(self, spectrum: Tensor, keep: Tensor | None = None) -> Tensor:
        """Complex [B, T, n_fft / 2 + 1] -> [B, T * hop]: (n_fft - hop) / 2 samples are cut off at each end."""
        window = torch.hann_window(self.n_fft, device=spectrum.device)
        frames = torch.fft.irfft(spectrum, self.n_fft) * window
        if keep is None:
            weight = envelope(self.n_fft, self.hop_length, spectrum.shape[1], spectrum.device)
        else:
            held = keep.transpose(1, 2)
            frames = frames * held
            # Not zero behind the end either, where the samples mean nothing.
            weight = overlap_add(window.square() * held, self.hop_length).clamp(min=LEAST_WEIGHT)
        summed = overlap_add(frames, self.hop_length)
        trim = (self.n_fft - self.hop_length) // 2
        inside = slice(trim, summed.shape[1] - trim)
        return summed[:, inside] / weight[:, inside]


class Head(nn.Module):
    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.out = nn.Linear(config.dim, config.n_fft + 2)
        self.istft = ISTFT(config.n_fft, config.hop_length)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        # x [B, T, dim] -> wave [B, T · hop]
        magnitude, phase = self.out(x).chunk(2, dim=-1)
        # Log-magnitudes: one that is far off would drown the whole wave, hence the published bound.
        out: Tensor = self.istft(torch.polar(magnitude.exp().clamp(max=100.0), phase), keep)
        return out


class Vocos(nn.Module):
    """Official keys ``backbone.*`` and ``head.out.*``; the stored window is the periodic Hann window, made anew."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.head = Head(config)

    def forward(self, mel: Tensor, keep: Tensor | None = None) -> Tensor:
        """Log-mel [B, mel bins, T] -> wave float32 [B, T * hop], 24 kHz.

        ``keep`` float32 [B, 1, T] is 0 behind the end of rows that are padded; what comes out there means nothing.
        """
        # In float32 whatever the model's dtype: the phases of a wave are heard, bfloat16 has three digits.
        out: Tensor = self.head(self.backbone(mel.float(), keep), keep)
        return out

    @property
    def receptive_field(self) -> int:
        """Mel frames on either side that one output frame depends on, the overlap of the inverse transform included."""
        return 3 + 3 * self.config.num_layers + -(-self.config.n_fft // (2 * self.config.hop_length))
