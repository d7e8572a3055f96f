"""The model at its official size with random weights, made where it runs: speed does not ask what the weights say."""

from __future__ import annotations

from typing import Any

import torch

from engine.checkpoint.loader import LoadedModel, build_untrained, count, store_for_steps
from engine.checkpoint.quantize import Quantizer
from engine.config import OmniConfig
from engine.config_language import Generation
from engine.model.omni import OmniModel
from engine.model.vocos import Vocos
from engine.serving.live_engine import MINI

OFFICIAL: dict[str, Any] = {
    "model_type": "minicpmo", "version": "2.6", "vocab_size": 151_700, "drop_vision_last_layer": False,
    "chunk_input": True, "slice_config": {"max_slice_nums": 9, "patch_size": 14, "scale_resolution": 448},
    "vision_config": {}, "audio_config": {}, "tts_config": {"llm_dim": 3584},
}  # fmt: skip
"""What differs from the sizes that :mod:`engine.config` takes for granted."""

SEES = {"architectures": ["MiniCPMV"], "model_type": "minicpmv"}
FAMILY: dict[Generation, dict[str, Any]] = {
    "o-2.6": OFFICIAL,
    "v-2.6": SEES | {"version": 2.6, "drop_vision_last_layer": False},
    "v-2.5": SEES | {"version": "2.5", "drop_vision_last_layer": False},
    "v-2.0": SEES | {"vision_encoder": "vit_so400m_patch14_siglip_384.webli", "drop_vision_last_layer": True},
}
"""The same of every model of the family."""


def random_model(device: torch.device, config: OmniConfig | None = None, quantize: str = "none") -> LoadedModel:
    """Random weights, bfloat16 on an accelerator. Without a ``config`` of the official size. The tokenizers are mini's:
    their ids are ids of the big model too. Raises LoadError where the device has nothing for ``quantize``."""
    small = build_untrained(MINI, device="cpu")
    config = config or OmniConfig.from_dicts(OFFICIAL)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    with torch.device("meta"):
        model, vocos = OmniModel(config), Vocos(config.vocos)
    model, vocos = model.to(dtype).to_empty(device=device), vocos.to_empty(device=device)
    with torch.no_grad():
        for module in (model, vocos):
            for name, weight in module.named_parameters():
                weight.fill_(1.0) if "norm" in name and name.endswith("weight") else weight.normal_(0, 0.02)
    model, vocos = model.requires_grad_(False).eval(), vocos.requires_grad_(False).eval()
    parameters = count(model, vocos)
    if quantize != "none":
        quantizer = Quantizer(quantize, device, dtype)
        for key in [key for key, _ in model.named_parameters() if quantizer.covers(key)]:
            quantizer(model, key)
    store_for_steps(model)
    return LoadedModel(
        model, small.tokenizer, config, False, parameters, vocos=vocos, tts_tokenizer=small.tts_tokenizer
    )
