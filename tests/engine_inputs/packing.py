"""Writes checkpoints in the layouts of AutoGPTQ and bitsandbytes, for tests; both directions of each are held to layers
that their own programs packed (tests/data/int4_layouts.safetensors)."""

from __future__ import annotations

import json

import torch
from torch import Tensor

GROUP = 32
BLOCK, NESTED = 64, 256


def pack_words(whole: Tensor, bits: int) -> Tensor:
    """[rows, numbers] -> int32 [rows, numbers * bits / 32], the first number in the lowest bits."""
    words = whole.long().unflatten(1, (-1, 32 // bits)) << torch.arange(0, 32, bits)
    packed: Tensor = words.sum(-1).to(torch.int32)  # wraps round where the highest bit is set
    return packed


def gptq(weight: Tensor, *, bits: int = 4, less: int = 1) -> tuple[dict[str, Tensor], Tensor]:
    """The parts of ``weight`` [outputs, inputs] by name, and what they stand for. ``less`` is taken from the zeros."""
    most = 2**bits - 1
    rows = weight.float().unflatten(1, (-1, GROUP))
    low, high = rows.amin(-1).clamp(max=0), rows.amax(-1).clamp(min=0)
    scales = ((high - low) / most).clamp(min=1e-4).half().float()
    zeros = (-low / scales).round().clamp(1, most)
    whole = (rows / scales[..., None] + zeros[..., None]).round().clamp(0, most)
    parts = {
        "qweight": pack_words(whole.flatten(1), bits).t().contiguous(),
        "qzeros": pack_words((zeros.t() - less) % (most + 1), bits),
        "scales": scales.t().half().contiguous(),
        "g_idx": (torch.arange(weight.shape[1]) // GROUP).int(),
    }
    return parts, ((whole - zeros[..., None]) * scales[..., None]).flatten(1)


def nf4(weight: Tensor, table: Tensor, coarse: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The parts of ``weight``, whose own name is "", with a ``table`` of 16 numbers and one of 256 for the scales."""
    blocks = weight.float().reshape(-1, BLOCK)
    scales = blocks.abs().amax(1)
    offset = float(scales.mean())
    groups = (scales - offset).split(NESTED)
    nested = torch.stack([group.abs().amax().clamp(min=1e-6) for group in groups])
    spread = nested.repeat_interleave(NESTED)[: len(scales)]
    fine = ((scales - offset) / spread)[:, None].sub(coarse).abs().argmin(1)
    restored = coarse[fine] * spread + offset
    codes = (blocks / restored[:, None])[..., None].sub(table).abs().argmin(-1)
    pairs = codes.flatten().unflatten(0, (-1, 2))
    state = {"quant_type": "nf4", "blocksize": BLOCK, "dtype": "bfloat16", "shape": list(weight.shape)}
    state |= {"nested_blocksize": NESTED, "nested_dtype": "float32", "nested_offset": offset}
    parts = {
        "": (pairs[:, 0] << 4 | pairs[:, 1]).to(torch.uint8)[:, None],
        "absmax": fine.to(torch.uint8),
        "quant_map": table,
        "nested_absmax": nested,
        "nested_quant_map": coarse,
        "quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }
    return parts, (table[codes] * restored[:, None]).view(weight.shape)
