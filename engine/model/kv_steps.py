"""The layout of steps that a device can repeat without its host: all places are read from static tensors.

A :class:`KVBatch` is laid out by the host, pass by pass. Here the host only knows sizes: how many rows, and how many
keys at most. Which slot a row has, where its token goes and what it sees are numbers on the device, and they move on
there. So a step can be recorded once and repeated (:mod:`engine.conversation.captured`), with other sessions in it
every time. Rows that no session has write behind the end of a slot, where nobody looks.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn_out

from engine.model.fused import advance_lengths_, turn_and_store
from engine.model.kv import KVArena, Sight, causal

log = logging.getLogger(__name__)

PAGE = 256
"""A paged kernel wants storages whose capacity is a multiple of so many tokens: every slot is a page."""


@runtime_checkable
class SteppingSight(Protocol):
    """A :data:`~engine.model.kv.Sight` that goes on by itself."""

    def advance_(self, places: Tensor, mask: Tensor, capacity: int) -> None:
        """``places`` int64 [rows] grow by one, up to ``capacity``; ``mask`` [rows, 1, 1, span] becomes what is seen."""
        ...


@dataclass(frozen=True)
class KVSteps:
    """One token of every row, step after step."""

    arena: KVArena
    slots: Tensor
    """int64 [rows]. Unless ``paged``, row i has slot i."""
    places: Tensor
    """int64 [rows]: where the present token goes, the arena's capacity for a row that no session has."""
    lengths: Tensor
    """int32 [rows]: the keys of each row that a paged kernel reads."""
    pages: Tensor
    """int32 [rows, 1]: the slots as a paged kernel wants them."""
    span: int
    """Keys that are looked at: no sequence is longer, or the arena's capacity."""
    sight: Sight = causal
    paged: bool = False
    """Keys are read where they lie, whatever the slots, by a kernel that is told each row's length; it knows no sight
    but :func:`causal`. Otherwise all slots from the first on are read with a mask: a row for every slot."""

    @classmethod
    def make(cls, arena: KVArena, rows: int, *, paged: bool = False) -> KVSteps:
        """Rows that no session has yet."""
        slots = torch.arange(rows, device=arena.device)
        pages = slots.to(torch.int32)
        places = torch.full_like(slots, arena.capacity)
        return cls(arena, slots, places, torch.ones_like(pages), pages[:, None], arena.capacity, paged=paged)

    def narrowed(self, rows: int, span: int, sight: Sight | None = None) -> KVSteps:
        """The first ``rows`` of the same tensors."""
        first = {name: getattr(self, name)[:rows] for name in ("slots", "places", "lengths", "pages")}
        return replace(self, **first, span=span, sight=sight or self.sight)

    def settle(self, slots: Tensor, places: Tensor) -> None:
        """Put sessions into the first rows: their slots and the places of their last tokens, int64 [N]."""
        count = len(slots)
        self.slots[:count].copy_(slots)
        self.pages[:count, 0].copy_(slots)
        self.places[:count].copy_(places)

    @property
    def positions(self) -> Tensor:
        """int64 [rows, 1], also the rotary positions."""
        return self.places.clamp(max=self.span)[:, None]

    @cached_property
    def starts(self) -> Tensor:
        """int32 [rows + 1]: the first query of each row."""
        return torch.arange(len(self.slots) + 1, dtype=torch.int32, device=self.slots.device)

    @cached_property
    def mask(self) -> Tensor:
        """[rows, 1, 1, span]: 0 where a row sees a key, else -inf; static like the rest."""
        return self.arena.both[0].new_zeros(len(self.slots), 1, 1, self.span)

    def advance(self) -> KVSteps:
        """Go on to the next token of every row: in place, on the device alone."""
        if self.paged:
            advance_lengths_(self.places, self.lengths, self.arena.capacity)
        elif isinstance(self.sight, SteppingSight):
            self.sight.advance_(self.places, self.mask, self.arena.capacity)
        else:
            self.places.add_(1).clamp_(max=self.arena.capacity)
            look_(self.mask, self.sight, self.places)
        return self

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As :meth:`KVBatch.attend`, with one token of every row."""
        both, store = torch.cat((query, key, value), 1)[:, :, 0], self.arena.both[layer]
        store[self.slots, :, self.places] = both[:, query.shape[1] :].to(store.dtype)
        return self._read(layer, both[:, : query.shape[1]]).view(query.shape)

    def attend_joined(self, layer: int, both: Tensor, heads: int, turn: tuple[Tensor, Tensor]) -> Tensor:
        """As :meth:`KVBatch.attend_joined`, with one token of every row."""
        query = turn_and_store(both, *turn, self.arena.both[layer], self.slots, self.places[:, None], heads)
        return self._read(layer, query[:, 0])[:, None]

    def _read(self, layer: int, query: Tensor) -> Tensor:
        """What queries [rows, heads, head_dim] find in a layer -> [rows, heads * head_dim]."""
        keys, values, rows = self.arena.keys[layer], self.arena.values[layer], len(self.slots)
        asked = query.to(keys.dtype)
        if self.paged:
            mixed = self._read_pages(asked, keys, values)
        else:
            # All queries that share a key head see the same keys: they are one row of several queries.
            mixed = F.scaled_dot_product_attention(
                asked.unflatten(1, (keys.shape[1], -1)),
                keys[:rows, :, : self.span],
                values[:rows, :, : self.span],
                attn_mask=self.mask,
            )
        return mixed.reshape(rows, -1).to(query.dtype)

    def _read_pages(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Queries [rows, heads, head_dim] -> the same; keys and values are a layer's of all slots."""
        grouped = query.shape[1] != keys.shape[1]
        if query.device.type == "cpu":  # no such kernel: what it does, for the tests
            rows = self.slots
            seen = torch.arange(self.span) < self.lengths[:, None]
            return F.scaled_dot_product_attention(
                query[:, :, None],
                keys[rows, :, : self.span],
                values[rows, :, : self.span],
                attn_mask=seen[:, None, None],
                enable_gqa=grouped,
            )
        out = torch.empty_like(query)
        pages, more = keys[:, :, : self.arena.capacity].transpose(1, 2), values[:, :, : self.arena.capacity]
        varlen_attn_out(
            out, query, pages, more.transpose(1, 2), self.starts, None, 1, self.span,
            enable_gqa=grouped, seqused_k=self.lengths, block_table=self.pages,
        )  # fmt: skip
        return out


