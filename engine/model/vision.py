"""SigLIP vision tower with NaViT positions (``vpm.*``).

A ViT over patches of pictures of any shape: the learned 70 × 70 position grid (sizes from the configuration) is
shared by all shapes, each patch taking the position whose cell its fractional coordinate falls into.

MiniCPM-Llama3-V 2.5 was trained, and has to be used, with two oddities of its code (``one_row``): every slice counts as
one row of as many patches as the longest slice has, and shorter ones attend to their padding.
Sources: SigLIP (arXiv 2303.15343), NaViT (arXiv 2307.06304).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.config import VisionConfig
from engine.model.decoder import join_linears
from engine.model.fused import add_and_norm_by

GridSize = tuple[int, int]
"""Patches of one slice: (rows, columns)."""


@lru_cache(maxsize=512)
@torch.inference_mode(False)
def bucket_positions(patches: int, grid: int) -> Tensor:
    """Position cell of every patch along one side: int64 ``[patches]`` with values in ``[0, grid)``.

    Coordinates hit the cell boundaries exactly for many sizes, so that float32 rounding decides: for 40 patches on a
    grid of 40, patch 19 belongs to cell 18. The step between patches is itself rounded to float32, as published.
    """
    boundaries = torch.arange(1 / grid, 1.0, 1 / grid)
    step = torch.tensor(1 / patches, dtype=torch.float32).item()
    coordinates = torch.arange(0, 1 - 1e-6, step, dtype=torch.float32)
    return torch.bucketize(coordinates, boundaries, right=True)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def position_ids(sizes: tuple[GridSize, ...], length: int, grid: int, device: torch.device) -> Tensor:
    """Row of the position table for every patch, int64 ``[len(sizes), length]``; 0 where a slice is padded.

    Kept on the device: the same shapes come again and again, and a copy there makes the host wait.
    """
    ids = torch.zeros(len(sizes), length, dtype=torch.long)
    for row, (height, width) in zip(ids, sizes, strict=True):
        cells = bucket_positions(height, grid)[:, None] * grid + bucket_positions(width, grid)
        row[: height * width] = cells.flatten()
    return ids.to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def patch_mask(sizes: tuple[GridSize, ...], length: int, device: torch.device) -> Tensor | None:
    """Bool ``[len(sizes), 1, 1, length]``, True on real patches; None when no slice is padded."""
    counts = [height * width for height, width in sizes]
    if min(counts) == length:
        return None
    real = torch.arange(length) < torch.tensor(counts)[:, None]
    return real[:, None, None, :].to(device)


class VisionEmbeddings(nn.Module):
    """Linear patch embedding plus the position of every patch."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.grid = config.patches_per_side
        patch = config.patch_size
        self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, patch, stride=patch)
        self.position_embedding = nn.Embedding(self.grid**2, config.hidden_size)

    def forward(self, patches: Tensor, sizes: tuple[GridSize, ...]) -> Tensor:
        # patches [B, L, channels · patch²] -> [B, L, hidden]
        # The patches do not overlap, so that the convolution is one matrix product over flattened patches.
        hidden = F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)
        ids = position_ids(sizes, patches.shape[1], self.grid, patches.device)
        out: Tensor = hidden + self.position_embedding(ids)
        return out


class VisionAttention(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.joined: tuple[Tensor, Tensor | None] | None = None
        """The weights of q, k and v as one matrix, and their bias, see :func:`~engine.model.decoder.join_linears`."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        # x [B, L, hidden] -> the same; q, k, v [B, heads, L, hidden / heads]; mask bool [B, 1, 1, L]
        batch, length, width = x.shape
        if self.joined is None:
            products = [proj(x) for proj in (self.q_proj, self.k_proj, self.v_proj)]
        else:
            products = list(F.linear(x, *self.joined).chunk(3, -1))
        q, k, v = (product.view(batch, length, self.heads, -1).transpose(1, 2) for product in products)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return out

    def join(self) -> None:
        self.joined = join_linears((self.q_proj, self.k_proj, self.v_proj))


class VisionMLP(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

        self.approximate = "none" if config.tower == "timm" else "tanh"

    def forward(self, x: Tensor) -> Tensor:
        # [B, L, hidden] -> the same, through [B, L, intermediate]
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))
        return out


class VisionLayer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.self_attn = VisionAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, more: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        # x [B, L, hidden] and what is still to be added to it -> the same
        x, normed = add_and_norm_by(self.layer_norm1, x, more)
        x, normed = add_and_norm_by(self.layer_norm2, x, self.self_attn(normed, mask))
        return x, self.mlp(normed)


class VisionEncoder(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_layers))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        # x [B, L, hidden] -> the same
        more: Tensor | None = None
        for layer in self.layers:
            x, more = layer(x, more, mask)
        return x if more is None else x + more


class SiglipVisionTower(nn.Module):
    """Patches of a padded batch of slices → features, one per patch."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.batch_size, self.tower, self.alone = config.batch_size, config.tower, config.alone
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, patches: Tensor, sizes: Sequence[GridSize]) -> Tensor:
        """Encode slices.

        ``patches``: ``[B, L, channels · patch²]``, each patch flattened as (channel, row, column), padded with zeros
        to the longest slice; ``sizes``: rows and columns of every slice, with rows · columns ≤ L.
        Returns ``[B, L, hidden]``; rows behind a slice's own patches are meaningless.
        """
        length, real = patches.shape[1], tuple(sizes)
        if self.tower == "one_row" and self.alone:
            alone = [self._encode(row[None, :count], ((1, count),))[0] for row, count in _rows(patches, real)]
            return nn.utils.rnn.pad_sequence(alone, batch_first=True)
        parts = []
        for start in range(0, len(real), self.batch_size):
            part = real[start : start + self.batch_size]
            placed = part if self.tower == "navit" else ((1, length),) * len(part)
            parts.append(self._encode(patches[start : start + self.batch_size], placed))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _encode(self, patches: Tensor, sizes: tuple[GridSize, ...]) -> Tensor:
        # patches [B, L, ...] of slices that count as being of these sizes -> [B, L, hidden]
        x = self.embeddings(patches, sizes)
        out: Tensor = self.post_layernorm(self.encoder(x, patch_mask(sizes, patches.shape[1], x.device)))
        return out

    def join(self) -> None:
        """See :meth:`engine.model.decoder.Decoder.join`."""
        for layer in self.encoder.layers:
            assert isinstance(layer, VisionLayer)
            layer.self_attn.join()


def _rows(patches: Tensor, sizes: tuple[GridSize, ...]) -> list[tuple[Tensor, int]]:
    return [(row, height * width) for row, (height, width) in zip(patches, sizes, strict=True)]
