"""``python -m engine.bench.launches``: what a step asks of a device, counted at the official size without one.

Tensors on ``meta`` have shapes and no numbers, so that the whole model fits anywhere, and torch tells a dispatch mode
about every operation. One that makes or changes numbers is a launch: a kernel or a few. Views are none.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from engine.bench.callers import UNIT_TOKENS
from engine.bench.full import OFFICIAL
from engine.config import OmniConfig
from engine.conversation.blocks import speech_step, text_step
from engine.conversation.sampling import SpeechSampling, TextSampling
from engine.conversation.session import SessionPool
from engine.conversation.speech_steps import SpeechRows
from engine.conversation.text_steps import TextRows
from engine.model.audio import pool as pooled
from engine.model.fused import launches_of
from engine.model.kv import KVArena, whole
from engine.model.kv_steps import KVSteps
from engine.model.omni import OmniModel
from engine.model.vocos import Vocos

READS = ("_local_scalar_dense", "item", "is_nonzero", "equal", "tolist")
SIZED_BY_DATA = ("nonzero", "nonzero_numpy", "masked_select", "unique", "unique2", "_unique2", "unique_consecutive",
                 "unique_dim", "bincount", "repeat_interleave", "argwhere")  # fmt: skip
MAKES_ROOM = ("empty", "empty_like", "empty_strided", "new_empty", "empty_permuted")
ROWS = (1, 16, 64)
CONTEXT, SPEECH_CONTEXT = 8_192, 2_560


class Launches(TorchDispatchMode):
    """Counts what is launched inside, and what the host waits for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: Counter[str] = Counter()
        """Launches by the operation's name."""
        self.waits: list[str] = []
        """Operations that make the host wait for the device: reads of a value, copies in either direction, and results
        whose size depends on values."""
        self.given: set[int] = set()
        """Addresses of storages that were there before, of those that were read or written inside."""
        self._made: dict[int, Any] = {}

    @property
    def total(self) -> int:
        return self.operations.total()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [item for item in tree_iter((args, kwargs)) if isinstance(item, Tensor)]
        out = func(*args, **kwargs)
        outputs = [item for item in tree_iter(out) if isinstance(item, Tensor)]
        name = func._schema.name.partition("::")[2]
        if name in READS or name in SIZED_BY_DATA or _indexes_by_mask(name, args):
            self.waits.append(str(func))
        if len({item.device.type for item in [*inputs, *outputs] if item.device.type == "cpu" or item.dim()}) > 1:
            self.waits.append(f"{func} between devices")
        held = {_storage(item) for item in inputs}
        self.given |= held - self._made.keys()
        fresh = [item for item in outputs if _storage(item) not in held]
        for item in fresh:  # kept, so that no address is given out twice
            self._made[_storage(item)] = item.untyped_storage()
        writes = any(
            argument.alias_info is not None and argument.alias_info.is_write for argument in func._schema.arguments
        )
        if (fresh or writes) and name.rstrip("_") not in MAKES_ROOM:
            self.operations[name] += launches_of(func)
        return out


def _storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _indexes_by_mask(name: str, args: Sequence[Any]) -> bool:
    if name not in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return False
    return any(isinstance(item, Tensor) and item.dtype in (torch.bool, torch.uint8) for item in args[1])


@dataclass(frozen=True, slots=True)
class Counted:
    """One row of the table."""

    step: str
    rows: int
    launches: int
    waits: int
    """Times that the host waits for the device."""
    weights_mb: float
    """Weights that are read."""
    cache_mb: float
    """Keys and values that are read at most, with every slot full."""


def official() -> OmniModel:
    """The model at its official size, without numbers."""
    with torch.device("meta"):
        model = OmniModel(OmniConfig.from_dicts(OFFICIAL)).to(torch.bfloat16).requires_grad_(False).eval()
    model.join()
    return model


@torch.inference_mode()
def steps(model: OmniModel, rows: int, *, context: int = CONTEXT) -> tuple[Counted, Counted]:
    """A step of text and one of speech for ``rows`` sessions at once."""
    return _text(model, rows, context), _speech(model, rows)


