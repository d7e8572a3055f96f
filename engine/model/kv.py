"""Key/value storage of many sessions in one static tensor.

A session's sequence is a slot and a length, nothing else: cutting it short means remembering a smaller length,
forking it means copying a slot. What lies beyond a sequence's length is rubbish that no query ever sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.model.fused import turn_and_store
from engine.model.transfer import upload

Sight = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What a query may see: (query positions int64 [B, T], key positions int64 [S], ends int64 [B]) -> bool [B, T or 1, S].

``ends`` are the lengths of the sequences once the new tokens are in.
"""


class KVFullError(ValueError):
    """A sequence would outgrow the storage, or no slot is free."""


def causal(queries: Tensor, keys: Tensor, ends: Tensor) -> Tensor:
    """Each token sees itself and what came before it."""
    return keys <= queries[..., None]


def whole(queries: Tensor, keys: Tensor, ends: Tensor) -> Tensor:
    """Each token sees its whole sequence, later new tokens included (a chunk of the streaming audio encoder)."""
    return (keys < ends[:, None])[:, None]


class KVArena:
    """Keys and values of up to ``max_slots`` sequences: per layer one tensor [slots, 2 * kv_heads, capacity + 1,
    head_dim], of which the first half of the heads are keys, and the second values.

    Both the slots and the capacity grow by doubling up to their limits; a storage built at its limits never moves. One
    row more than the capacity is kept: padded tokens of a ragged batch go there.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        *,
        slots: int = 1,
        capacity: int = 256,
        max_slots: int | None = None,
        max_capacity: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.max_slots = slots if max_slots is None else max_slots
        self.max_capacity = capacity if max_capacity is None else max_capacity
        slots, capacity = min(slots, self.max_slots), min(capacity, self.max_capacity)
        shape = (slots, 2 * kv_heads, capacity + 1, head_dim)
        self.both = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]
        self.keys: list[Tensor] = []
        """The keys of each layer [slots, kv_heads, capacity + 1, head_dim], a view."""
        self.values: list[Tensor] = []
        self._split()
        self._free = list(range(slots - 1, -1, -1))

    def _split(self) -> None:
        halves = [tensor.chunk(2, 1) for tensor in self.both]
        self.keys, self.values = [half[0] for half in halves], [half[1] for half in halves]

    @property
    def layers(self) -> int:
        return len(self.both)

    @property
    def slots(self) -> int:
        return self.both[0].shape[0]

    @property
    def capacity(self) -> int:
        """Tokens that each slot can hold without growing."""
        return self.both[0].shape[2] - 1

    @property
    def device(self) -> torch.device:
        return self.both[0].device

    @property
    def dtype(self) -> torch.dtype:
        return self.both[0].dtype

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.both)

    def allocate(self) -> int:
        """A free slot, the lowest first so that sessions stay contiguous. Raises :class:`KVFullError` without one."""
        if not self._free:
            if self.slots >= self.max_slots:
                raise KVFullError(f"all {self.max_slots} session slots are taken; close a session or raise the limit")
            before, slots = self.slots, min(2 * self.slots, self.max_slots)
            self._resize(slots, self.capacity)
            self._free = list(range(slots - 1, before - 1, -1))
        self._free.sort(reverse=True)
        return self._free.pop()

    def release(self, slot: int) -> None:
        if slot in self._free or not 0 <= slot < self.slots:
            raise ValueError(f"slot {slot} is not in use")
        self._free.append(slot)

    def reserve(self, tokens: int) -> None:
        """Make room for sequences of ``tokens``. Raises :class:`KVFullError` beyond ``max_capacity``."""
        if tokens <= self.capacity:
            return
        if tokens > self.max_capacity:
            raise KVFullError(f"a sequence of {tokens} tokens exceeds the storage of {self.max_capacity}")
        self._resize(self.slots, min(max(2 * self.capacity, tokens), self.max_capacity))

    def _resize(self, slots: int, capacity: int) -> None:
        """Layer by layer, so that never more than one is there twice. Where memory ends on the way, the layers that
        have grown shrink again: the storage is then as it was."""
        before = self.slots, self.capacity
        try:
            for layer, old in enumerate(self.both):
                new = old.new_zeros(slots, old.shape[1], capacity + 1, old.shape[3])
                new[: old.shape[0], :, : old.shape[2] - 1] = old[:, :, :-1]
                self.both[layer] = new
        except (MemoryError, RuntimeError):
            self.both[:] = [tensor[: before[0], :, : before[1] + 1] for tensor in self.both]
            raise
        finally:
            self._split()

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` tokens of one slot into another: the fork of a sequence."""
        for tensor in self.both:
            tensor[target, :, :length] = tensor[source, :, :length]

    def save(self, slot: int, length: int) -> list[Tensor]:
        """A copy of a sequence outside the storage, for :meth:`restore`."""
        return [tensor[slot, :, :length].clone() for tensor in self.both]

    def restore(self, slot: int, saved: Sequence[Tensor]) -> None:
        for tensor, part in zip(self.both, saved, strict=True):
            tensor[slot, :, : part.shape[1]] = part

    def clear(self, slot: int, start: int, end: int) -> None:
        """Set tokens start..end-1 of a slot to zero."""
        self.reserve(end)
        for tensor in self.both:
            tensor[slot, :, start:end] = 0

    def place(
        self,
        slots: Sequence[int],
        starts: Sequence[int],
        lengths: Sequence[int],
        *,
        sight: Sight = causal,
        steps: int = 1,
    ) -> KVBatch:
        """Lay out one forward pass: ``lengths[b]`` new tokens of sequence ``slots[b]``, from position ``starts[b]`` on.

        The layout is built from numbers that the host knows, so nothing waits for the device. ``steps`` reserves room
        for that many passes of one token, see :meth:`KVBatch.advance`.
        """
        if not len(slots) == len(starts) == len(lengths) > 0:
            raise ValueError("slots, starts and lengths must name the same sequences, at least one")
        if len(set(slots)) != len(slots):
            raise ValueError(f"a slot occurs twice in one batch: {list(slots)}")
        longest = max(lengths)
        span = max(start + length for start, length in zip(starts, lengths, strict=True))
        self.reserve(span + steps - 1)
        numbers = upload(torch.tensor([list(slots), list(starts), list(lengths)], dtype=torch.int64), self.device)
        rows, first, count = numbers[0], numbers[1], numbers[2]
        steps_ahead = torch.arange(longest, device=self.device)
        positions = first[:, None] + steps_ahead
        ragged = min(lengths) < longest
        write = torch.where(steps_ahead < count[:, None], positions, self.capacity) if ragged else positions
        contiguous = all(slot == slots[0] + i for i, slot in enumerate(slots))
        return KVBatch(
            arena=self,
            slots=rows,
            positions=positions,
            write=write,
            ends=first + count,
            span=span,
            sight=sight,
            first_slot=slots[0] if contiguous else None,
            start=starts[0] if not ragged and len(set(starts)) == 1 else None,
        ).look()


