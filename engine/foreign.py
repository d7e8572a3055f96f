"""Checkpoints of other runtimes: known for what they are, and what to use instead. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

INSTEAD = "use the official checkpoint in safetensors, with quantize=int4 to make it small, or the official int4 one"
METHODS = {
    "awq": "AWQ",
    "exl2": "ExLlamaV2",
    "exl3": "ExLlamaV3",
    "mlx": "MLX",
    "aqlm": "AQLM",
    "hqq": "HQQ",
}
"""Names of quantisations that other programs write, by ``quant_method``."""
SUFFIXES = {".gguf": "GGUF", ".ggml": "GGML", ".onnx": "ONNX", ".mlpackage": "Core ML", ".mnn": "MNN"}


def foreign_format(path: str | Path) -> str | None:
    """Half a sentence on a model file, or a directory of one, that another runtime reads; None for anything else.

    llama.cpp's files are no exception: they hold the language model alone, beside a vision tower in a layout of their
    own, and neither ears nor voice.
    """
    path = Path(path)
    if path.is_file():
        found = SUFFIXES.get(path.suffix.lower())
        return f"is a file of {found}, which is for another runtime" if found else None
    if not path.is_dir():
        return None
    if method := METHODS.get(_method(path / "config.json")):
        return f"holds weights quantised for another runtime, {method}"
    names = [entry.suffix.lower() for entry in path.iterdir()]
    if any(name in (".safetensors", ".bin") for name in names):
        return None
    found = next((SUFFIXES[name] for name in names if name in SUFFIXES), None)
    return f"holds files of {found}, which is for another runtime" if found else None


def _method(config: Path) -> str:
    """Who quantised the weights, where ``config.json`` says so."""
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        method = content.get("quantization_config", {}).get("quant_method")
        return str(method or ("mlx" if isinstance(content.get("quantization"), dict) else ""))
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""  # whoever reads it next says what is wrong with it
