"""Chains of small operations that are one launch on a card.

A chain is written once in torch: that is its definition, and what runs on a CPU, on ``meta``, and wherever else there
is no Triton. On CUDA a kernel of the same name does it at once (:mod:`engine.model.kernels`), which rounds to the dtype
at its end where torch rounds after every operation: results there may differ in the last bit. Each is an operator of
the library ``omnicall``, so that torch can trace it, record it, and tell a dispatch mode about it.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.errors import is_out_of_memory

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

_LIBRARY = torch.library.Library("omnicall", "DEF")


class Fused(Generic[P, R]):
    """One chain. On a CPU, and where gradients are wanted, calling it is calling its definition, without a detour."""

    every: ClassVar[dict[str, Fused[..., Any]]] = {}
    """By the operator's name."""

    def __init__(self, plain: Callable[P, R], schema: str, kernels: str, launches: int) -> None:
        self.plain, self.name, self.launches = plain, plain.__name__, launches
        self.interpreted = False
        """Run the kernel wherever it is: for the tests on a CPU, with Triton's interpreter."""
        self._kernels = kernels
        self._refused = self._worked = False
        self.__doc__ = plain.__doc__
        _LIBRARY.define(self.name + schema)
        _LIBRARY.impl(self.name, plain, "CompositeExplicitAutograd")
        _LIBRARY.impl(self.name, self._on_card, "CUDA")
        self._operator = getattr(torch.ops.omnicall, self.name)
        self.every[f"omnicall::{self.name}"] = self

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        tensor = args[0]
        assert isinstance(tensor, Tensor)
        if self.interpreted:
            return self.kernel(*args, **kwargs)
        if tensor.device.type == "cpu" or torch.is_grad_enabled():
            return self.plain(*args, **kwargs)
        out: R = self._operator(*args, **kwargs)
        return out

    @property
    def kernel(self) -> Callable[P, R]:
        """What launches the kernels. Raises ImportError without Triton."""
        found: Callable[P, R] = getattr(importlib.import_module(self._kernels), self.name)
        return found

    def _on_card(self, *args: Any, **kwargs: Any) -> Any:
        if self._refused:
            return self.plain(*args, **kwargs)
        try:
            with torch.cuda.device_of(args[0]):
                out = self.kernel(*args, **kwargs)
        except Exception as error:  # of a compiler, before anything was launched: they are of many kinds
            if self._worked or is_out_of_memory(error):
                raise
            log.warning("%s is done operation by operation, its kernel fails: %s", self.name, error)
            self._refused = True
            return self.plain(*args, **kwargs)
        self._worked = True
        return out


def fused(
    schema: str, *, kernels: str = "engine.model.kernels", launches: int = 1
) -> Callable[[Callable[P, R]], Fused[P, R]]:
    """Make a chain of its definition, whose first argument is a tensor. ``schema`` are arguments and results in torch's
    notation; in the module ``kernels`` a function of the same name makes so many ``launches``."""

    def make(plain: Callable[P, R]) -> Fused[P, R]:
        return Fused(plain, schema, kernels, launches)

    return make


def launches_of(operator: Any) -> int:
    """Launches of an operator of torch on a card: one, or what a chain says of itself."""
    chain = Fused.every.get(operator._schema.name)
    return 1 if chain is None else chain.launches


@fused("(Tensor both) -> Tensor")
def swiglu(both: Tensor) -> Tensor:
    """Gates and values side by side [..., 2 * N] -> the values, each times SiLU of its gate [..., N]."""
    gate, up = both.chunk(2, -1)
    return F.silu(gate).mul_(up)


@fused("(Tensor x, Tensor more, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor)")
def add_and_norm(x: Tensor, more: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The sum of ``x`` and ``more`` [..., width], and its layer norm."""
    total = x + more
    return total, F.layer_norm(total, weight.shape, weight, bias, eps)


def add_and_norm_by(norm: nn.LayerNorm, x: Tensor, more: Tensor | None) -> tuple[Tensor, Tensor]:
    """:func:`add_and_norm` with a module's weights, of ``x`` alone where there is nothing ``more``."""
    return (x, norm(x)) if more is None else add_and_norm(x, more, norm.weight, norm.bias, norm.eps)


@fused("(Tensor both, Tensor cos, Tensor sin, Tensor(a!) store, Tensor slots, Tensor places, int heads) -> Tensor")
def turn_and_store(
    both: Tensor, cos: Tensor, sin: Tensor, store: Tensor, slots: Tensor, places: Tensor, heads: int
) -> Tensor:
    """Give queries and keys their positions, and put keys and values into a storage. Returns the queries.

    ``both`` [B, T, heads + 2 * kv_heads, head_dim] are queries, keys and values side by side. ``cos`` and ``sin``
    [B, 1, T, head_dim] (:func:`~engine.model.decoder.rotary`); ``store`` [slots, 2 * kv_heads, capacity + 1, head_dim];
    ``slots`` int64 [B] and ``places`` int64 [B, T] say where to.
    """
    turned, values = both.tensor_split([(heads + both.shape[2]) // 2], 2)
    swapped = torch.cat(turned.chunk(2, dim=-1)[::-1], dim=-1)
    turned = (turned * cos.transpose(1, 2)).addcmul_(swapped, sin.transpose(1, 2))
    store[slots[:, None], :, places] = torch.cat((turned[:, :, heads:], values), 2).to(store.dtype)
    return turned[:, :, :heads]


@fused("(Tensor(a!) places, Tensor(b!) lengths, int capacity) -> ()")
def advance_lengths_(places: Tensor, lengths: Tensor, capacity: int) -> None:
    """Go on to the next token of every row: ``places`` int64 [rows] grow by one, up to ``capacity``, and ``lengths``
    int32 [rows] are the keys up to there, at most ``capacity``."""
    places.add_(1).clamp_(max=capacity)
    lengths.copy_((places + 1).clamp_(max=capacity))