def look_(mask: Tensor, sight: Sight, places: Tensor) -> None:
    """Write into ``mask`` [rows, 1, 1, span] what tokens at ``places`` int64 [rows] see, the last of their rows."""
    keys = torch.arange(mask.shape[-1], device=places.device)
    seen = sight(places[:, None], keys, places + 1)[:, None]
    mask.zero_().masked_fill_(seen.logical_not(), float("-inf"))


@torch.inference_mode()
def reads_pages(arena: KVArena, heads: int) -> bool:
    """Whether the device has the paged kernel for storages of this kind, and it finds what it should: it is tried out,
    as no torch promises it for every card and dtype."""
    if arena.device.type != "cuda" or arena.capacity % PAGE:
        return False
    kv_heads, head_dim = arena.keys[0].shape[1], arena.keys[0].shape[3]
    noise = torch.Generator().manual_seed(0)
    results: list[Tensor] = []
    for device, paged in ((arena.device, True), (torch.device("cpu"), False)):
        small = KVArena(1, kv_heads, head_dim, slots=2, capacity=PAGE, device=device, dtype=arena.dtype)
        noise.manual_seed(0)
        small.both[0].copy_(torch.randn(small.both[0].shape, generator=noise))
        steps = KVSteps.make(small, 2, paged=paged)
        steps.places.copy_(torch.tensor([40, 199]))
        both = torch.randn(2, heads + 2 * kv_heads, head_dim, generator=noise).to(device, arena.dtype)
        try:
            query, key, value = both[:, :, None].split((heads, kv_heads, kv_heads), 1)
            results.append(steps.advance().attend(0, query, key, value).float().cpu())
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            log.warning("no paged attention on %s, every step reads all slots: %s", device, error)
            return False
    return torch.allclose(results[0], results[1], rtol=0.05, atol=0.05)
