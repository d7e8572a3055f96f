"""At full official size every key and shape is the checkpoint's own."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from engine.config import OmniConfig
from engine.model.omni import OmniModel
from engine.model.vocos import Vocos
from tests.engine_inputs.conftest import GOLDENS

TABLE = json.loads(gzip.decompress((GOLDENS / "state_dict_shapes.json.gz").read_bytes()))


@pytest.mark.parametrize("drop", [True, False])
def test_full_size_keys_and_shapes(drop: bool) -> None:
    config = OmniConfig.from_dicts(
        {"architectures": ["MiniCPMO"], "drop_vision_last_layer": drop, "tts_config": {"llm_dim": 3584}}
    )
    with torch.device("meta"):
        model = OmniModel(config)
    wanted = dict(TABLE["checkpoint"])
    if not drop:
        last = "vpm.encoder.layers.25."
        wanted |= {key.replace(last, "vpm.encoder.layers.26."): s for key, s in wanted.items() if key.startswith(last)}
    assert {key: list(weight.shape) for key, weight in model.state_dict().items()} == wanted


def test_full_size_vocoder() -> None:
    config = OmniConfig.from_dicts({"architectures": ["MiniCPMO"], "tts_config": {"llm_dim": 3584}})
    with torch.device("meta"):
        vocos = Vocos(config.vocos)
    constants = ("feature_extractor.", "head.istft.")
    wanted = {key: shape for key, shape in TABLE["Vocos.pt"].items() if not key.startswith(constants)}
    assert {key: list(weight.shape) for key, weight in vocos.state_dict().items()} == wanted
