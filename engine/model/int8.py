"""Products in whole numbers, for a CPU: weights of eight bits, and inputs rounded to eight bits row by row.

A weight [outputs, inputs] has one scale per output, an input one scale per row, and what is summed up are integers. So
a row's result depends on nothing but the row, to the last bit, however many rows share a product. (torch's own dynamic
quantisation has one scale for all rows of a product: the row with the largest number then ruins the others, and calls
that share a step change each other's answers.) On a processor with VNNI a step costs a sixth of one in float32.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

MOST = 127
"""Largest whole number of a weight."""
LEAST_SCALE = 1e-12
"""For a row of zeros."""


@lru_cache(maxsize=1)
def input_levels() -> int:
    """Largest whole number of an input: 127, or 63 where 127 would overflow.

    Processors without VNNI add up pairs of products in 16 bits, which two products of 255 * 127 do not fit into.
    """
    weight = torch.full((16, 64), MOST, dtype=torch.int8)
    full = torch.full((1, 64), 255, dtype=torch.uint8)
    return MOST if bool((_product(full, 128, _packed(weight), torch.ones(16)) == 64 * MOST * MOST).all()) else 63


def _packed(weight: Tensor) -> Tensor:
    """int8 [outputs, inputs], laid out as this processor multiplies best."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(weight, None)
    return packed


def _product(rows: Tensor, zero: int, packed: Tensor, scales: Tensor) -> Tensor:
    """uint8 rows [N, inputs] of which ``zero`` stands for 0 -> float32 [N, outputs]."""
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    out: Tensor = torch.ops.onednn.qlinear_pointwise(
        rows, 1.0, zero, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return out


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix [N, M] as int8 and the scales float32 [N] of its rows."""
    weight = weight.float()
    scales = weight.abs().amax(1).clamp(min=LEAST_SCALE) / MOST
    return (weight / scales[:, None]).round().to(torch.int8), scales


class Int8Linear(nn.Module):
    """An ``nn.Linear`` in whole numbers. The weight is gone afterwards; the bias is as it was."""

    scales: Tensor
    packed: Tensor

    def __init__(self, weight: Tensor, bias: nn.Parameter | None = None) -> None:
        """``weight`` [outputs, inputs] on the CPU."""
        super().__init__()
        whole, scales = rounded(weight)
        self.register_buffer("packed", _packed(whole))
        self.register_buffer("scales", scales)
        self.bias = bias
        self.levels = input_levels()

    def forward(self, x: Tensor) -> Tensor:
        # [..., inputs] -> [..., outputs] in float32
        scale = x.abs().amax(-1, keepdim=True).clamp_(min=LEAST_SCALE).div_(self.levels)
        whole = (x / scale).add_(self.levels + 1.5).to(torch.uint8)  # rounded, since what is cut off begins at a half
        out = _product(whole.reshape(-1, x.shape[-1]), self.levels + 1, self.packed, self.scales).view(
            *x.shape[:-1], -1
        )
        out.mul_(scale)
        return out if self.bias is None else out.add_(self.bias)


class Int8Embedding(nn.Module):
    """An ``nn.Embedding`` whose rows are kept in whole numbers."""

    whole: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor) -> None:
        """``weight`` [rows, width]."""
        super().__init__()
        whole, scales = rounded(weight)
        self.register_buffer("whole", whole)
        self.register_buffer("scales", scales)

    def forward(self, ids: Tensor) -> Tensor:
        # int64 [...] -> float32 [..., width]
        return self.whole[ids] * self.scales[ids][..., None]
