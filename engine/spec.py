"""Which engine to run, and how: plain values that travel to a worker process. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.client import EngineError
from engine.foreign import INSTEAD, foreign_format

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16", "float16")
MOST_CALLS_ON_CPU = 8
"""Calls at once unless the operator asks for more, where no card serves them."""

MAX_CHATS = 4
"""Chats that are answered at once beside the calls, at most: a step of text has room for so many on a processor."""

QUANTIZATIONS = ("auto", "none", "int8", "int4", "fp8")


def small_cache() -> Path:
    """The folder in which the checkpoint small is assembled, unless another is named: in the user's cache (XDG)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omni-call"


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Which engine to run, and how. Every field is a plain value, so that it travels to a worker process."""

    kind: Literal["model", "scripted"] = "model"
    model: str | None = None
    """A directory of a model of the family in the Hugging Face layout; None is the mini that ships with the project."""
    untrained: bool = False
    """Take seeded random weights of the model's sizes instead of its own: for tests and benchmarks."""
    device: str = "auto"
    """``auto``, ``cpu``, ``mps``, ``cuda``, ``cuda:N``, or several with commas between."""
    dtype: str = "auto"
    """``auto`` (bfloat16 on an accelerator, float32 on the CPU), ``float32``, ``bfloat16`` or ``float16``."""
    quantize: str = "auto"
    """Of the language model: ``none``, ``int8``, ``int4``, ``fp8``, or ``auto``: ``int8`` for one of more than 100
    million weights on a CPU, ``int4`` for a GPTQ checkpoint on a card, else none."""
    adapter: str | None = None
    """A fine-tuned adapter of the model: a directory in peft's layout."""
    transcriber: str | None = None
    """A directory with a ``reader_config``: its ears read what people say, for captions, beside a model that does not
    read itself."""
    max_sessions: int = 16
    """Calls at once, or as many of them as fit; 0: as :func:`engine.conversation.storage.choose_room` says."""
    admit_by_cost: bool = False
    """Let in no more calls than real time has room for, by what work costs here (:mod:`engine.serving.admission`)."""
    threads: int = 0
    """CPU threads of the worker; 0 leaves one core to the media process."""
    context: int = 8_192
    """Tokens that a session can hold before the window drops the oldest; less where the model has fewer positions. 0:
    as :func:`engine.conversation.storage.choose_room` says."""
    batch_invariant: bool | None = None
    """Keep an answer the same to the last bit whoever else calls: steps of text and speech are then passes of four
    rows, taken or not, all other work is done call by call, and a device on which a row depends on its place shares
    nothing. None: so on the CPU, where a replayed call must give the same bytes; on an accelerator batches are as large
    as they come, because many calls need it. The gain and the price are in the benchmark, section "sharing"."""
    script: str | None = None
    """JSON file with the answers of a scripted engine, see :meth:`engine.serving.scripted.Script.load`."""
    in_process: bool | None = None
    """Run beside the caller rather than in a worker. None: the scripted engine does, a model does not."""
    restart: bool = True
    """Start a new worker when one was lost, and go on in it with the sessions of the old one."""

    def __post_init__(self) -> None:
        if self.kind not in ("model", "scripted"):
            raise _bad(f"the kind of engine is {self.kind!r}; known are model and scripted")
        if not all(name in DEVICES or (name[:5] == "cuda:" and name[5:].isdigit()) for name in self.device.split(",")):
            raise _bad(f"the device is {self.device!r}; known are {', '.join(DEVICES)} and cuda:N")
        if self.dtype not in DTYPES:
            raise _bad(f"the dtype is {self.dtype!r}; known are {', '.join(DTYPES)}")
        if self.quantize not in QUANTIZATIONS:
            raise _bad(f"the quantization is {self.quantize!r}; known are {', '.join(QUANTIZATIONS)}")
        if min(self.max_sessions, self.threads) < 0 or 0 < self.context < 256:
            raise _bad("max_sessions and threads must not be negative, and context 0 or at least 256")
        if self.model is not None and (problem := foreign_format(self.model)):
            raise _bad(f"{self.model} {problem}; {INSTEAD}")
        if self.kind == "model" and self.model is not None and not Path(self.model).is_dir():
            raise _bad(f"the model directory {self.model} does not exist; give the path of a checkpoint")
        if self.transcriber is not None and not Path(self.transcriber).is_dir():
            raise _bad(f"the directory {self.transcriber} of ears that read does not exist; TRANSCRIBE=small makes one")
        if self.adapter is not None and not Path(self.adapter).is_dir():
            raise _bad(f"the adapter directory {self.adapter} does not exist; give what python -m engine.tune wrote")


def _bad(cause: str) -> EngineError:
    return EngineError("bad_options", f"The engine cannot be set up: {cause}.")