@dataclass(frozen=True, slots=True)
class KVBatch:
    """Where the new tokens of one forward pass go, and what they see. Made by :meth:`KVArena.place`.

    ``first_slot`` is set where the slots are contiguous: reads are then views. ``start`` is set where all sequences
    begin at the same position: writes are then slices. Where they are None, the tensors decide.
    """

    arena: KVArena
    slots: Tensor
    positions: Tensor
    """int64 [B, T], also the rotary positions."""
    write: Tensor
    """int64 [B, T], rows that the new keys are written to."""
    ends: Tensor
    span: int
    """Keys read: the longest sequence of the batch."""
    sight: Sight
    first_slot: int | None = None
    start: int | None = None
    mask: Tensor | None = None
    """bool [B, 1, T or 1, span]; None where every query sees all keys, or where ``is_causal`` says it."""
    is_causal: bool = False

    def look(self) -> KVBatch:
        """This layout with its mask, or without one where none is needed."""
        new = self.positions.shape[1]
        alone = self.start is not None and self.start + new == self.span
        if alone and (self.sight is whole or (self.sight is causal and new == 1)):
            return replace(self, mask=None)
        if alone and self.sight is causal and self.start == 0:
            return replace(self, is_causal=True)
        keys = torch.arange(self.span, device=self.positions.device)
        return replace(self, mask=self.sight(self.positions, keys, self.ends)[:, None])

    def advance(self) -> KVBatch:
        """The layout of the next single token of every sequence, made on the device alone."""
        return replace(
            self,
            positions=self.ends[:, None],
            write=self.ends[:, None],
            ends=self.ends + 1,
            span=self.span + 1,
            start=None if self.start is None else self.start + self.positions.shape[1],
            mask=None,
            is_causal=False,
        ).look()

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store the new keys and values of ``layer`` and attend.

        ``query`` [B, heads, T, head_dim]; ``key`` and ``value`` [B, kv_heads, T, head_dim], positions already applied.
        Returns [B, heads, T, head_dim].
        """
        keys, values = self.arena.keys[layer], self.arena.values[layer]
        size, new = self.positions.shape
        if self.first_slot is not None and self.start is not None:
            box = slice(self.first_slot, self.first_slot + size), slice(None), slice(self.start, self.start + new)
            keys[box], values[box] = key.to(keys.dtype), value.to(values.dtype)
        else:
            rows, columns = self.slots[:, None], self.write
            keys[rows, :, columns] = key.transpose(1, 2).to(keys.dtype)
            values[rows, :, columns] = value.transpose(1, 2).to(values.dtype)
        return self._read(layer, query)

    def attend_joined(self, layer: int, both: Tensor, heads: int, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Store and attend: queries, keys and values side by side [B, T, heads + 2 * kv_heads, head_dim], without their
        positions (``turn``: cosines and sines [B, 1, T, head_dim]) -> [B, T, heads * head_dim]."""
        query = turn_and_store(both, *turn, self.arena.both[layer], self.slots, self.write, heads)
        return self._read(layer, query.transpose(1, 2)).transpose(1, 2).flatten(-2)

    def _read(self, layer: int, query: Tensor) -> Tensor:
        """What queries [B, heads, T, head_dim] find in a layer -> the same."""
        keys, values = self.arena.keys[layer], self.arena.values[layer]
        if self.first_slot is not None:
            seen = slice(self.first_slot, self.first_slot + len(self.slots))
            past_keys, past_values = keys[seen, :, : self.span], values[seen, :, : self.span]
        else:
            past_keys = keys[:, :, : self.span].index_select(0, self.slots)
            past_values = values[:, :, : self.span].index_select(0, self.slots)
        return F.scaled_dot_product_attention(
            query,
            past_keys.to(query.dtype),
            past_values.to(query.dtype),
            attn_mask=self.mask,
            is_causal=self.is_causal,
            enable_gqa=query.shape[1] != keys.shape[1],
        )


