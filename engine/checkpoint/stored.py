"""Weights that are stored quantised, as the official int4 checkpoints are, → weights.

A layer's matrix lies in several tensors. What the model knows as ``X.weight`` is:

* GPTQ (arXiv 2210.17323, AutoGPTQ's layout): ``X.qweight`` int32 [inputs * bits / 32, outputs] and ``X.qzeros`` int32
  [groups, outputs * bits / 32], the lowest bits first along their packed side; ``X.scales`` [groups, outputs];
  ``X.g_idx`` int32 [inputs], the group of each input. Zeros are stored less one, but in the format ``gptq_v2``.
* bitsandbytes nf4 (arXiv 2305.14314, double quantisation): ``X.weight`` uint8 [outputs * inputs / 2, 1], the first of
  two numbers in the high half; ``X.weight.absmax``, the scale of every block, itself eight bits: an index into
  ``.nested_quant_map`` float32 [256], times ``.nested_absmax`` of its block, plus an offset; ``.quant_map`` float32
  [16]; and ``.quant_state.bitsandbytes__nf4`` (or ``fp4``), a JSON object in bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.checkpoint.weights import AGAIN, Shard, TensorHeader
from engine.config import CONFIG_FILE
from engine.config_reader import Reader, read_json
from engine.errors import CheckpointError, ConfigError
from engine.foreign import INSTEAD, METHODS
from engine.model.int4 import KERNEL_GROUPS, GroupedWeight

GPTQ_FILE = "quantize_config.json"
"""What AutoGPTQ writes beside ``config.json``."""
PACKED, ZEROS, SCALES, GROUP_OF, BIAS = "qweight", "qzeros", "scales", "g_idx", "bias"
NF4_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
NF4_STATES = ("quant_state.bitsandbytes__nf4", "quant_state.bitsandbytes__fp4")
INTEGERS = {"I32": torch.int32, "I64": torch.int64, "U8": torch.uint8}
INTEGERS |= {str(kind).removeprefix("torch."): kind for kind in INTEGERS.values()}

Stored = Tensor | GroupedWeight
"""A weight as floating-point numbers, or in groups of four bits."""


class StoredFormat(Protocol):
    """How a checkpoint's quantised weights are stored."""

    @property
    def keeps_groups(self) -> bool:
        """Its integers can be multiplied as they are."""
        ...

    def split(self, key: str) -> tuple[str, str] | None:
        """The parameter that a stored tensor belongs to, and which part of it it is; None for a plain tensor."""
        ...

    def shape(self, parts: Mapping[str, TensorHeader], wanted: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape of a parameter that is stored in these parts, where the model has ``wanted``; None where parts
        are missing or do not fit each other."""
        ...

    def restore(self, key: str, parts: Mapping[str, Tensor]) -> Stored:
        """The parameter. Raises ValueError for parts that make no sense."""
        ...


def stored_format(directory: Path, quantization: Mapping[str, Any] | None) -> StoredFormat | None:
    """How the weights of a directory are stored: from the ``quantization`` of config.json, or AutoGPTQ's own file.
    None: as plain numbers. Raises ConfigError for a way that is not understood."""
    path, settings = directory / CONFIG_FILE, quantization
    if settings is None and (directory / GPTQ_FILE).is_file():
        path = directory / GPTQ_FILE
        settings = {"quant_method": "gptq", **read_json(path)}
    if settings is None:
        return None
    method = settings.get("quant_method")
    if method == "gptq":
        return Gptq.read(Reader(dict(settings), path))
    if method == "bitsandbytes" and settings.get("load_in_4bit"):
        return Nf4()
    how = METHODS.get(str(method), method or "an unknown method")
    problem = f"says that the weights are stored quantised with {how}, which is not understood"
    raise ConfigError(path, problem, INSTEAD, key="quantization_config")


@dataclass(frozen=True, slots=True)
class Gptq:
    """AutoGPTQ's layout."""

    bits: int
    zero_less: int
    """What is to be added to the zeros that are stored."""
    group: int = 128
    """Inputs that share a scale; -1: all."""

    @classmethod
    def read(cls, settings: Reader) -> Gptq:
        """Raises ConfigError."""
        bits = settings.positive("bits", 4)
        if bits not in (2, 4, 8):
            raise settings.error("bits", f"is {bits}; GPTQ with 2, 4 or 8 bits is understood", INSTEAD)
        less = 0 if settings.get("checkpoint_format", "gptq") == "gptq_v2" else 1
        return cls(bits, less, settings.get("group_size", 128))

    @property
    def keeps_groups(self) -> bool:
        return self.bits <= 4 and self.group in KERNEL_GROUPS

    def split(self, key: str) -> tuple[str, str] | None:
        base, _, part = key.rpartition(".")
        return (f"{base}.weight", part) if part in (PACKED, ZEROS, SCALES, GROUP_OF) else None

    def shape(self, parts: Mapping[str, TensorHeader], wanted: tuple[int, ...]) -> tuple[int, ...] | None:
        if not {PACKED, ZEROS, SCALES} <= parts.keys():
            return None
        per_word = 32 // self.bits
        (words, outputs), (groups, scaled) = parts[PACKED].shape, parts[SCALES].shape
        inputs = words * per_word
        fits = scaled == outputs and parts[ZEROS].shape == (groups, outputs // per_word)
        fits = fits and (GROUP_OF in parts or inputs % groups == 0)
        return (outputs, inputs) if fits and parts.get(GROUP_OF, parts[PACKED]).shape[0] in (inputs, words) else None

    def restore(self, key: str, parts: Mapping[str, Tensor]) -> Stored:
        whole = self._unpack(parts[PACKED].t()).contiguous()
        zeros = self._unpack(parts[ZEROS]).float() + self.zero_less
        groups, inputs = len(zeros), whole.shape[1]
        group_of = parts.get(GROUP_OF)
        if group_of is None:
            group_of = torch.arange(inputs, device=whole.device) // (inputs // groups)
        if not bool(((group_of >= 0) & (group_of < groups)).all()):
            raise ValueError(f"names a group that is not among its {groups}")
        return GroupedWeight(whole, parts[SCALES], zeros, group_of.long())

    def _unpack(self, words: Tensor) -> Tensor:
        """int32 [rows, words] -> uint8 [rows, words * 32 / bits]."""
        shifts = torch.arange(0, 32, self.bits, device=words.device, dtype=torch.int32)
        numbers: Tensor = (words[..., None] >> shifts) & (2**self.bits - 1)
        return numbers.to(torch.uint8).flatten(1)


@dataclass(frozen=True, slots=True)
class Nf4:
    """bitsandbytes' four bits."""

    keeps_groups: bool = False

    def split(self, key: str) -> tuple[str, str] | None:
        for part in (*NF4_PARTS, *NF4_STATES):
            if key.endswith(f".{part}"):
                return key.removesuffix(f".{part}"), part
        return None

    def shape(self, parts: Mapping[str, TensorHeader], wanted: tuple[int, ...]) -> tuple[int, ...] | None:
        state = any(name in parts for name in NF4_STATES)
        if not state or not {"absmax", "quant_map"} <= parts.keys() or "" not in parts:
            return None
        return wanted if 2 * parts[""].elements == prod(wanted) else (2 * parts[""].elements,)

    def restore(self, key: str, parts: Mapping[str, Tensor]) -> Stored:
        state = json.loads(bytes(next(parts[name] for name in NF4_STATES if name in parts).tolist()))
        codes, size = parts[""].flatten(), int(state["blocksize"])
        scales = parts["absmax"]
        if "nested_absmax" in parts:
            coarse = parts["nested_absmax"].repeat_interleave(int(state["nested_blocksize"]))[: len(scales)]
            scales = parts["nested_quant_map"][scales.long()] * coarse + float(state["nested_offset"])
        numbers = torch.stack([codes >> 4, codes & 15], -1).flatten()
        weight: Tensor = parts["quant_map"][numbers.long()]
        weight *= scales.float().repeat_interleave(size)[: len(weight)]
        out: Tensor = weight.view(*map(int, state["shape"]))
        return out


class StoredReader:
    """Puts the parts of stored weights together, which may lie in several files."""

    def __init__(self, form: StoredFormat, shards: list[Shard], expected: Mapping[str, torch.Size]) -> None:
        """``expected`` are the model's parameters."""
        self._form, self._expected = form, expected
        self._places: dict[str, tuple[str, str]] = {}
        """The parameter and the part that a tensor of the files is."""
        self._headers: dict[str, dict[str, TensorHeader]] = {}
        self._held: dict[str, dict[str, Tensor]] = {}
        headers = {key: header for shard in shards for key, header in shard.tensors.items()}
        for key in headers:
            if (place := form.split(key)) is not None:
                self._places[key] = place
        for base, _ in list(self._places.values()):
            if base in headers:  # whose own tensor is one of the parts
                self._places[base] = base, ""
        for key, (base, part) in self._places.items():
            self._headers.setdefault(base, {})[part] = headers[key]
        self._surplus = {f"{base.removesuffix('weight')}{BIAS}" for base in self._headers} - expected.keys()
        """Biases of zeros, which some versions of AutoGPTQ give to layers without any."""

    def plain(self, shards: list[Shard]) -> list[Shard]:
        """The files as if their weights were plain numbers, to be compared with a model. Raises CheckpointError."""
        seen: set[str] = set()
        found = []
        for shard in shards:
            tensors: dict[str, TensorHeader] = {}
            for key, header in shard.tensors.items():
                base = self._places.get(key, (key, ""))[0]
                if key in self._surplus or base in seen:
                    continue
                if key in self._places:
                    seen.add(base)
                    header = self._as_plain(shard.path, base)
                tensors[base] = header
            found.append(replace(shard, tensors=tensors))
        return found

    def _as_plain(self, path: Path, base: str) -> TensorHeader:
        parts = self._headers[base]
        shape = self._form.shape(parts, tuple(self._expected.get(base, ())))
        if shape is None:
            known = ", ".join(part or "weight" for part in parts)
            problem = f"is quantised, and its parts ({known}) are not all there or do not fit each other"
            raise CheckpointError(path, problem, AGAIN, key=base)
        return TensorHeader("F16", shape, 0, 0)

    def kind(self, key: str) -> tuple[str, torch.dtype | None]:
        """The parameter that a tensor of the files is for, and the type in which it is needed; None: the model's."""
        if key not in self._places:
            return key, torch.float32 if key in self._surplus else None
        base, part = self._places[key]
        return base, INTEGERS.get(self._headers[base][part].dtype, torch.float32)

    def take(self, path: Path, key: str, tensor: Tensor) -> tuple[str, Stored] | None:
        """Take a tensor of the files; a parameter once it is complete. Raises CheckpointError."""
        if key in self._surplus:
            if bool(tensor.any()):
                raise CheckpointError(path, "is a bias where the model has none", AGAIN, key=key)
            return None
        if key not in self._places:
            return key, tensor
        base, part = self._places[key]
        held = self._held.setdefault(base, {})
        held[part] = tensor
        if len(held) < len(self._headers[base]):
            return None
        try:
            weight = self._form.restore(base, self._held.pop(base))
        except (ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
            raise CheckpointError(path, f"cannot be put together ({error})", AGAIN, key=base) from error
        if isinstance(weight, Tensor) and weight.shape != self._expected[base]:
            problem = f"says that it has the size {list(weight.shape)}, not {list(self._expected[base])}"
            raise CheckpointError(path, problem, AGAIN, key=base)
        return base, weight
