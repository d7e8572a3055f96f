"""Products in whole numbers, for a CPU: weights of eight bits, and inputs rounded to eight bits row by row.

A weight [outputs, inputs] has one scale per output, an input one scale per row, and what is summed up are integers. So
a row's result depends on nothing but the row, to the last bit, however many rows share a product. (torch's own dynamic
quantisation has one scale for all rows of a product: the row with the largest number then ruins the others, and calls
that share a step change each other's answers.) On a processor with VNNI a step costs a sixth of one in float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

MOST = 127
"""Largest whole number of a weight."""
LEAST_SCALE = 1e-12
"""For a row of zeros."""

Product = Callable[[Tensor, int], Tensor]
"""Rows float32 [..., inputs] from -1 to 1, and the whole number that 1 is rounded to -> float32 [..., outputs]."""


@lru_cache(maxsize=1)
def input_levels() -> int:
    """Largest whole number of an input: 127, or 63 where 127 would overflow.

    Processors without VNNI add up pairs of products in 16 bits, which two products of 255 * 127 do not fit into.
    """
    product = _product(torch.full((16, 64), MOST, dtype=torch.int8), torch.ones(16))
    return MOST if torch.allclose(product(torch.ones(1, 64), MOST), torch.tensor(64.0 * MOST)) else 63


@lru_cache(maxsize=1)
def is_available() -> bool:
    """Whether torch has such products for this processor."""
    try:
        return bool(input_levels())
    except (AttributeError, RuntimeError):
        return False


def _product(whole: Tensor, scales: Tensor) -> Product:
    """The product with a matrix int8 [outputs, inputs] whose rows have ``scales`` float32 [outputs]: by FBGEMM, which
    an x86 processor has and which reads weights for a few rows half as fast again, or else by oneDNN."""
    if torch.backends.quantized.engine in ("x86", "fbgemm"):
        return _by_fbgemm(whole, scales)
    return _by_onednn(whole, scales)


def _by_fbgemm(whole: Tensor, scales: Tensor) -> Product:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it is to go one day; which torch runs is pinned
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        weight = torch._make_per_channel_quantized_tensor(whole, scales.double(), zeros, 0)
        packed = torch.ops.quantized.linear_prepack(weight, None)
    multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32

    def product(rows: Tensor, levels: int) -> Tensor:
        out: Tensor = multiply(torch.atleast_2d(rows), 1 / levels, levels + 1, packed)
        return out.view(*rows.shape[:-1], -1)

    return product


def _by_onednn(whole: Tensor, scales: Tensor) -> Product:
    packed, zeros = torch.ops.onednn.qlinear_prepack(whole, None), torch.zeros(len(scales), dtype=torch.int32)
    multiply = torch.ops.onednn.qlinear_pointwise

    def product(rows: Tensor, levels: int) -> Tensor:
        # Rounded, since what is cut off begins at a half.
        given = (rows * levels).add_(levels + 1.5).to(torch.uint8).view(-1, rows.shape[-1])
        out: Tensor = multiply(
            given, 1 / levels, levels + 1, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return out.view(*rows.shape[:-1], -1)

    return product


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix [N, M] as int8 and the scales float32 [N] of its rows."""
    weight = weight.float()
    scales = weight.abs().amax(1).clamp(min=LEAST_SCALE) / MOST
    return (weight / scales[:, None]).round().to(torch.int8), scales


class Int8Linear(nn.Module):
    """An ``nn.Linear`` in whole numbers. The weight is gone afterwards; the bias is as it was."""

    def __init__(self, weight: Tensor, bias: nn.Parameter | None = None) -> None:
        """``weight`` [outputs, inputs] on the CPU."""
        super().__init__()
        self._product = _product(*rounded(weight))
        self.bias = bias
        self.levels = input_levels()

    def forward(self, x: Tensor) -> Tensor:
        # [..., inputs] -> [..., outputs] in float32
        largest = x.abs().amax(-1, keepdim=True)  # of a row of zeros it is 0, and so is what comes out
        out = self._product(x / largest, self.levels)
        return out.mul_(largest) if self.bias is None else torch.addcmul(self.bias, out, largest)


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