@dataclass(frozen=True, slots=True)
class KVReview(KVBatch):
    """A pass over tokens that are stored already, to see what they attended to: it writes nothing.

    Every query head needs keys of its own.
    """

    watched: tuple[int, int] = (0, 0)
    """The first key that matters, and the first after it that does not."""
    weights: list[Tensor] = field(default_factory=list)
    """Per layer that has run, float32 [B, T, watched]: the attention to them, the mean of its heads."""

    @classmethod
    def of(cls, batch: KVBatch, watched: tuple[int, int]) -> KVReview:
        """A review of the tokens that ``batch`` would write."""
        return cls(**{item.name: getattr(batch, item.name) for item in fields(KVBatch)}, watched=watched)

    def mean(self) -> Tensor:
        """The mean over all layers, float32 [B, T, watched]."""
        return torch.stack(self.weights).mean(0)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        stored = self.arena.keys[layer], self.arena.values[layer]
        keys, values = (tensor[:, :, : self.span].index_select(0, self.slots) for tensor in stored)
        scores = query.float() @ keys.float().transpose(2, 3) / query.shape[-1] ** 0.5
        if self.mask is not None:
            scores = scores.masked_fill(~self.mask, float("-inf"))
        weights = scores.softmax(-1)
        self.weights.append(weights[..., slice(*self.watched)].mean(1))
        seen: Tensor = weights.to(query.dtype) @ values.to(query.dtype)
        return seen


@dataclass(frozen=True, slots=True)
class KVRows:
    """The next token of several sequences in a pass of a fixed number of rows, none of which depends on another.

    The rows share their products with the weights. Every sequence attends by itself, in the very operations that it
    takes alone: in a common product, the number of keys of the longest would decide how the sums of all are rounded.
    Rows behind the last sequence are padding.
    """

    batches: tuple[KVBatch, ...]
    """One sequence each, with one new token (any number before :meth:`advance`)."""
    rows: int

    @property
    def arena(self) -> KVArena:
        return self.batches[0].arena

    @property
    def positions(self) -> Tensor:
        """int64 [rows, 1], also the rotary positions; 0 for padding."""
        return F.pad(torch.cat([batch.positions for batch in self.batches]), (0, 0, 0, self.rows - len(self.batches)))

    @property
    def span(self) -> int:
        return max(batch.span for batch in self.batches)

    def advance(self) -> KVRows:
        """The layout of the next single token of every sequence."""
        return KVRows(tuple(batch.advance() for batch in self.batches), self.rows)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As :meth:`KVBatch.attend` with [rows, ...]. The result is written into ``query``, whose padding stays."""
        for row, batch in enumerate(self.batches):
            own = slice(row, row + 1)
            query[own] = batch.attend(layer, query[own], key[own], value[own])
        return query


class KVLayout(Protocol):
    """Where the new tokens of one forward pass go, and what they see."""

    @property
    def arena(self) -> KVArena: ...

    @property
    def positions(self) -> Tensor:
        """int64 [B, T], the rotary positions."""
        ...

    @property
    def span(self) -> int:
        """Keys that are read, at most."""
        ...

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store the new keys and values of ``layer`` and attend, see :meth:`KVBatch.attend`."""
        ...
