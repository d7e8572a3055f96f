"""Sizes from the files, defaults where a key is missing, refusal of what is not this model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint.loader import LoadedModel
from engine.config import OmniConfig
from engine.errors import ConfigError
from tests.engine_inputs.conftest import PUBLIC, GoldenSet

OFFICIAL: dict[str, Any] = {"architectures": ["MiniCPMO"], "tts_config": {"llm_dim": 3584}}


def test_sizes_come_from_the_files(golden: GoldenSet) -> None:
    config = golden.config
    assert (config.llm.hidden_size, config.llm.num_layers, config.llm.head_dim) == (128, 3, 32)
    assert (config.vision.num_layers, config.vision.patches_per_side) == (2, 32)
    assert (config.dvae.hidden, config.dvae.levels, config.vocos.dim) == (32, (5, 5, 5, 5), 48)
    assert (config.tts.audio_bos_token_id, config.tts.condition_length) == (170, 303)


def test_missing_keys_take_the_published_defaults() -> None:
    config = OmniConfig.from_dicts(OFFICIAL)
    assert (config.llm.hidden_size, config.llm.vocab_size, config.resampler_heads) == (3584, 151700, 28)
    assert (config.vision.num_hidden_layers, config.vision.drop_last_layer, config.vision.num_layers) == (27, None, 26)
    assert (config.audio.d_model, config.audio.num_layers, config.audio.head_dim) == (1024, 24, 64)
    assert (config.dvae.n_layer, config.vocos.num_layers, config.image.max_slice_nums) == (12, 8, 9)


def test_own_blocks_override_the_fixed_sizes() -> None:
    blocks = {"dvae_config": {"hidden": 192, "G": 2}, "vocos_config": {"dim": 256}}
    config = OmniConfig.from_dicts(OFFICIAL | blocks)
    assert (config.dvae.hidden, config.dvae.idim, config.vocos.dim) == (192, 512, 256)


def test_speech_may_have_temperatures_of_its_own() -> None:
    assert OmniConfig.from_dicts(OFFICIAL).tts.temperature == (0.1, 0.3, 0.1, 0.3)
    own = {"tts_config": {"llm_dim": 3584, "temperature": [0.5, 1, 0.5, 1]}}
    assert OmniConfig.from_dicts(OFFICIAL | own).tts.temperature == (0.5, 1.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}, "architectures"),
        ({"architectures": ["MiniCPMV"], "model_type": "minicpmv"}, "architectures"),
        ({"model_type": "qwen2"}, "model_type"),
        ({"version": 4.5}, "version"),
        ({"init_tts": False}, "init_tts"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_attention_heads": 27, "head_dim": 128, "num_key_value_heads": 4}, "num_key_value_heads"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling.type"),
        ({"tts_config": {"llm_dim": 2560}}, "tts_config.llm_dim"),
        ({"tts_config": {"llm_dim": 3584, "model_type": "minicpmtts"}}, "tts_config.model_type"),
        ({"tts_config": {"llm_dim": 3584, "temperature": [0.5]}}, "tts_config.temperature"),
        ({"tts_config": {"llm_dim": 3584, "temperature": [0.5, 0.5, 0, 0.5]}}, "tts_config.temperature"),
        ({"tts_config": {"llm_dim": 3584, "temperature": 0.5}}, "tts_config.temperature"),
        ({"audio_config": {"d_model": 512}}, "audio_config.encoder_ffn_dim"),
        ({"vision_config": "siglip"}, "vision_config"),
    ],
)
def test_foreign_or_impossible_configurations_are_refused(change: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        OmniConfig.from_dicts(OFFICIAL | change)
    assert caught.value.key == key
    assert "config.json" in str(caught.value)
    assert caught.value.remedy in str(caught.value)


SIZES = [
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    "head_dim",
    *("vocab_size", "max_position_embeddings", "query_num", "vision_batch_size", "audio_pool_step"),
    *(f"vision_config.{name}" for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "patch_size")),
    *(f"vision_config.{name}" for name in ("num_attention_heads", "num_channels", "image_size")),
    *(f"audio_config.{name}" for name in ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim")),
    *(f"audio_config.{name}" for name in ("num_mel_bins", "max_source_positions")),
    *(f"tts_config.{name}" for name in ("llm_dim", "hidden_size", "intermediate_size", "num_hidden_layers")),
    *(f"tts_config.{name}" for name in ("num_attention_heads", "max_position_embeddings", "vocab_size", "num_vq")),
    *(f"tts_config.{name}" for name in ("num_audio_tokens", "num_text_tokens", "num_mel_bins", "num_spk_embs")),
    "tts_config.top_k",
    *(f"tts_config.streaming_{name}" for name in ("text_chunk_size", "text_reserved_len", "audio_chunk_size")),
    *(f"dvae_config.{name}" for name in ("idim", "hidden", "bn_dim", "n_layer", "vq_dim", "num_mel_bins", "G", "R")),
    *(f"vocos_config.{name}" for name in ("input_channels", "dim", "intermediate_dim", "num_layers", "n_fft")),
    "vocos_config.hop_length",
]  # fmt: skip
PREPROCESSOR_SIZES = (
    *("max_slice_nums", "scale_resolution", "patch_size", "image_feature_size", "feature_size", "sampling_rate"),
    *("hop_length", "n_fft", "chunk_length"),
)


@pytest.mark.parametrize("value", [10_000_000, 10**30])
@pytest.mark.parametrize("key", SIZES)
def test_no_size_may_be_larger_than_any_machine(key: str, value: int) -> None:
    block, _, name = key.rpartition(".")
    change = {block: {**OFFICIAL.get(block, {}), name: value}} if block else {name: value}
    with pytest.raises(ConfigError, match="beyond what any machine holds") as caught:
        OmniConfig.from_dicts(OFFICIAL | change)
    assert caught.value.key == key


@pytest.mark.parametrize("key", PREPROCESSOR_SIZES)
def test_no_size_of_the_preprocessor_either(key: str) -> None:
    with pytest.raises(ConfigError, match="beyond what any machine holds") as caught:
        OmniConfig.from_dicts(OFFICIAL, {key: 10_000_000})
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"dvae_config": {"levels": [10_000] * 4}}, "dvae_config.levels"),
        ({"dvae_config": {"levels": [5, "5"]}}, "dvae_config.levels"),
        ({"dvae_config": {"levels": []}}, "dvae_config.levels"),
        ({"audio_chunk_length": 1e300}, "audio_chunk_length"),
        # Each plausible, all together not:
        ({"num_hidden_layers": 1_500, "intermediate_size": 1_000_000}, "hidden_size"),
        ({"vision_config": {"num_hidden_layers": 1_000, "hidden_size": 64_000}}, "vision_config"),
        ({"dvae_config": {"n_layer": 700, "hidden": 16_000}}, "dvae_config"),
    ],
)
def test_sizes_are_looked_at_together(change: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        OmniConfig.from_dicts(OFFICIAL | change)
    assert caught.value.key == key


def test_parameters_are_known_before_anything_is_built(loaded: LoadedModel) -> None:
    weights = [*loaded.model.parameters(), *loaded.vocos.parameters()]
    assert loaded.config.parameters == pytest.approx(sum(weight.numel() for weight in weights), rel=0.02)
    assert OmniConfig.from_dicts(OFFICIAL).parameters == pytest.approx(8.7e9, rel=0.02)


def test_preprocessor_must_agree_with_the_model() -> None:
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json: image_feature_size: is 32"):
        OmniConfig.from_dicts(OFFICIAL, {"image_feature_size": 32})


@pytest.mark.parametrize("content", ["", "{", '{"architectures": ["MiniCPMO"', "[]", "\x00\x01"])
def test_corrupt_json_names_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        OmniConfig.from_dir(tmp_path)


def test_wrong_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist; give the path"):
        OmniConfig.from_dir(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"config\.json: is missing"):
        OmniConfig.from_dir(tmp_path)
    with pytest.raises(ConfigError, match="is not a directory"):
        OmniConfig.from_dir(PUBLIC / "config.json")


def test_both_files_are_needed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(OFFICIAL))
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json: is missing; download"):
        OmniConfig.from_dir(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert OmniConfig.from_dir(tmp_path).image.scale_resolution == 448
