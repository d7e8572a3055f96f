"""How many sessions fit: what is computed is what the storages take."""

from __future__ import annotations

from dataclasses import replace

import torch

from engine.bench.full import OFFICIAL
from engine.checkpoint.loader import LoadedModel
from engine.config import OmniConfig
from engine.conversation.session import SessionPool
from engine.conversation.storage import HEARINGS, Capacities, bytes_per_session, sessions_that_fit
from engine.model.omni import OmniModel

CARDS = {"H200": (139, 17.3), "A100": (79, 17.3), "4090 with int8": (23.6, 10.8)}
"""GiB of memory, and GB of weights."""


def test_a_session_takes_what_was_computed(loaded: LoadedModel) -> None:
    """On meta, where storages are made at their full size, as on a card."""
    with torch.device("meta"):
        model = OmniModel(loaded.config)
    pool = SessionPool(model, sessions=3, context=1_000)
    assert (pool.llm.capacity, pool.context, pool.llm.slots) == (1_024, 1_000, 3)
    kept = pool.llm.nbytes + pool.speech.nbytes + (1 + HEARINGS) * pool.audio.nbytes
    assert kept == 3 * bytes_per_session(loaded.config, 1_000, torch.float32)


def test_sessions_of_the_official_model_on_some_cards() -> None:
    config = OmniConfig.from_dicts(OFFICIAL)
    room = Capacities.of(config, 8_192)
    assert all(tokens % 256 == 0 for tokens in (room.context, room.speech, room.audio))
    fits = {
        card: sessions_that_fit(config, 8_192, torch.bfloat16, int(memory * 2**30 - weights * 1e9))
        for card, (memory, weights) in CARDS.items()
    }
    assert fits["H200"] >= 64
    assert fits["A100"] >= 24
    assert fits["4090 with int8"] >= 10
    assert sessions_that_fit(config, 8_192, torch.bfloat16, 0) == 0


def test_a_longer_context_takes_more_and_leaves_room_for_fewer() -> None:
    config = OmniConfig.from_dicts(OFFICIAL)
    config = replace(config, llm=replace(config.llm, max_positions=1 << 20))
    sizes = [bytes_per_session(config, context, torch.bfloat16) for context in (4_096, 8_192, 32_768)]
    assert sizes == sorted(sizes)
    assert sizes[1] - sizes[0] == 4_096 * 57_344
