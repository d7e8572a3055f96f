"""DVAE: four codes per audio token <-> two log-mel frames, with grouped residual FSQ.

One token of ``num_vq`` codes stands for two mel frames, so 24 kHz / 256 / 2 = 46.875 tokens per second. Finite scalar
quantisation is arXiv 2309.15505; groups x residuals as in vector_quantize_pytorch 1.18.5 (GroupedResidualFSQ).
"""

from __future__ import annotations

import math
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.config import DVAEConfig


def cut(x: Tensor, keep: Tensor | None) -> Tensor:
    """``x`` [B, channels, T] with zeros where ``keep`` [B, 1, T] is 0: behind the end of a row that is padded. A
    convolution then sees there what it sees behind the end of a row of its own. None keeps everything."""
    return x if keep is None else x * keep


@cache
@torch.inference_mode(False)
def _constant(values: tuple[int, ...], device: torch.device) -> Tensor:
    """A tensor that stays on the device: a new copy every time would make the host wait."""
    return torch.tensor(values, device=device)


class DVAEBlock(nn.Module):
    """Depthwise convolution (7 wide, dilation 2), layer norm, two pointwise layers with GELU, scaled residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(width, width, kernel_size=7, dilation=2, padding=6, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.coef = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        # [B, channels, T] -> the same; norm and the pointwise layers work on [B, T, channels]
        y = self.norm(self.dwconv(cut(x, keep)).transpose(1, 2))
        out: Tensor = x + (self.coef * self.pwconv2(F.gelu(self.pwconv1(y)))).transpose(1, 2)
        return out


class ConvStack(nn.Module):
    """[B, channels_in, T] -> [B, channels_out, T]: the body of both the encoder and the decoder."""

    def __init__(self, channels_in: int, channels_out: int, config: DVAEConfig) -> None:
        super().__init__()
        self.conv_in = nn.Sequential(
            nn.Conv1d(channels_in, config.bn_dim, 3, padding=1),
            nn.GELU(),
            nn.Conv1d(config.bn_dim, config.hidden, 3, padding=1),
        )
        self.decoder_block = nn.ModuleList(DVAEBlock(config.hidden) for _ in range(config.n_layer))
        self.conv_out = nn.Conv1d(config.hidden, channels_out, 1, bias=False)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        # [B, channels_in, T] -> [B, channels_out, T]
        for layer in self.conv_in:
            x = layer(cut(x, keep))
        for block in self.decoder_block:
            x = block(x, keep)
        out: Tensor = self.conv_out(x)
        return out


class ResidualFSQ(nn.Module):
    """One group: ``residuals`` finite scalar quantisers in sequence, each refining what the last one left over."""

    def __init__(self, width: int, levels: tuple[int, ...], residuals: int) -> None:
        super().__init__()
        self.levels, self.residuals = levels, residuals
        self.project_in = nn.Linear(width, len(levels))
        self.project_out = nn.Linear(len(levels), width)

    def _tables(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Levels and place values [len(levels)], the least significant digit first."""
        places = tuple(math.prod(self.levels[:i]) for i in range(len(self.levels)))
        return _constant(self.levels, like.device), _constant(places, like.device)

    def _scale(self, residual: int, like: Tensor) -> Tensor:
        """Step of quantiser ``residual``: (levels - 1) to the power of -residual."""
        return (_constant(self.levels, like.device).to(like.dtype) - 1) ** -residual

    def values(self, codes: Tensor) -> Tensor:
        """Codes int64 [B, residuals, T] -> summed quantised values [B, T, len(levels)] of this module's dtype."""
        levels, places = self._tables(codes)
        half = levels // 2
        digits = (codes[..., None] // places) % levels
        scaled = ((digits - half) / half).to(self.project_out.weight.dtype)
        return sum(
            (scaled[:, r] * self._scale(r, scaled) for r in range(self.residuals)), start=torch.zeros_like(scaled[:, 0])
        )

    def decode(self, codes: Tensor) -> Tensor:
        """Codes int64 [B, residuals, T] -> features [B, T, width]."""
        out: Tensor = self.project_out(self.values(codes))
        return out

    def encode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, T, width] -> (codes int64 [B, residuals, T], features [B, T, width] as the decoder sees them).

        Rounding passes gradients straight through, so the encoder can be trained.
        """
        levels, places = self._tables(features)
        half = levels // 2
        residual = self.project_in(features)
        total, codes = torch.zeros_like(residual), []
        for index in range(self.residuals):
            scale = self._scale(index, residual)
            bounded = self._bound(residual / scale)
            rounded = bounded + (bounded.round() - bounded).detach()
            value = rounded / half * scale
            residual, total = residual - value.detach(), total + value
            codes.append(((rounded.detach().round() + half).long() * places).sum(-1))
        return torch.stack(codes, 1), self.project_out(total)

    def _bound(self, z: Tensor, eps: float = 1e-3) -> Tensor:
        """Squash into the open range of the levels (odd levels have no offset)."""
        levels = _constant(self.levels, z.device).to(z.dtype)
        # A little wider than the levels, so that the outermost ones are reached although tanh never gets to its ends.
        half = (levels - 1) * (1 + eps) / 2
        # An even number of levels has none at zero: all move down by a half, and zero stays at zero.
        offset = torch.where(levels % 2 == 0, 0.5, 0.0).to(z.dtype)
        return (z + (offset / half).atanh()).tanh() * half - offset


class GroupedResidualFSQ(nn.Module):
    """``groups`` quantisers side by side on equal shares of the channels."""

    def __init__(self, config: DVAEConfig) -> None:
        super().__init__()
        self.rvqs = nn.ModuleList(
            ResidualFSQ(config.vq_dim // config.groups, tuple(config.levels), config.residuals)
            for _ in range(config.groups)
        )

    def decode(self, codes: Tensor) -> Tensor:
        """Codes int64 [B, groups * residuals, T] -> [B, vq_dim, T]."""
        parts = codes.chunk(len(self.rvqs), dim=1)
        return torch.cat(
            [cast(ResidualFSQ, rvq).decode(part) for rvq, part in zip(self.rvqs, parts, strict=True)], -1
        ).transpose(1, 2)

    def encode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[B, vq_dim, T] -> (codes int64 [B, groups * residuals, T], quantised features [B, vq_dim, T])."""
        parts = features.transpose(1, 2).chunk(len(self.rvqs), dim=-1)
        pairs = [cast(ResidualFSQ, rvq).encode(part) for rvq, part in zip(self.rvqs, parts, strict=True)]
        return torch.cat([codes for codes, _ in pairs], 1), torch.cat([x for _, x in pairs], -1).transpose(1, 2)


