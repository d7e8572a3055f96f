"""How many sessions fit: what is computed is what the storages take."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.bench.full import OFFICIAL
from engine.checkpoint import devices
from engine.checkpoint.loader import LoadedModel
from engine.client import EngineError
from engine.config import OmniConfig, VisionLanguageConfig
from engine.conversation.session import SessionPool
from engine.conversation.storage import (
    CONTEXTS,
    HEARINGS,
    MOST_CALLS,
    Capacities,
    choose_room,
    session_bytes,
    sessions_that_fit,
    working_bytes,
)
from engine.errors import LoadError
from engine.model.omni import OmniModel
from engine.serving.live_engine import load, room_on
from engine.spec import MAX_CHATS, MOST_CALLS_ON_CPU, EngineSpec

CARDS = {"H200": (139, 17.3), "A100": (79, 17.3), "4090 with int8": (23.6, 10.8)}
"""GiB of memory, and GB of weights."""
CUDA = torch.device("cuda")


def test_a_session_takes_what_was_computed(loaded: LoadedModel) -> None:
    """On meta, where storages are made at their full size, as on a card."""
    with torch.device("meta"):
        model = OmniModel(loaded.config)
    pool = SessionPool(model, sessions=3, context=1_000)
    assert (pool.llm.capacity, pool.context, pool.llm.slots) == (1_024, 1_000, 3)
    kept = pool.llm.nbytes + pool.speech.nbytes + (1 + HEARINGS) * pool.audio.nbytes
    assert kept == 3 * sum(session_bytes(loaded.config, 1_000, torch.float32).values())


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
    sizes = [sum(session_bytes(config, context, torch.bfloat16).values()) for context in (4_096, 8_192, 32_768)]
    assert sizes == sorted(sizes)
    assert sizes[1] - sizes[0] == 4_096 * 57_344


@pytest.mark.parametrize("seed", range(20))
def test_what_is_chosen_fits_and_nothing_larger_does(seed: int) -> None:
    dice, config = random.Random(seed), OmniConfig.from_dicts(OFFICIAL)
    calls, context = dice.choice([0, 1, 7, 200]), dice.choice([0, 0, 1_000, 8_192])
    free = int(dice.uniform(1.8, 130) * 2**30)
    room = choose_room(config, CUDA, torch.bfloat16, free, calls=calls, context=context)

    def takes(sessions: int, tokens: int) -> int:
        return sessions * sum(session_bytes(config, tokens, torch.bfloat16).values())

    left = free - working_bytes(free)
    assert takes(room.sessions, room.context) <= left
    assert 1 <= room.calls <= (calls or MOST_CALLS)
    assert 1 <= room.chats <= MAX_CHATS
    assert room.context == context or (not context and room.context in CONTEXTS)
    if room.calls < (calls or MOST_CALLS):
        assert takes(room.sessions + 1, room.context) > left, "a call more would have had room"
    if room.context < (context or CONTEXTS[0]):
        assert takes(2, 2 * room.context) > left, "a longer context would have had room"


def test_room_for_calls_is_told_and_the_operator_rules() -> None:
    config = OmniConfig.from_dicts(OFFICIAL)
    free = (139 << 30) - 17_404_000_000
    assert str(choose_room(config, CUDA, torch.bfloat16, free)) == "96 calls of 8,192 tokens, and 4 chats beside"
    assert choose_room(config, CUDA, torch.bfloat16, free, calls=7, context=32_768).calls == 7
    assert choose_room(config, CUDA, torch.bfloat16, 3 << 30).context == 8_192
    assert choose_room(config, CUDA, torch.bfloat16, 2 << 30).context == 4_096
    with pytest.raises(
        LoadError, match=r"cuda: has 1\.1 GB left .* 2 sessions of 2,048 tokens take 0\.73 GB each; use"
    ):
        choose_room(config, CUDA, torch.bfloat16, 1 << 30)
    with pytest.raises(LoadError, match=r"of 32,768 tokens .* use a smaller context"):
        choose_room(config, CUDA, torch.bfloat16, 4 << 30, context=32_768)


def test_a_processor_and_a_model_that_only_chats(loaded: LoadedModel) -> None:
    cpu = torch.device("cpu")
    assert choose_room(loaded.config, cpu, torch.float32, 8 << 30).calls == MOST_CALLS_ON_CPU
    assert choose_room(loaded.config, cpu, torch.float32, None, calls=12).calls == 12
    sees = VisionLanguageConfig.from_dicts({"architectures": ["MiniCPMV"], "version": "2.6"})
    assert set(session_bytes(sees, 8_192, torch.bfloat16)) == {"language"}
    assert str(choose_room(sees, CUDA, torch.bfloat16, 3 << 30)) == "4 chats of 8,192 tokens"
    assert str(choose_room(sees, CUDA, torch.bfloat16, 600_000_000)) == "1 chat of 8,192 tokens"


def test_an_engine_is_started_with_what_its_control_group_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process's own limit counts, not the machine's memory; not even one call is refused with a sentence."""
    spec = EngineSpec(untrained=True, max_sessions=0, context=0)
    built = load(spec)
    each = sum(session_bytes(built.config, min(8_192, built.config.llm.max_positions), torch.float32).values())
    monkeypatch.setattr(devices, "CGROUP", tmp_path)
    (tmp_path / "memory.current").write_text("0\n")
    (tmp_path / "memory.max").write_text(f"{each * 6}\n")
    room = room_on(spec, built)
    assert (room.calls, room.chats) == (4, 1)
    assert room_on(replace(spec, max_sessions=2), built).calls == 2
    (tmp_path / "memory.max").write_text("1000000\n")
    with pytest.raises(EngineError, match=r"cannot serve: cpu: has 0\.0 GB left"):
        room_on(spec, built)
