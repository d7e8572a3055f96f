"""The modules against transformers' own with the same weights, at sizes unlike those of the golden set."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from engine.config import OmniConfig
from engine.model.audio import AudioEncoder
from engine.model.kv import KVArena
from engine.model.llm import LanguageModel
from engine.model.tts import ConditionalChatTTS
from engine.model.vision import SiglipVisionTower, bucket_positions
from tests.engine_inputs.conftest import PUBLIC, assert_close

SIZES: list[dict[str, Any]] = [
    {  # grouped queries with a head size of its own, tied tables, one layer
        "hidden_size": 96, "intermediate_size": 72, "num_hidden_layers": 1, "num_attention_heads": 6,
        "num_key_value_heads": 3, "head_dim": 24, "rope_theta": 1e4, "vocab_size": 368, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    },
    {  # one key/value head for all, deeper, wider
        "hidden_size": 256, "intermediate_size": 300, "num_hidden_layers": 5, "num_attention_heads": 8,
        "num_key_value_heads": 1, "rope_theta": 5e5, "vocab_size": 400,
    },
    {  # no sharing at all
        "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "vocab_size": 368,
    },
]  # fmt: skip


def config_with(**changes: Any) -> OmniConfig:
    public = json.loads((PUBLIC / "config.json").read_text())
    for name, value in changes.items():
        public[name] = public[name] | value if isinstance(value, dict) else value
    return OmniConfig.from_dicts(public)


def shaken(module: nn.Module, seed: int = 0) -> Any:
    """Weights of which none is a neutral one or zero."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn_like(weight) * (0.3 if weight.dim() == 1 else weight[0].numel() ** -0.5))
    return module.eval()


def stored(arena: KVArena, model: Any, embeds: Tensor, cuts: list[int]) -> Tensor:
    """States of a row fed piece by piece through a key/value storage."""
    slot, start, states = arena.allocate(), 0, []
    for piece in embeds.split(cuts, 1):
        cache = arena.place([slot], [start], [piece.shape[1]])
        states.append(model(piece, cache=cache))
        start += piece.shape[1]
    return torch.cat(states, 1)


@torch.no_grad()
@pytest.mark.parametrize("sizes", SIZES)
def test_the_language_model_is_qwen2(sizes: dict[str, Any]) -> None:
    config = config_with(**sizes, tts_config={"llm_dim": sizes["hidden_size"]}).llm
    ours = shaken(LanguageModel(config))
    plain = {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "attn_implementation": "eager"}
    theirs = Qwen2ForCausalLM(Qwen2Config(**plain | sizes)).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ids = torch.randint(0, config.vocab_size, (1, 40))
    expected = theirs(ids).logits
    assert_close(ours.logits(ours(ours.embed(ids))), expected)
    states = stored(ours.model.arena(capacity=40), ours, ours.embed(ids), [17, 1, 1, 21])
    assert_close(ours.logits(states), expected)


@torch.no_grad()
@pytest.mark.parametrize(("hidden", "heads", "layers"), [(96, 3, 1), (128, 16, 4), (48, 1, 2)])
def test_the_speech_model_is_a_llama(hidden: int, heads: int, layers: int) -> None:
    sizes = {"hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": layers, "intermediate_size": 56}
    config = config_with(tts_config=sizes)
    ours = shaken(ConditionalChatTTS(config.tts, config.dvae))
    theirs = LlamaModel(
        LlamaConfig(**sizes, vocab_size=config.tts.vocab_size, rms_norm_eps=1e-6, rope_theta=1e4)
    ).eval()
    theirs.load_state_dict(ours.model.state_dict(), strict=True)
    embeds = torch.randn(1, 30, hidden)
    cache = DynamicCache()
    expected = [theirs(inputs_embeds=part, past_key_values=cache)[0] for part in embeds.split([22, 8], 1)]
    assert_close(stored(ours.model.arena(capacity=30), ours, embeds, [9, 20, 1]), torch.cat(expected, 1))


@torch.no_grad()
@pytest.mark.parametrize(("layers", "dropped"), [(3, True), (2, False)])
@pytest.mark.parametrize(("width", "heads", "grid"), [(72, 2, 8), (60, 5, 6)])
def test_the_vision_tower_is_siglip(layers: int, dropped: bool, width: int, heads: int, grid: int) -> None:
    sizes = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 50, "num_hidden_layers": layers,
             "image_size": 14 * grid}  # fmt: skip
    config = config_with(vision_config=sizes, drop_vision_last_layer=dropped).vision
    ours = shaken(SiglipVisionTower(config))
    assert len(ours.encoder.layers) == layers - dropped
    assert bucket_positions(grid, grid).tolist() == list(range(grid)), "a grid without rounding, as in SigLIP itself"
    theirs = SiglipVisionModel(
        SiglipVisionConfig(**sizes | {"num_hidden_layers": layers - dropped}, patch_size=14, vision_use_head=False)
    ).eval()
    prefix = next(iter(theirs.state_dict())).partition("embeddings")[0]
    theirs.load_state_dict({prefix + key: value for key, value in ours.state_dict().items()}, strict=True)
    pixels = torch.randn(2, 3, 14 * grid, 14 * grid)
    patches = nn.functional.unfold(pixels, 14, stride=14).transpose(1, 2)
    assert_close(ours(patches, [(grid, grid)] * 2), theirs(pixels).last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize(("width", "heads", "layers", "positions"), [(48, 3, 1, 1500), (96, 8, 3, 200)])
def test_the_ears_are_whisper(width: int, heads: int, layers: int, positions: int) -> None:
    sizes = {"d_model": width, "encoder_attention_heads": heads, "encoder_layers": layers, "encoder_ffn_dim": 4 * width,
             "max_source_positions": positions}  # fmt: skip
    config = config_with(audio_config=sizes).audio
    ours = shaken(AudioEncoder(config))
    theirs = WhisperEncoder(WhisperConfig(**sizes)).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    mel = torch.randn(1, 80, 2 * positions)
    assert_close(ours(mel, [2 * positions], chunk_length=-1), theirs(mel).last_hidden_state)


@torch.no_grad()
def test_rows_of_a_batch_keep_their_places_when_the_table_of_angles_is_shared() -> None:
    """A short row far into its sequence beside a long one at its start."""
    config = replace(config_with(**SIZES[2]).llm, num_layers=1)
    model = shaken(LanguageModel(config))
    arena = model.model.arena(slots=2, capacity=80)
    embeds = torch.randn(2, 64, 128)
    whole = model(embeds)
    arena.allocate(), arena.allocate()
    model(embeds[:1, :60], cache=arena.place([0], [0], [60]))
    batch = torch.stack([nn.functional.pad(embeds[0, 60:], (0, 0, 0, 60)), embeds[1]])
    together = model(batch, cache=arena.place([0, 1], [60, 0], [4, 64]))
    assert_close(together[0, :4], whole[0, 60:])
    assert_close(together[1], whole[1])