class GFSQ(nn.Module):
    """Only there for the official key ``vq_layer.quantizer.rvqs``."""

    def __init__(self, config: DVAEConfig) -> None:
        super().__init__()
        self.quantizer = GroupedResidualFSQ(config)


class DVAE(nn.Module):
    """Official keys ``coef``, ``downsample_conv``, ``encoder``, ``decoder``, ``out_conv``, ``vq_layer``."""

    def __init__(self, config: DVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.coef = nn.Parameter(torch.ones(1, config.num_mel_bins, 1))
        self.downsample_conv = nn.Sequential(
            nn.Conv1d(config.num_mel_bins, config.idim, 3, padding=1),
            nn.GELU(),
            nn.Conv1d(config.idim, config.idim, 4, 2, 1),
            nn.GELU(),
        )
        self.encoder = ConvStack(config.idim, config.vq_dim, config)
        self.decoder = ConvStack(config.idim, config.idim, config)
        self.out_conv = nn.Conv1d(config.idim, config.num_mel_bins, 3, padding=1, bias=False)
        self.vq_layer = GFSQ(config)

    def features(self, codes: Tensor) -> Tensor:
        """Codes int64 [B, num_vq, T] -> quantised features [B, vq_dim, T]."""
        return self.vq_layer.quantizer.decode(codes)

    def decode(self, codes: Tensor, keep: Tensor | None = None) -> Tensor:
        """Codes int64 [B, num_vq, T] -> log-mel [B, mel bins, 2T].

        ``keep`` float [B, 1, 2T] is 0 behind the end of rows that are padded; what comes out there means nothing.
        """
        return self.decode_features(self.features(codes), keep)

    def decode_features(self, features: Tensor, keep: Tensor | None = None) -> Tensor:
        """Quantised features [B, vq_dim, T] -> log-mel [B, mel bins, 2T]: each half of the channels is one frame."""
        size, width, length = features.shape
        frames = features.view(size, 2, width // 2, length).permute(0, 2, 3, 1).flatten(2)
        out: Tensor = self.out_conv(cut(self.decoder(frames, keep), keep)) * self.coef
        return out

    def encode(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel [B, mel bins, 2T] -> (codes int64 [B, num_vq, T], quantised features [B, vq_dim, T])."""
        return self.vq_layer.quantizer.encode(self.encoder(self.downsample_conv(mel / self.coef)))

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel [B, mel bins, 2T] -> (its reconstruction, codes int64 [B, num_vq, T]): the training pass."""
        codes, features = self.encode(mel)
        return self.decode_features(features), codes

    @property
    def receptive_field(self) -> int:
        """Mel frames on either side that one output frame depends on."""
        return 1 + 6 * self.config.n_layer + 1 + 1
