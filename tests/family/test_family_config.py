"""Which model a directory holds, with which sizes; refusal of what is none of them."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.bench.full import FAMILY as OFFICIAL
from engine.config import OmniConfig, VisionLanguageConfig, read_config
from engine.config_language import Generation
from engine.errors import ConfigError
from engine.model.vision_language import VisionLanguageModel
from tests.family.conftest import GENERATIONS, GOLDENS, SETS, copy_set

SHAPES = json.loads(gzip.decompress((GOLDENS / "minicpm-v.state_dict_shapes.json.gz").read_bytes()))
TABLES: dict[Generation, str] = {
    "v-2.6": "MiniCPM-V-2_6 (27 vision layers)",
    "v-2.5": "MiniCPM-Llama3-V-2_5",
    "v-2.0": "MiniCPM-V-2",
}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_full_size_keys_and_shapes_are_the_official_ones(generation: Generation) -> None:
    table = TABLES[generation]
    config = VisionLanguageConfig.from_dicts(OFFICIAL[generation])
    with torch.device("meta"):
        model = VisionLanguageModel(config)
    assert {key: list(weight.shape) for key, weight in model.state_dict().items()} == SHAPES[table]
    assert config.parameters == pytest.approx(sum(math.prod(shape) for shape in SHAPES[table].values()), rel=0.001)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_directory_says_which_model_it_holds(generation: Generation) -> None:
    config = read_config(SETS[generation])
    assert config.generation == generation
    assert not isinstance(config, OmniConfig)
    with pytest.raises(ConfigError, match="neither hears nor speaks"):
        OmniConfig.from_dir(SETS[generation])
    assert isinstance(read_config(GOLDENS / "o26-public"), OmniConfig)


def test_minicpm_has_its_scalings() -> None:
    llm = VisionLanguageConfig.from_dicts(OFFICIAL["v-2.0"]).llm
    assert (llm.embedding_scale, llm.head_divisor) == (12, 9)
    assert llm.residual_scale == pytest.approx(0.22136, abs=1e-5)
    assert not llm.qkv_bias


def test_slices_are_limited_where_the_published_code_looks() -> None:
    def limit(generation: Generation, config: dict[str, Any], pre: dict[str, Any]) -> int:
        return VisionLanguageConfig.from_dicts(OFFICIAL[generation] | config, pre).image.max_slice_nums

    assert limit("v-2.6", {}, {"max_slice_nums": 4}) == 4
    assert limit("v-2.5", {}, {"max_slice_nums": 4}) == 1  # no slice_config: never cut
    assert limit("v-2.5", {"slice_config": {"max_slice_nums": 6}}, {"max_slice_nums": 4}) == 6
    assert limit("v-2.0", {"max_slice_nums": 6}, {"max_slice_nums": 4}) == 6


@pytest.mark.parametrize(
    ("generation", "change", "key"),
    [
        ("v-2.6", {"version": 4.5}, "version"),
        ("v-2.6", {"architectures": ["MiniCPMForCausalLM"]}, "architectures"),
        ("v-2.6", {"model_type": "minicpmo"}, "model_type"),
        ("v-2.6", {"num_key_value_heads": 3}, "num_key_value_heads"),
        ("v-2.6", {"hidden_size": 3590, "head_dim": 128}, "hidden_size"),
        ("v-2.5", {"attention_bias": True}, "attention_bias"),
        ("v-2.5", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.type"),
        ("v-2.5", {"vision_config": {"model_type": "clip"}}, "vision_config.model_type"),
        ("v-2.5", {"query_num": 10**9}, "query_num"),
        ("v-2.0", {"vision_encoder": "eva02_enormous_patch14"}, "vision_encoder"),
        ("v-2.0", {"slice_mode": False}, "slice_mode"),
        ("v-2.0", {"dim_model_base": 0}, "dim_model_base"),
        ("v-2.0", {"scale_emb": "large"}, "scale_emb"),
    ],
)
def test_foreign_or_impossible_configurations_are_refused(
    generation: Generation, change: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        VisionLanguageConfig.from_dicts(OFFICIAL[generation] | change)
    assert caught.value.key == key
    assert caught.value.remedy in str(caught.value)


def test_two_files_that_disagree_are_refused() -> None:
    config = OFFICIAL["v-2.6"] | {"slice_config": {"max_slice_nums": 9}}
    with pytest.raises(ConfigError, match=r"max_slice_nums: is 4, but config\.json says 9"):
        VisionLanguageConfig.from_dicts(config, {"max_slice_nums": 4})
    with pytest.raises(ConfigError, match=r"image_feature_size: is 64, but query_num in config\.json is 96"):
        VisionLanguageConfig.from_dicts(OFFICIAL["v-2.5"], {"image_feature_size": 64})


def test_the_first_checkpoints_came_without_a_preprocessor(tmp_path: Path) -> None:
    for generation in ("v-2.5", "v-2.0"):
        folder = copy_set(generation, tmp_path / generation)
        (folder / "preprocessor_config.json").unlink()
        assert read_config(folder) == read_config(SETS[generation])
    folder = copy_set("v-2.6", tmp_path / "v-2.6")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json: is missing"):
        read_config(folder)
