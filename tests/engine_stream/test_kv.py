"""The key/value storage: growth, ragged batches, scattered slots, and what a query sees."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.model.decoder import Decoder, DecoderSizes
from engine.model.kv import KVArena, KVFullError, causal, whole


def decoder(seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    sizes = DecoderSizes(10, 32, 48, 2, 4, 2, 1e-6, 1e4, True, 8)
    return Decoder(sizes).eval()


def arena(
    slots: int = 1, capacity: int = 256, max_slots: int | None = None, max_capacity: int | None = None
) -> KVArena:
    return KVArena(2, 2, 8, slots=slots, capacity=capacity, max_slots=max_slots, max_capacity=max_capacity)


def plain(model: Decoder, embeds: Tensor) -> Tensor:
    out: Tensor = model(embeds[None])[0]
    return out


@torch.inference_mode()
def test_steps_equal_one_pass() -> None:
    model, store = decoder(), arena(max_capacity=64, capacity=4)
    embeds = torch.randn(20, 32)
    expected = plain(model, embeds)
    start, states = 0, []
    for length in (5, 1, 7, 1, 6):
        states.append(model(embeds[None, start : start + length], cache=store.place([0], [start], [length]))[0])
        start += length
    torch.testing.assert_close(torch.cat(states), expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("slots", [[0, 1, 2], [2, 0, 3]])
def test_a_ragged_batch_equals_each_alone(slots: list[int]) -> None:
    model, store = decoder(), arena(slots=4, capacity=4, max_capacity=64)
    rows = [torch.randn(length, 32) for length in (9, 4, 13)]
    pasts, news = [3, 0, 9], [6, 4, 4]
    for row, slot, past in zip(rows, slots, pasts, strict=True):
        if past:
            model(row[None, :past], cache=store.place([slot], [0], [past]))
    padded = torch.zeros(3, 6, 32)
    for index, (row, past, new) in enumerate(zip(rows, pasts, news, strict=True)):
        padded[index, :new] = row[past:]
    states = model(padded, cache=store.place(slots, pasts, news))
    for index, (row, past, new) in enumerate(zip(rows, pasts, news, strict=True)):
        torch.testing.assert_close(states[index, :new], plain(model, row)[past:], rtol=1e-4, atol=1e-5)
    # Each goes on from its own length, and padding left nothing behind.
    follow = torch.randn(3, 1, 32)
    states = model(follow, cache=store.place(slots, [9, 4, 13], [1, 1, 1]))
    for index, row in enumerate(rows):
        expected = plain(model, torch.cat([row, follow[index]]))[-1]
        torch.testing.assert_close(states[index, 0], expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_padding_never_touches_what_lies_behind_a_sequence() -> None:
    model, store = decoder(), arena(slots=2, capacity=16)
    model(torch.randn(2, 8, 32), cache=store.place([0, 1], [0, 0], [8, 8]))
    before = [tensor[0, :, 4:8].clone() for tensor in store.keys]
    model(torch.randn(2, 6, 32), cache=store.place([0, 1], [2, 8], [2, 6]))
    for tensor, old in zip(store.keys, before, strict=True):
        assert torch.equal(tensor[0, :, 4:8], old)


@torch.inference_mode()
@pytest.mark.parametrize("slots", [[0], [0, 1], [1, 3]])
def test_advancing_equals_placing_anew(slots: list[int]) -> None:
    model, count = decoder(), len(slots)
    first, second = torch.randn(count, 3, 32), torch.randn(count, 1, 32)
    states = []
    for advance in (True, False):
        store = arena(slots=4, capacity=8)
        cache = store.place(slots, [0] * count, [3] * count, steps=2)
        model(first, cache=cache)
        after = cache.advance() if advance else store.place(slots, [3] * count, [1] * count)
        states.append(model(second, cache=after))
    torch.testing.assert_close(states[0], states[1])


@torch.inference_mode()
def test_a_fork_goes_its_own_way() -> None:
    model, store = decoder(), arena(slots=2, capacity=16)
    shared, own = torch.randn(1, 6, 32), torch.randn(2, 3, 32)
    model(shared, cache=store.place([0], [0], [6]))
    store.copy(0, 1, 6)
    for slot in (0, 1):
        states = model(own[slot : slot + 1], cache=store.place([slot], [6], [3]))[0]
        expected = plain(model, torch.cat([shared[0], own[slot]]))[6:]
        torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)


def test_capacity_and_slots_double_up_to_their_limits_and_keep_what_is_there() -> None:
    store = arena(slots=1, capacity=4, max_slots=3, max_capacity=20)
    store.keys[1][0, :, 3] = 7.0
    slots = [store.allocate() for _ in range(3)]
    assert slots == [0, 1, 2]
    assert store.slots == 3
    store.reserve(5)
    assert store.capacity == 8
    store.reserve(9)
    assert store.capacity == 16
    store.reserve(17)
    assert store.capacity == 20
    assert (store.keys[1][0, :, 3] == 7.0).all()
    with pytest.raises(KVFullError, match="21 tokens"):
        store.reserve(21)
    with pytest.raises(KVFullError, match="all 3 session slots"):
        store.allocate()
    store.release(1)
    assert store.allocate() == 1
    store.release(2)
    with pytest.raises(ValueError, match="slot 2 is not in use"):
        store.release(2)


def test_a_layout_refuses_what_makes_no_sense() -> None:
    store = arena(slots=2)
    with pytest.raises(ValueError, match="twice"):
        store.place([0, 0], [0, 0], [1, 1])
    with pytest.raises(ValueError, match="at least one"):
        store.place([], [], [])


def test_sights() -> None:
    queries, keys, ends = torch.tensor([[2, 3]]), torch.arange(5), torch.tensor([4])
    assert causal(queries, keys, ends).tolist() == [[[True] * 3 + [False] * 2, [True] * 4 + [False]]]
    assert whole(queries, keys, ends).tolist() == [[[True] * 4 + [False]]]


def test_a_storage_that_cannot_grow_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may end in the middle of the layers."""
    store = arena(slots=1, capacity=4, max_slots=4, max_capacity=64)
    slot = store.allocate()
    for tensor in (*store.keys, *store.values):
        tensor[slot, :, :4] = 7.0
    honest, made = torch.Tensor.new_zeros, list[int]()

    def full(tensor: Tensor, *shape: int) -> Tensor:
        if len(made) == 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        made.append(1)
        return honest(tensor, *shape)

    for grow in (lambda: store.reserve(40), lambda: store.allocate()):
        made.clear()
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "new_zeros", full)
            with pytest.raises(RuntimeError, match="allocate"):
                grow()
        assert (store.slots, store.capacity) == (1, 4)
        assert {tuple(tensor.shape) for tensor in (*store.keys, *store.values)} == {(1, 2, 5, 8)}
        assert all((tensor[slot, :, :4] == 7.0).all() for tensor in (*store.keys, *store.values))
    assert store.allocate() == 1
    store.reserve(40)
    assert all((tensor[slot, :, :4] == 7.0).all() for tensor in (*store.keys, *store.values))
