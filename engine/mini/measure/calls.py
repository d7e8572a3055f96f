"""Calls to be replayed: written as the plain files of a call bundle (README.md describes them), run by ``app.replay``.

The laboratory knows the call app by its files and its command line alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray


def write_call(
    folder: Path,
    audio: NDArray[np.int16],
    rate: int,
    *,
    options: Mapping[str, Any],
    frames: Mapping[int, bytes] | None = None,
    commands: Iterable[Mapping[str, Any]] = (),
    expect: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Write a call bundle into the new folder ``folder``. Raises FileExistsError.

    ``audio`` is int16 [samples] at ``rate`` Hz, ``frames`` are JPEG pictures by millisecond.
    """
    folder.mkdir(parents=True)
    (folder / "call.json").write_text(json.dumps({"format": 1, "options": options}) + "\n", encoding="utf-8")
    soundfile.write(folder / "audio.wav", audio, rate, subtype="PCM_16")
    for milliseconds, picture in (frames or {}).items():
        (folder / "frames").mkdir(exist_ok=True)
        (folder / "frames" / f"{milliseconds}.jpg").write_bytes(picture)
    for name, lines in (("commands.jsonl", commands), ("expect.jsonl", expect)):
        if text := "".join(json.dumps(line) + "\n" for line in lines):
            (folder / name).write_text(text, encoding="utf-8")
