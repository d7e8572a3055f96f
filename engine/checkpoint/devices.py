"""Where a model lives: one device, or the language model's layers spread over several."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import LoadError
from engine.model.kv import KVBatch, KVLayout, KVRows
from engine.model.kv_steps import KVSteps

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CGROUP = Path("/sys/fs/cgroup")
HEADROOM = 0.85
"""Share of a device's free memory that weights may take; caches and activations need the rest."""


def resolve_devices(device: str) -> list[torch.device]:
    """``auto``, ``cpu``, ``mps``, ``cuda``, ``cuda:1`` or a list such as ``cuda:0,cuda:1``. Raises LoadError.

    ``auto`` is the first of CUDA, MPS and the CPU that is there; ``cuda`` without a number may use every card.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device == "cuda" and torch.cuda.device_count() > 1:
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    try:
        devices = [torch.device(name.strip()) for name in device.split(",")]
    except RuntimeError as error:
        raise LoadError(device, "is not a device", "use auto, cpu, mps, cuda, cuda:N or cuda:0,cuda:1") from error
    devices = [torch.device("cuda", entry.index or 0) if entry.type == "cuda" else entry for entry in devices]
    for entry in devices:
        if entry.type == "cuda" and entry.index >= torch.cuda.device_count():
            problem = f"is not there: torch sees {torch.cuda.device_count()} CUDA devices"
            raise LoadError(str(entry), problem, "use device=cpu, or install a driver and a CUDA build of torch")
        if entry.type == "mps" and not torch.backends.mps.is_available():
            raise LoadError("mps", "is not available on this machine", "use device=cpu")
    return devices


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """``auto`` (bfloat16 on an accelerator that has it, float32 on the CPU) or a name. Raises LoadError."""
    if dtype != "auto":
        if dtype not in DTYPES:
            raise LoadError(dtype, "is not a supported dtype", f"use auto, {', '.join(DTYPES)}")
        return DTYPES[dtype]
    if device.type == "cpu":
        return torch.float32
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be had on a device: CUDA's own count; on the CPU what Linux can give, within the limit of this
    control group (cgroup v2). None where the question has no answer."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None
    try:
        limit, used = (int((CGROUP / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no control group, or "max": no limit
        return available
    return max(0, min(available, limit - used))


@dataclass(frozen=True, slots=True)
class DeviceMap:
    """The home of everything but some of the language model's layers, and the device of each layer."""

    home: torch.device
    layers: tuple[torch.device, ...]

    def device_of(self, key: str) -> torch.device:
        """Device of the parameter ``key``."""
        if key.startswith("llm.model.layers."):
            return self.layers[int(key.split(".", 4)[3])]
        return self.home

    @property
    def is_spread(self) -> bool:
        return any(device != self.home for device in self.layers)


def plan_devices(
    devices: list[torch.device], free: list[int | None], layer_bytes: list[int], other_bytes: int
) -> DeviceMap:
    """Use one device if all fits there, else give each device a run of layers in proportion to its free memory.

    ``free`` are bytes per device (None: unknown, taken as enough). Raises LoadError when all together are too small.
    """
    home = devices[0]
    total = other_bytes + sum(layer_bytes)
    if len(devices) == 1 and free[0] is not None and total > free[0] * HEADROOM:
        problem = f"has {free[0] / 1e9:.1f} GB free where the weights take {total / 1e9:.1f} GB"
        remedy = "use dtype=bfloat16, quantize=int8 or int4, or several devices (cuda:0,cuda:1)"
        raise LoadError(str(home), problem, remedy)
    if len(devices) == 1 or free[0] is None or total <= free[0] * HEADROOM:
        return DeviceMap(home, (home,) * len(layer_bytes))
    room = [(total if size is None else size) * HEADROOM for size in free]
    room[0] -= other_bytes
    if room[0] < 0 or sum(room) < sum(layer_bytes):
        problem = f"have room for {(sum(room) + other_bytes) / 1e9:.1f} GB of {total / 1e9:.1f} GB of weights"
        raise LoadError(", ".join(map(str, devices)), problem, "use quantize=int8 or int4, or more devices")
    share = sum(layer_bytes) / sum(room)
    placed, current, used = [], 0, 0.0
    for size in layer_bytes:
        while current < len(devices) - 1 and used + size / 2 > room[current] * share:
            used -= room[current] * share
            current += 1
        placed.append(devices[current])
        used += size
    return DeviceMap(home, tuple(placed))


class DistantCache:
    """A key/value batch as a layer on another device sees it: the storage stays at home."""

    def __init__(self, batch: KVLayout) -> None:
        self.batch = batch

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        home = self.batch.arena.device
        return self.batch.attend(layer, query.to(home), key.to(home), value.to(home)).to(query.device)


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, tuple):
        return tuple(_move(item, device) for item in value)
    if isinstance(value, KVBatch | KVRows | KVSteps) and value.arena.device != device:
        return DistantCache(value)
    return value


def connect(layers: nn.ModuleList, after: nn.Module, device_map: DeviceMap) -> None:
    """Let activations follow the layers from device to device, and come home for what comes ``after`` them."""
    for module, device in zip([*layers, after], [*device_map.layers, device_map.home], strict=True):

        def travel(module: nn.Module, args: tuple[Any, ...], target: torch.device = device) -> tuple[Any, ...]:
            return tuple(_move(value, target) for value in args)

        module.register_forward_pre_hook(travel)
