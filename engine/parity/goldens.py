"""A golden set on disk: inputs, and what the published implementation made of them.

Everything is read from the set: names, sizes, lengths, the order of steps. Each expected tensor must be asked for once;
what nobody asked for shows up as not compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from engine.media.picture import open_picture

FILES = ("config.json", "manifest.json", "expected.safetensors", "weights.safetensors")
SOUNDS = "inputs.safetensors"
"""Of a model that hears."""
R = TypeVar("R")


class SetError(Exception):
    """The golden set is missing, incomplete or damaged; the message is a sentence that says where."""


class GoldenSet:
    def __init__(self, folder: Path) -> None:
        """Raises :class:`SetError` for a folder that is no golden set."""
        if not folder.is_dir():
            raise SetError(f"{folder} is not a directory; give the folder of a golden set")
        self.folder = folder
        self._taken: set[str] = set()
        for name in FILES if not self._hears else (*FILES, SOUNDS):
            if not (folder / name).is_file():
                raise SetError(f"{folder / name} is missing; give the folder of a complete golden set")

    @property
    def _hears(self) -> bool:
        path = self.folder / "config.json"
        return not path.is_file() or "MiniCPMV" not in path.read_text(encoding="utf-8", errors="replace")

    @cached_property
    def manifest(self) -> dict[str, Any]:
        path = self.folder / "manifest.json"
        found = _read(path, lambda: json.loads(path.read_text(encoding="utf-8")))
        if not isinstance(found, dict):
            raise SetError(f"{path} holds no JSON object; restore the file")
        return found

    @cached_property
    def expected(self) -> dict[str, Tensor]:
        path = self.folder / "expected.safetensors"
        return _read(path, lambda: load_file(path))

    @cached_property
    def sounds(self) -> dict[str, NDArray[np.float32]]:
        """Inputs by name: mono at 16 kHz, float in [-1, 1)."""
        path = self.folder / SOUNDS
        return {name: samples.float().numpy() / 32768 for name, samples in _read(path, lambda: load_file(path)).items()}

    @cached_property
    def pictures(self) -> dict[str, Image.Image]:
        """Input pictures by name."""
        paths = sorted((self.folder / "images").glob("*.png"))
        return {path.stem: self.picture(path.stem) for path in paths if not path.stem.startswith("expected.")}

    def picture(self, name: str) -> Image.Image:
        path = self.folder / "images" / f"{name}.png"
        return _read(path, lambda: open_picture(path))

    def has(self, key: str) -> bool:
        return key in self.expected

    def take(self, key: str) -> Tensor:
        """An expected tensor."""
        if key not in self.expected:
            raise SetError(f"{self.folder / 'expected.safetensors'} has no tensor {key}; restore the file")
        self._taken.add(key)
        return self.expected[key]

    def keys(self, pattern: str) -> list[tuple[str, re.Match[str]]]:
        """Expected keys that match a regular expression as a whole, with their matches."""
        return [(key, found) for key in self.expected if (found := re.fullmatch(pattern, key))]

    def section(self, name: str) -> Any:
        """A part of the manifest."""
        if name not in self.manifest:
            raise SetError(f"{self.folder / 'manifest.json'} has no entry {name}; restore the file")
        return self.manifest[name]

    def left(self, stage: str) -> list[str]:
        """Expected tensors of a stage that nobody took."""
        return sorted(key for key in self.expected if key.startswith(f"{stage}.") and key not in self._taken)

    def left_behind(self, stages: Collection[str]) -> list[str]:
        """Expected tensors that nobody took and that belong to none of ``stages``."""
        return sorted(
            key
            for key in self.expected
            if key not in self._taken and not any(key.startswith(f"{stage}.") for stage in stages)
        )


def _read(path: Path, reader: Callable[[], R]) -> R:
    try:
        return reader()
    except FileNotFoundError:
        raise SetError(f"{path} is missing; give the folder of a complete golden set") from None
    except (OSError, ValueError, SyntaxError, SafetensorError) as error:
        raise SetError(f"{path} cannot be read ({error}); restore the file") from error
