"""Beam search against transformers' own, on the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from engine.chat.beam import beam_search
from engine.chat.offline import Chat, ChatAnswer, chat
from engine.checkpoint.loader import LoadedModel


@pytest.fixture(scope="module")
def reference(loaded: LoadedModel) -> Any:
    sizes = loaded.config.llm
    model = Qwen2ForCausalLM(
        Qwen2Config(
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.intermediate_size,
            num_hidden_layers=sizes.num_layers,
            num_attention_heads=sizes.num_heads,
            num_key_value_heads=sizes.num_kv_heads,
            vocab_size=sizes.vocab_size,
            rms_norm_eps=sizes.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_theta},
            tie_word_embeddings=False,
        )
    )
    model.load_state_dict(loaded.model.llm.state_dict())
    return model.eval()


@torch.inference_mode()
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("beams", "penalty", "max_new", "min_new"), [(3, 1.2, 12, 0), (2, 1.0, 9, 4), (4, 1.5, 5, 0)])
def test_equals_transformers(
    loaded: LoadedModel, reference: Any, seed: int, beams: int, penalty: float, max_new: int, min_new: int
) -> None:
    llm = loaded.model.llm
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(1, 7, loaded.config.llm.hidden_size, generator=generator)
    # Tokens that end an answer often enough for both ends of the search to be seen.
    stop_ids = (71, 36, 88)
    expected = reference.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(1, 7, dtype=torch.int64),
        num_beams=beams,
        do_sample=False,
        repetition_penalty=penalty,
        max_new_tokens=max_new,
        min_new_tokens=min_new,
        eos_token_id=list(stop_ids),
        pad_token_id=0,
    )[0].tolist()
    arena = llm.model.arena(slots=beams, capacity=64)
    slots = [arena.allocate() for _ in range(beams)]
    states = llm(embeds, cache=arena.place(slots[:1], [0], [7]))
    found = beam_search(
        llm, arena, slots, 7, states[0, -1], stop_ids=stop_ids, max_new=max_new, min_new=min_new, penalty=penalty
    )
    assert found == expected[: len(found)]
    assert set(expected[len(found) :]) <= {0}


def test_chat_searches_with_beams(talker: Chat) -> None:
    messages = [{"role": "user", "content": "hello"}]
    first, again = (
        chat(talker, messages, sampling=False, max_new_tokens=8, return_dict=True, seed=seed) for seed in (0, 1)
    )
    assert isinstance(first, ChatAnswer)
    assert isinstance(again, ChatAnswer)
    assert first.ids == again.ids
    assert len(first.states) == len(first.embeds)
    assert 0 < len(first.ids) <= 8
