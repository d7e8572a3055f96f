"""The kernels of the chains of :mod:`engine.model.fused`, and of the sight of speech, in Triton (which comes with torch
for CUDA on Linux). Each function has the name and the arguments of its chain, and computes in float32.

Programs of a kernel run in no order: none reads what another writes. Nor do the warps of a program, each of which
reads a single number for itself: before one is overwritten, a barrier waits for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

WIDE = 1024
"""Numbers of a program of chains that go number by number."""


def jit(function: Callable[..., Any]) -> Any:
    """A kernel: what Triton makes of a function, started as ``kernel[programs](arguments)``."""
    return triton.jit(function)


def width(count: int) -> int:
    """The power of two that holds ``count``, as Triton's blocks are."""
    return max(16, 1 << (count - 1).bit_length())


@jit
def _swiglu(both: tl.tensor, out: tl.tensor, size: tl.tensor, BLOCK: tl.constexpr) -> None:
    row, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    gate = tl.load(both + 2 * row * size + i, mask=inside).to(tl.float32)
    up = tl.load(both + (2 * row + 1) * size + i, mask=inside).to(tl.float32)
    tl.store(out + row * size + i, gate * tl.sigmoid(gate) * up, mask=inside)


def swiglu(both: Tensor) -> Tensor:
    size = both.shape[-1] // 2
    out = both.new_empty(*both.shape[:-1], size)
    _swiglu[(out.numel() // size, triton.cdiv(size, WIDE))](both.contiguous(), out, size, BLOCK=WIDE)
    return out


@jit
def _add_and_norm(
    x: tl.tensor, more: tl.tensor, weight: tl.tensor, bias: tl.tensor, total: tl.tensor, normed: tl.tensor,
    eps: tl.tensor, size: tl.tensor, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    row, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside, at = i < size, row * size + i
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) + tl.load(more + at, mask=inside, other=0.0)
    value = value.to(total.dtype.element_ty).to(tl.float32)  # what is added to later is what was normed
    tl.store(total + at, value, mask=inside)
    mean = tl.sum(value, 0) / size
    apart = tl.where(inside, value - mean, 0.0)
    scaled = apart * tl.rsqrt(tl.sum(apart * apart, 0) / size + eps)
    scaled = scaled * tl.load(weight + i, mask=inside, other=0.0) + tl.load(bias + i, mask=inside, other=0.0)
    tl.store(normed + at, scaled, mask=inside)


def add_and_norm(x: Tensor, more: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    size = x.shape[-1]
    total, normed = torch.empty_like(x), torch.empty_like(x)
    assert all(tensor.is_contiguous() for tensor in (x, more))
    _add_and_norm[(x.numel() // size,)](x, more, weight, bias, total, normed, eps, size, BLOCK=width(size))
    return total, normed


@jit
def _turn_and_store(
    both: tl.tensor, cos: tl.tensor, sin: tl.tensor, store: tl.tensor, slots: tl.tensor, places: tl.tensor,
    queries: tl.tensor, tokens: tl.tensor, kv_heads: tl.tensor, half: tl.tensor, slot_stride: tl.tensor,
    head_stride: tl.tensor, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    # A program has one head of one token: queries first, then keys, then values.
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    heads = tl.num_programs(1) - 2 * kv_heads
    i = tl.arange(0, BLOCK)
    inside = i < half
    at = both + (token * tl.num_programs(1) + head) * 2 * half + i
    low = tl.load(at, mask=inside).to(tl.float32)
    high = tl.load(at + half, mask=inside).to(tl.float32)
    if head < heads + kv_heads:
        angle = token * 2 * half + i
        cos_low = tl.load(cos + angle, mask=inside).to(tl.float32)
        cos_high = tl.load(cos + angle + half, mask=inside).to(tl.float32)
        sin_low = tl.load(sin + angle, mask=inside).to(tl.float32)
        sin_high = tl.load(sin + angle + half, mask=inside).to(tl.float32)
        turned = low * cos_low + high * sin_low
        high = high * cos_high + low * sin_high
        low = turned
    if head < heads:
        to = queries + (token * heads + head) * 2 * half + i
    else:
        slot, place = tl.load(slots + token // tokens), tl.load(places + token)
        to = store + slot * slot_stride + (head - heads) * head_stride + place * 2 * half + i
    tl.store(to, low, mask=inside)
    tl.store(to + half, high, mask=inside)


def turn_and_store(
    both: Tensor, cos: Tensor, sin: Tensor, store: Tensor, slots: Tensor, places: Tensor, heads: int
) -> Tensor:
    rows, tokens, every, head_dim = both.shape
    assert all(tensor.is_contiguous() for tensor in (both, store))
    queries = both.new_empty(rows, tokens, heads, head_dim)
    cos, sin, places = cos.contiguous(), sin.contiguous(), places.contiguous()
    _turn_and_store[(rows * tokens, every)](
        both, cos, sin, store, slots, places, queries, tokens, (every - heads) // 2, head_dim // 2,
        store.stride(0), store.stride(1), BLOCK=width(head_dim // 2), num_warps=1,
    )  # fmt: skip
    return queries


@jit
def _advance_lengths(
    places: tl.tensor, lengths: tl.tensor, rows: tl.tensor, capacity: tl.tensor, BLOCK: tl.constexpr
) -> None:
    row = tl.arange(0, BLOCK)
    place = tl.minimum(tl.load(places + row, mask=row < rows, other=0) + 1, capacity)
    tl.debug_barrier()
    tl.store(places + row, place, mask=row < rows)
    tl.store(lengths + row, tl.minimum(place + 1, capacity), mask=row < rows)


def advance_lengths_(places: Tensor, lengths: Tensor, capacity: int) -> None:
    rows = len(places)
    _advance_lengths[(1,)](places, lengths, rows, capacity, BLOCK=width(rows), num_warps=1)


@jit
def _advance_mask(
    places: tl.tensor, mask: tl.tensor, text_length: tl.tensor, span: tl.tensor, capacity: tl.tensor,
    first: tl.tensor, reserved: tl.tensor, codes: tl.tensor, text: tl.tensor, audio: tl.tensor, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0)
    place = tl.minimum(tl.load(places + row) + 1, capacity)
    tl.debug_barrier()
    tl.store(places + row, place)
    ahead = place - reserved
    begun = tl.where(ahead > 0, (ahead + codes - 1) // codes, -((-ahead) // codes))  # rounded up: kernels round to 0
    seen = first + tl.minimum(tl.minimum(begun * text, reserved), tl.load(text_length + row) + 1)
    for start in range(0, span, BLOCK):
        key = start + tl.arange(0, BLOCK)
        sees = (key < seen) | ((key >= audio) & (key <= place))
        tl.store(mask + row.to(tl.int64) * span + key, tl.where(sees, 0.0, float("-inf")), mask=key < span)


def advance_mask_(places: Tensor, mask: Tensor, text_length: Tensor, capacity: int, sizes: Sequence[int]) -> None:
    span = mask.shape[-1]
    assert mask.is_contiguous()
    _advance_mask[(len(places),)](places, mask, text_length, span, capacity, *sizes, BLOCK=WIDE)
