"""Weight files (safetensors, or torch's own) → parameters, one tensor at a time.

Everything that can be known from the files' headers is checked before the first weight is read, so that a wrong
directory is refused in a moment instead of after minutes of loading.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tqdm import tqdm

from engine.checkpoint.pickles import read_pickle
from engine.config import CONFIG_FILE
from engine.config_reader import read_json
from engine.errors import CheckpointError
from engine.foreign import INSTEAD, foreign_format

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILES = ("model.safetensors", "weights.safetensors", "gptq_model-*.safetensors")
"""The last is AutoGPTQ's, with bits and groups in the name."""
PICKLED_INDEX, PICKLED_FILE = "pytorch_model.bin.index.json", "pytorch_model.bin"
AGAIN = "download the file again"
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAMES = {kind: name for name, kind in FLOATS.items()}
MAX_HEADER = 100_000_000


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """Where a tensor lies in its file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Shard:
    """One weight file."""

    path: Path
    tensors: dict[str, TensorHeader]


def read_header(path: Path) -> dict[str, TensorHeader]:
    """The tensors of a safetensors file. Raises CheckpointError for a file that is missing, truncated or no such file.

    Format: header length (uint64, little endian), JSON header, tensor data.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if prefix.startswith(b"version "):
                raise CheckpointError(path, "is a Git LFS pointer, not the weights themselves", "run `git lfs pull`")
            if len(prefix) < 8 or length > min(size - 8, MAX_HEADER):
                raise CheckpointError(path, f"is truncated or no safetensors file ({size} bytes)", AGAIN)
            header = json.loads(file.read(length))
        tensors = {
            key: TensorHeader(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
            for key, entry in header.items()
            if key != "__metadata__"
        }
    except FileNotFoundError:
        raise CheckpointError(path, "is missing", AGAIN) from None
    except OSError as error:
        remedy = "check the file and its permissions"
        raise CheckpointError(path, f"cannot be read ({error.strerror})", remedy) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(path, f"has a corrupt header ({type(error).__name__}: {error})", AGAIN) from error
    expected = 8 + length + max((tensor.end for tensor in tensors.values()), default=0)
    if size != expected:
        raise CheckpointError(path, f"is truncated or damaged: {size} bytes where {expected} belong", AGAIN)
    return tensors


def _open_shard(path: Path) -> Shard:
    return Shard(path, _pickled_header(path) if path.suffix == ".bin" else read_header(path))


def _pickled_header(path: Path) -> dict[str, TensorHeader]:
    """The tensors of a torch file. Raises CheckpointError."""
    found, end = {}, 0
    for key, tensor in read_pickle(path, AGAIN).items():
        start, end = end, end + tensor.nbytes
        kind = NAMES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
        found[key] = TensorHeader(kind, tuple(tensor.shape), start, end)
    return found


def has_weights(directory: str | Path) -> bool:
    """Whether a model directory holds weights, or claims to."""
    names = (INDEX_FILE, *SINGLE_FILES, PICKLED_INDEX, PICKLED_FILE)
    return any(next(Path(directory).glob(name), None) for name in names)


def find_shards(directory: Path) -> list[Shard]:
    """The weight files of a model directory with their headers. Raises CheckpointError."""
    index = next((directory / name for name in (INDEX_FILE, PICKLED_INDEX) if (directory / name).is_file()), None)
    named = (path for name in (*SINGLE_FILES, PICKLED_FILE) for path in sorted(directory.glob(name)))
    single = next((path for path in named if path.is_file()), None)
    if index is None or (index.name == PICKLED_INDEX and single is not None and single.suffix != ".bin"):
        if single is not None:
            return [_open_shard(single)]
        if problem := foreign_format(directory):
            raise CheckpointError(directory, problem, INSTEAD)
        for pattern, name in (("model-*.safetensors", INDEX_FILE), ("pytorch_model-*.bin", PICKLED_INDEX)):
            if next(directory.glob(pattern), None):
                raise CheckpointError(directory / name, "is missing", AGAIN)
        raise CheckpointError(directory, "holds no weights", f"download {INDEX_FILE} and all shards that it names")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(_is_file_name(name) for name in weight_map.values()):
        raise CheckpointError(index, "does not map tensors to files beside it", AGAIN, key="weight_map")
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        problem = f"is missing, with {len(missing) - 1} more of {len(names)} shards" if missing[1:] else "is missing"
        raise CheckpointError(directory / missing[0], problem, AGAIN)
    shards = [_open_shard(directory / name) for name in names]
    for shard in shards:
        for key, name in weight_map.items():
            if name == shard.path.name and key not in shard.tensors:
                problem = f"is not in the file, though {index.name} says so"
                raise CheckpointError(shard.path, problem, "download both files again", key=key)
    return shards


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name == Path(name).name != ""


def check_tensors(
    shards: list[Shard],
    expected: dict[str, torch.Size],
    *,
    optional: Callable[[str], bool] = lambda key: False,
    ignored: Callable[[str], bool] = lambda key: False,
    source: Path,
) -> None:
    """Compare headers with the parameters of the model. Raises CheckpointError for the first key that does not fit.

    ``optional`` keys may be absent, ``ignored`` ones are not looked at; ``source`` is the directory named for a
    missing key.
    """
    remedy = f"use weights and {CONFIG_FILE} of the same checkpoint"
    found: dict[str, Path] = {}
    for shard in shards:
        if key := next((key for key in shard.tensors if key.endswith((".qweight", ".qzeros"))), None):
            problem = f"belongs to a GPTQ checkpoint, of which {CONFIG_FILE} says nothing"
            again = "download config.json, or quantize_config.json, of the same checkpoint"
            raise CheckpointError(shard.path, problem, again, key=key)
        for key, tensor in shard.tensors.items():
            if ignored(key):
                continue
            if key not in expected:
                raise CheckpointError(shard.path, "is unexpected: the model has no such tensor", remedy, key=key)
            if key in found:
                raise CheckpointError(shard.path, f"is in {found[key].name} as well", AGAIN, key=key)
            if tensor.shape != tuple(expected[key]):
                problem = f"has the size {list(tensor.shape)} where {CONFIG_FILE} asks for {list(expected[key])}"
                raise CheckpointError(shard.path, problem, remedy, key=key)
            if tensor.dtype not in FLOATS:
                problem = f"is stored as {tensor.dtype}, not as floating-point numbers"
                raise CheckpointError(shard.path, problem, "use the bf16 checkpoint", key=key)
            found[key] = shard.path
    missing = [key for key in expected if key not in found and not optional(key)]
    if missing:
        more = f" (with {len(missing) - 1} more)" if missing[1:] else ""
        place = shards[0].path if len(shards) == 1 else source
        raise CheckpointError(place, f"is missing{more}", remedy, key=missing[0])


def read_tensors(
    shards: Iterable[Shard],
    place: Callable[[str], tuple[torch.device, torch.dtype] | None],
    take: Callable[[str, Tensor], None],
    *,
    progress: bool = False,
) -> None:
    """Read tensors shard by shard, in file order, and hand each to ``take`` on the device and in the dtype of
    ``place`` (None: leave it out). No tensor is held here after it was taken."""
    wanted = [(shard, [key for key in shard.tensors if place(key)]) for shard in shards]
    size = sum(shard.tensors[key].end - shard.tensors[key].start for shard, keys in wanted for key in keys)
    with tqdm(total=size, unit="B", unit_scale=True, desc="Loading weights", disable=not progress) as bar:
        for shard, keys in wanted:
            try:
                for key, stored in tensors_of(shard, keys):
                    target = place(key)
                    assert target is not None
                    # The source is a view of the mapped file: converting or copying it is the only copy made.
                    tensor = stored.to(*target, copy=True)
                    if not tensor.sum(dtype=torch.float32).isfinite():
                        problem = f"holds numbers that are infinite or none at all, as {target[1]}"
                        raise CheckpointError(shard.path, problem, AGAIN, key=key)
                    take(key, tensor)
                    bar.update(shard.tensors[key].end - shard.tensors[key].start)
            except (SafetensorError, OSError) as error:
                raise CheckpointError(shard.path, f"cannot be read ({error})", AGAIN) from error


def tensors_of(shard: Shard, keys: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a file in the order in which they lie there."""
    ordered = sorted(keys, key=lambda key: shard.tensors[key].start)
    if shard.path.suffix == ".bin":
        held = read_pickle(shard.path, AGAIN)
        yield from ((key, held[key]) for key in ordered)
        return
    with safe_open(shard.path, framework="pt", device="cpu") as file:
        for key in ordered:
            yield key, file.get_tensor(key)


def assign(model: nn.Module, key: str, tensor: Tensor) -> None:
    """Make ``tensor`` the parameter ``key`` of ``model``, in place of one on the meta device."""
    module, _, name = key.rpartition(".")
    setattr(model.get_submodule(module), name, nn.Parameter(tensor, requires_grad=False))
