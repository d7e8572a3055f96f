"""Small's eyes: mini's, with mini's language model to say what they see, as a MiniCPM-V 2.6 checkpoint in a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from engine.config_reader import read_json
from engine.processing.prompts import IM_END, IM_START, SPEECH_PROMPT, TTS_EOS, UNIT, closed_turn, get_sys_prompt
from engine.serving.live_engine import MINI
from engine.small.shards import Planned, planned, write_shard

PARTS = ("llm.", "vpm.", "resampler.")
NO_PART = ("audio_", "tts_", "dvae_", "vocos_", "init_", "chunk_input", "stream_input", "listen_speak_type", "tells_",
           "typed_as_heard")  # fmt: skip
"""Beginnings of keys in mini's configuration that a model without ears and voice has no use for."""
FILES = ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")


def naming_config() -> dict[str, Any]:
    """The block ``naming_config``: mini is asked as at the beginning of a call."""
    opening = "".join(map(str, closed_turn("user", get_sys_prompt(mode="omni", language="en").content)))
    return {
        "folder": "naming",
        "before": f"{opening}{IM_START}user\n{UNIT}",
        "after": f" what do you see{IM_END}\n{SPEECH_PROMPT}",
        "begins": "I see ",
        "ends": f".{TTS_EOS}",
        "nothing": "nothing that I know",
        "least_log_probability": -0.25,
        "told": "(The camera shows {}.)\n",
        "unclear": "(The camera picture is unclear.)\n",
    }


def naming_tensors() -> list[Planned]:
    """Mini's tower, resampler and language model."""
    with safe_open(MINI / "model.safetensors", framework="pt", device="cpu") as file:
        return [planned(key, file.get_tensor(key)) for key in file.keys() if key.startswith(PARTS)]  # noqa: SIM118


def write_naming(folder: Path, tensors: Sequence[Planned], told: Callable[[int], object]) -> None:
    """Write the new folder with its ``tensors``; ``told`` hears of every number of their bytes that was written."""
    folder.mkdir()
    config = {key: value for key, value in read_json(MINI / "config.json").items() if not key.startswith(NO_PART)}
    config |= {"architectures": ["MiniCPMV"], "model_type": "minicpmv", "version": "2.6"}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    for name in FILES:
        shutil.copyfile(MINI / name, folder / name)
    write_shard(folder / "model.safetensors", tensors, told)
