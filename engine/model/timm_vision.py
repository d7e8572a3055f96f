"""The vision tower of MiniCPM-V 2.0 (``vpm.*``): the same ViT as a timm library's, with that library's names.

Every slice goes through it alone. The square table of positions is stretched to the slice. Source: SigLIP
(arXiv 2303.15343); sizes and names of timm's ``vit_so400m_patch14_siglip_384``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.config import VisionConfig
from engine.model.vision import GridSize, VisionMLP


class PatchEmbedding(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        patch = config.patch_size
        self.proj = nn.Conv2d(config.num_channels, config.hidden_size, patch, stride=patch)

    def forward(self, patches: Tensor) -> Tensor:
        # [L, channels · patch²] -> [L, hidden]
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class FusedAttention(nn.Module):
    """Attention whose queries, keys and values are one product."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        # [L, hidden] -> the same; q, k, v [heads, L, hidden / heads]
        q, k, v = self.qkv(x).view(len(x), 3, self.heads, -1).permute(1, 2, 0, 3)
        # A batch of one: without it, torch's fused attention is not used.
        mixed = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
        out: Tensor = self.proj(mixed.transpose(0, 1).flatten(1))
        return out


class VisionBlock(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = FusedAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor) -> Tensor:
        # [L, hidden] -> the same
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class TimmVisionTower(nn.Module):
    """Patches of a padded batch of slices → features, one per patch."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.side = config.patches_per_side
        self.patch_embed = PatchEmbedding(config)
        self.pos_embed = nn.Parameter(torch.empty(1, self.side**2, config.hidden_size))
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if not self.pos_embed.is_meta:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, patches: Tensor, sizes: Sequence[GridSize]) -> Tensor:
        """As :meth:`engine.model.vision.SiglipVisionTower.forward`: ``[B, L, channels · patch²]`` and sizes (rows,
        columns) -> ``[B, L, hidden]``, zeros behind a slice's own patches."""
        slices = [self._encode(row[: size[0] * size[1]], size) for row, size in zip(patches, sizes, strict=True)]
        seen = nn.utils.rnn.pad_sequence(slices, batch_first=True)
        return F.pad(seen, (0, 0, 0, patches.shape[1] - seen.shape[1]))

    def _encode(self, patches: Tensor, size: GridSize) -> Tensor:
        # [rows · columns, channels · patch²] -> [rows · columns, hidden]
        x = self.patch_embed(patches) + self.positions(size)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out

    def positions(self, size: GridSize) -> Tensor:
        """The table of positions stretched to ``size`` (rows, columns): ``[rows · columns, hidden]``."""
        if size == (self.side, self.side):
            return self.pos_embed[0]
        # In float32 whatever the model's dtype, as published.
        square = self.pos_embed.float().view(1, self.side, self.side, -1).permute(0, 3, 1, 2)
        fitted = F.interpolate(square, size=size, mode="bicubic", antialias=True, align_corners=False)
        return fitted[0].flatten(1).t().to(self.pos_embed.dtype)
