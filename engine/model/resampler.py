"""Resampler (``resampler.*``): any number of patch features → a fixed number of vectors of the LLM's width.

One cross-attention from learned queries to the patches, whose keys carry a 2-D sine position
(Qwen-VL, arXiv 2308.12966; the adaptive grid is MiniCPM-V 2.6's).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model.vision import GridSize, patch_mask


def sine_positions(count: int, dim: int) -> Tensor:
    """1-D sine positions of the integers below ``count``: float32 ``[count, dim]``, sines first, then cosines."""
    # numpy's float32 powers and sines, as published: torch's differ in the last bits.
    frequencies = np.arange(dim // 2, dtype=np.float32) / np.float32(dim / 2)
    frequencies = np.float32(1) / np.float32(10_000) ** frequencies
    angles = np.outer(np.arange(count, dtype=np.float32), frequencies)
    return torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], axis=1))


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def patch_coordinates(sizes: tuple[GridSize, ...], length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of every patch, each int64 ``[len(sizes), length]``; 0 where a slice is padded."""
    coordinates = torch.zeros(2, len(sizes), length, dtype=torch.long)
    for index, (height, width) in enumerate(sizes):
        patch = torch.arange(height * width)
        coordinates[0, index, : height * width] = patch // width
        coordinates[1, index, : height * width] = patch % width
    rows, columns = coordinates.to(device)
    return rows, columns


class CrossAttention(nn.Module):
    """Multi-head attention with the packed projections of :class:`torch.nn.MultiheadAttention`."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        if not self.in_proj_weight.is_meta:
            nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """``query`` ``[Q, D]`` is shared by the batch; ``key``, ``value`` ``[B, L, D]`` → ``[B, Q, D]``."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        q = q.expand(key.shape[0], -1, -1, -1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class Resampler(nn.Module):
    def __init__(self, queries: int, dim: int, heads: int, vision_dim: int, *, placed: bool = False) -> None:
        """``queries`` vectors of ``dim`` channels come out of features of ``vision_dim`` channels. With ``placed`` the
        queries have positions of their own, which are stored (MiniCPM-V 2.0)."""
        super().__init__()
        self.dim = dim
        self.pos_embed = nn.Parameter(torch.empty(queries, dim)) if placed else None
        self.query = nn.Parameter(torch.empty(queries, dim))
        self.kv_proj = nn.Linear(vision_dim, dim, bias=False)
        self.attn = CrossAttention(dim, heads)
        self.ln_q = nn.LayerNorm(dim, eps=1e-6)
        self.ln_kv = nn.LayerNorm(dim, eps=1e-6)
        self.ln_post = nn.LayerNorm(dim, eps=1e-6)
        self.proj = nn.Parameter(torch.empty(dim, dim))
        # Not a buffer: a constant that follows the activations and that no checkpoint holds.
        self._sines = sine_positions(0, dim // 2)
        if not self.query.is_meta:
            nn.init.trunc_normal_(self.query, std=0.02)
            if self.pos_embed is not None:
                nn.init.trunc_normal_(self.pos_embed, std=0.02)
            nn.init.normal_(self.proj, std=dim**-0.5)

    def forward(self, features: Tensor, sizes: Sequence[GridSize]) -> Tensor:
        """Condense the features of each slice.

        ``features`` ``[B, L, vision_dim]`` come from the vision tower, ``sizes`` are its rows and columns.
        Returns ``[B, queries, dim]``.
        """
        sizes = tuple(sizes)
        x = self.ln_kv(self.kv_proj(features))
        mask = patch_mask(sizes, x.shape[1], x.device)
        query = self.ln_q(self.query)
        query = query if self.pos_embed is None else query + self.pos_embed
        out = self.attn(query, x + self._positions(sizes, x), x, mask)
        result: Tensor = self.ln_post(out) @ self.proj
        return result

    def _positions(self, sizes: tuple[GridSize, ...], x: Tensor) -> Tensor:
        """2-D positions ``[B, L, dim]``: the first half of the channels tells the column, the second the row."""
        side = max(max(size) for size in sizes)
        if len(self._sines) < side or self._sines.device != x.device or self._sines.dtype != x.dtype:
            with torch.inference_mode(False):
                self._sines = sine_positions(max(side, 70), self.dim // 2).to(device=x.device, dtype=x.dtype)
        rows, columns = patch_coordinates(sizes, x.shape[1], x.device)
        return torch.cat([self._sines[columns], self._sines[rows]], dim=-1)
