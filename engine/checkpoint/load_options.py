"""How a checkpoint is to be loaded: what every loader takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Where the weights go, in which form, and what is put into them."""

    device: str = "auto"
    """``auto``, ``cpu``, ``mps``, ``cuda``, ``cuda:N`` or several (``cuda:0,cuda:1``), over which the language model's
    layers are then spread."""
    dtype: str = "auto"
    """``auto`` (bfloat16 on an accelerator, float32 on the CPU), ``float32``, ``bfloat16`` or ``float16``."""
    quantize: str = "auto"
    """Of the language model's weights: see :func:`engine.checkpoint.quantize.choose`."""
    adapter: str | Path | None = None
    """A directory in peft's layout, put into the weights before these are quantised."""
    for_training: bool = False
    """The model is to be trained: its products stay apart, so that adapters find them, and nothing is changed in
    place."""
    progress: bool = True
    """Show a bar of the bytes that are read."""


DEFAULTS = LoadOptions()
