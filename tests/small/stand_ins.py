"""Tiny stand-ins for what small is assembled from: wheels with data, and a Whisper as CTranslate2 stores it."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def write_wheel(folder: Path, package: str, files: Mapping[str, bytes]) -> Path:
    """A wheel of version 1.0 with ``files`` in it."""
    name = package.replace("-", "_")
    wheel, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        for member, data in files.items():
            archive.writestr(member, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def packed(*variables: tuple[str, Any]) -> bytes:
    """A CTranslate2 file of Whisper's kind."""

    def text(word: str) -> bytes:
        return struct.pack("<H", len(word) + 1) + word.encode() + b"\0"

    out = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, array in variables:
        kind = {"float32": 0, "int8": 1, "float16": 4}[str(array.dtype)]
        sizes = struct.pack(f"<{array.ndim}I", *array.shape)
        out += text(name) + struct.pack("<B", array.ndim) + sizes + struct.pack("<BI", kind, array.nbytes)
        out += array.tobytes()
    return out + struct.pack("<I", 0)


def whisper_variables(state: Mapping[str, Tensor]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The weights of a WhisperModel of transformers, under CTranslate2's names and fused as it fuses them."""
    arrays = {key: tensor.detach().numpy() for key, tensor in state.items()}
    for key, array in arrays.items():
        stack, _, rest = key.partition(".")
        layer = ""
        if rest.startswith("layers."):
            _, number, rest = rest.split(".", 2)
            layer = f"layer_{number}/"
        module, _, kind = rest.rpartition(".")
        if module in ("embed_tokens", "embed_positions"):
            name = "embeddings/weight" if module == "embed_tokens" else "position_encodings/encodings"
        elif "layer_norm" in module:
            places = {
                "self_attn_layer_norm": "self_attention/layer_norm", "encoder_attn_layer_norm": "attention/layer_norm",
                "final_layer_norm": "ffn/layer_norm",
            }  # fmt: skip
            name = f"{places.get(module, module)}/{'gamma' if kind == 'weight' else 'beta'}"
        elif module.startswith("conv"):
            name = f"{module}/{kind}"
        else:
            place = _linear(module)
            if place is None:  # fused with its first
                continue
            name = f"{place[0]}/{kind}"
            base = key.removesuffix(f"{module}.{kind}")
            parts = [arrays.get(f"{base}{part}.{kind}") for part in place[1]]
            first = next(part for part in parts if part is not None)
            array = np.concatenate([np.zeros_like(first) if part is None else part for part in parts])
        yield f"{stack}/{layer}{name}", array


def _linear(module: str) -> tuple[str, list[str]] | None:
    """CTranslate2's name for a linear layer, and the layers that are fused in it; None for any but its first."""
    places = {
        "self_attn.q_proj": ("self_attention/linear_0", [f"self_attn.{part}_proj" for part in "qkv"]),
        "self_attn.out_proj": ("self_attention/linear_1", [module]),
        "encoder_attn.q_proj": ("attention/linear_0", [module]),
        "encoder_attn.v_proj": ("attention/linear_1", [f"encoder_attn.{part}_proj" for part in "kv"]),
        "encoder_attn.out_proj": ("attention/linear_2", [module]),
        "fc1": ("ffn/linear_0", [module]),
        "fc2": ("ffn/linear_1", [module]),
    }
    return places.get(module)