@torch.inference_mode()
def passes(model: OmniModel) -> dict[str, int]:
    """Launches of what no recording repeats, for one session: by the names of :class:`engine.bench.costs.Kernels`. A
    wave, which may be recorded, besides. The host waits for none of them but as it hands their inputs over."""
    config, device, dtype = model.config, model.device, model.dtype
    with device:
        vocos = Vocos(config.vocos).requires_grad_(False).eval()
    pool = SessionPool(model, sessions=1, context=CONTEXT)
    side = config.image.scale_resolution // config.vision.patch_size
    patches = torch.zeros(1, side * side, 3 * config.vision.patch_size**2, device=device, dtype=dtype)
    mel = torch.zeros(1, config.audio.num_mel_bins, 100, device=device, dtype=dtype)
    unit = torch.zeros(1, UNIT_TOKENS, config.llm.hidden_size, device=device, dtype=dtype)
    text = torch.zeros(1, 10, config.tts.hidden_size, device=device, dtype=dtype)
    codes = torch.zeros(1, config.tts.num_vq, 77, dtype=torch.int64, device=device)

    def hear() -> None:
        heard = model.apm.stream(mel, [100], pool.audio.place([0], [100], [50], sight=whole))
        pooled(model.audio_projection_layer(heard), config.audio.pool_step)

    work: dict[str, Callable[[], object]] = {
        "see": lambda: model.see(patches, [(side, side)]),
        "hear": hear,
        "feed": lambda: model.llm(unit, cache=pool.llm.place([0], [4_000], [UNIT_TOKENS])),
        "read": lambda: model.tts(text, cache=pool.speech.place([0], [20], [10])),
        "wave": lambda: vocos(model.tts.dvae.decode(codes)),
    }
    return {name: _launched(one).total for name, one in work.items()}


def _text(model: OmniModel, rows: int, context: int) -> Counted:
    llm, device, config = model.llm, model.device, model.config.llm
    arena = llm.model.arena(slots=rows, capacity=context)
    cache = KVSteps.make(arena, rows, paged=True)
    drawn = TextRows.make(rows, 32, config.vocab_size, device)
    states = torch.zeros(rows, config.hidden_size, device=device, dtype=model.dtype)
    stops = torch.zeros(2, dtype=torch.int64, device=device)
    step = partial(text_step, model, drawn, cache, states, stops, TextSampling())
    return _count("text", rows, step, [*llm.model.layers.parameters(), llm.lm_head.weight], arena)


def _speech(model: OmniModel, rows: int) -> Counted:
    tts, config = model.tts, model.config.tts
    tables, sampling = tts.tables(), SpeechSampling(repetition_penalty=config.repetition_penalty)
    arena = tts.model.arena(slots=rows, capacity=SPEECH_CONTEXT)
    drawn = SpeechRows.make(rows, 32, sampling.window, config.num_vq, tts.model.norm.weight)
    cache = KVSteps.make(arena, rows).narrowed(rows, arena.capacity, tts.sight(drawn.text_length))
    step = partial(speech_step, model, drawn, cache, tables, sampling)
    return _count("speech", rows, step, [*tts.model.layers.parameters(), tables.heads], arena)


def _launched(work: Callable[[], object]) -> Launches:
    work()  # what is made once is made now
    launches = Launches()
    with launches:
        work()
    return launches


def _count(name: str, rows: int, step: Callable[[], None], weights: Sequence[Tensor], arena: KVArena) -> Counted:
    launches = _launched(step)
    read = sum(weight.nbytes for weight in weights)
    return Counted(name, rows, launches.total, len(launches.waits), read / 1e6, arena.nbytes / 1e6)


def main() -> int:
    model = official()
    print(f"{'step':<8} {'sessions':>8} {'launches':>9} {'host waits':>11} {'weights MB':>11} {'cache MB':>9}")
    for rows in ROWS:
        for row in steps(model, rows):
            counts = f"{row.step:<8} {row.rows:>8} {row.launches:>9} {row.waits:>11}"
            print(f"{counts} {row.weights_mb:>11.0f} {row.cache_mb:>9.0f}")
    print(*(f"{name} {count}" for name, count in passes(model).items()), sep=", ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
