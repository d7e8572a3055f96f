"""Weights of four bits in groups: a group of inputs of an output shares a scale and a zero.

    weight[o, i] = (whole[o, i] - zero[g, o]) * scale[g, o]        with i in group g

Both torch's kernels, the CPU's and the tensor cores' (compute capability 8.0 on), take such a matrix in a layout of
their own; they put the zero elsewhere: (whole - 8) * scale + shift. GPTQ's integers go in unchanged. Both multiply in
bfloat16: the CPU's takes float32, too, but ten times as long.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

GROUPS = (128, 64, 32)
"""Inputs that share a scale, where nothing else says so: the largest number that divides the layer's width."""
KERNEL_GROUPS = (32, 64, 128, 256)
MOST, MIDDLE = 15, 8
OUTPUTS, INPUTS = 16, 128
"""The kernels take multiples of so many outputs (the CPU's) and inputs (the tensor cores')."""
TILES = 8
"""Of 16 inputs, which a thread of a tensor core takes at once."""


@dataclass(frozen=True, slots=True)
class GroupedWeight:
    """A matrix in groups."""

    whole: Tensor
    """uint8 [outputs, inputs]."""
    scales: Tensor
    """float [groups, outputs]."""
    zeros: Tensor
    """float [groups, outputs], in steps."""
    group_of: Tensor
    """int64 [inputs]: the group of each."""

    def floats(self) -> Tensor:
        """The matrix float32 [outputs, inputs]."""
        scales, zeros = (part.float()[self.group_of].t() for part in (self.scales, self.zeros))
        return (self.whole.float() - zeros) * scales

    @property
    def group(self) -> int:
        """Inputs of a group; 0 where they are not all as many."""
        count = len(self.group_of) // len(self.scales)
        even = torch.arange(len(self.scales), device=self.group_of.device).repeat_interleave(count)
        return count if torch.equal(self.group_of.sort().values, even) else 0

    @property
    def fits_kernel(self) -> bool:
        """Whether :class:`Int4Linear` takes it."""
        return self.group in KERNEL_GROUPS and int(self.whole.max()) <= MOST


def grouped(weight: Tensor, group: int) -> GroupedWeight:
    """``weight`` [outputs, inputs] rounded to the nearest of 16 steps from a group's least to its greatest number."""
    rows = weight.float().unflatten(1, (-1, group))
    low, high = rows.amin(-1, keepdim=True), rows.amax(-1, keepdim=True)
    scale = ((high - low) / MOST).clamp(min=1e-9)
    whole = ((rows - low) / scale).round().clamp(0, MOST).to(torch.uint8).flatten(1)
    group_of = torch.arange(weight.shape[1], device=weight.device) // group
    return GroupedWeight(whole, scale[..., 0].t(), (-low / scale)[..., 0].t(), group_of)


class Int4Linear(nn.Module):
    """An ``nn.Linear`` with a matrix in groups. Nothing is kept but what the kernel reads."""

    packed: Tensor
    steps: Tensor
    order: Tensor | None

    def __init__(self, weight: GroupedWeight, bias: nn.Parameter | None = None) -> None:
        """Raises ValueError for sizes that no kernel takes."""
        super().__init__()
        whole, (outputs, inputs) = weight.whole, weight.whole.shape
        self.group = weight.group
        on_cpu = whole.device.type == "cpu"
        if not weight.fits_kernel or outputs % OUTPUTS or (not on_cpu and inputs % INPUTS):
            raise ValueError(f"{inputs} inputs and {outputs} outputs in groups of {self.group} fit no kernel of 4 bits")
        order = None
        if not bool((weight.group_of.diff() >= 0).all()):  # GPTQ's "act order": groups of inputs that lie apart
            order = weight.group_of.argsort(stable=True)
            whole = whole[:, order]
        if on_cpu:
            packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(whole.int(), 1)
        else:
            packed = torch.ops.aten._convert_weight_to_int4pack(
                (whole[:, ::2] << 4 | whole[:, 1::2]).contiguous(), TILES
            )
        shift = (MIDDLE - weight.zeros.float()) * weight.scales.float()
        self.register_buffer("packed", packed)
        self.register_buffer("steps", torch.stack([weight.scales.float(), shift], -1).to(torch.bfloat16).contiguous())
        self.register_buffer("order", order)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        # [..., inputs] -> [..., outputs]
        rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        if self.order is not None:
            rows = rows.index_select(1, self.order)
        out: Tensor
        if x.device.type == "cpu":
            out = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, self.group, self.steps)
        else:
            out = torch.ops.aten._weight_int4pack_mm(rows, self.packed, self.group, self.steps)
        out = out.view(*x.shape[:-1], -1).to(x.dtype)
        return out if self.bias is None else out + self.bias
