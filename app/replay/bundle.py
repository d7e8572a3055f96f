"""Call bundles: a folder that holds one call, to be replayed and scored.

===================  =================================================================================================
``call.json``        ``{"format": 1, "options": {…}}``; options as in the offer of a call (:mod:`app.call.config`);
                     optional ``leak``: how the microphone hears the answers (:mod:`app.replay.leak`)
``audio.*``          the microphone: WAV, FLAC, Ogg, Opus or MP3, 8–192 kHz, mono or stereo
``video.*``          optional camera: MP4, MKV, WebM or Y4M, or instead of it …
``frames/``          … pictures named ``<milliseconds>.jpg`` or ``.png``
``commands.jsonl``   optional events of the client, one a line: ``{"t": 2.5, "type": "input.text", "data": {…}}``
``expect.jsonl``     optional: what must come out (:mod:`app.replay.expect`)
``timing.jsonl``     of a recording: when the engine's results came and what was played (:mod:`app.replay.record`)
``events.jsonl``     of a recording: the server's events
``answer.wav``       of a recording: what the person was sent, 24 kHz
===================  =================================================================================================

All times count from the beginning of the microphone audio. :func:`read_bundle` checks everything, before a call begins;
whatever is wrong becomes one :class:`~app.replay.bundle_media.BundleError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from app.call.config import CallConfig, OptionError
from app.call.protocol import encode
from app.replay.bundle_lines import (
    TimedCommand,
    TimedInput,
    parse_json,
    read_commands,
    read_lines,
    read_text,
    read_timing,
)
from app.replay.bundle_media import (
    AUDIO_NAMES,
    VIDEO_NAMES,
    Audio,
    BundleError,
    Picture,
    check_video,
    list_stills,
    read_audio,
    read_still,
    video_pictures,
)
from app.replay.expect import Expectation, ExpectError, parse_expectations
from app.replay.leak import Leak
from app.text import is_unicode
from engine.client import INPUT_RATE

FORMAT = 1
"""Version of the folder's layout, ``format`` in call.json."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked call bundle. Pictures are decoded while they are read."""

    path: Path
    config: CallConfig
    audio: Audio
    commands: tuple[TimedCommand, ...] = ()
    expectations: tuple[Expectation, ...] = ()
    timing: tuple[TimedInput, ...] | None = None
    """The inputs of a recording in their order; None where the bundle was not recorded."""
    engine: str | None = None
    """Name of the engine that a recording was made with."""
    call_id: str = "replay"
    leak: Leak | None = None
    """How the microphone hears what the replayed call plays; of a recording, the audio has it."""
    video: Path | None = None
    stills: tuple[tuple[int, Path], ...] = ()

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def pictures(self) -> Iterator[Picture]:
        """The camera pictures in order of time. Raises BundleError where one cannot be decoded."""
        if self.video is not None:
            yield from video_pictures(self.video)
        for milliseconds, path in self.stills:
            yield Picture(milliseconds / 1000, read_still(path))


def read_bundle(path: str | Path) -> Bundle:
    """Read and check the bundle in folder ``path``. Raises BundleError."""
    folder = Path(path)
    if not folder.exists():
        raise BundleError(folder, "does not exist", "name the folder of a call bundle")
    if not folder.is_dir():
        raise BundleError(folder, "is not a folder", "name the folder that holds call.json")
    call = _read_call(folder / "call.json")
    audio_path = _only_one(folder, AUDIO_NAMES)
    if audio_path is None:
        remedy = f"add the microphone as one of {', '.join(AUDIO_NAMES)} (silence will do)"
        raise BundleError(folder, "has no audio", remedy)
    audio = read_audio(audio_path)
    if call.leak is not None and audio.rate != INPUT_RATE:
        raise BundleError(audio_path, f"has {audio.rate} Hz, and call.json a leak", f"save it with {INPUT_RATE} Hz")
    video = _only_one(folder, VIDEO_NAMES)
    stills: list[tuple[int, Path]] = []
    if (folder / "frames").exists():
        if video is not None:
            raise BundleError(folder, f"has both {video.name} and frames/", "keep the one that is the camera")
        stills = list_stills(folder / "frames")
    if video is not None:
        check_video(video)
    commands = read_commands(folder / "commands.jsonl")
    timing = read_timing(folder / "timing.jsonl", len(commands))
    return Bundle(
        path=folder,
        config=call.config if timing is None else call.config.updated(call.not_there_yet),
        audio=audio,
        commands=commands,
        expectations=read_expectations(folder),
        timing=timing,
        engine=call.engine,
        call_id=call.call_id,
        leak=call.leak,
        video=video,
        stills=tuple(stills),
    )


def read_expectations(folder: Path) -> tuple[Expectation, ...]:
    """The expectations of a bundle; none without ``expect.jsonl``. Raises BundleError."""
    path = folder / "expect.jsonl"
    expectations: list[Expectation] = []
    for number, line in read_lines(path):
        try:
            expectations += parse_expectations(number, line)
        except ExpectError as error:
            raise BundleError(path, f"line {number} {error}", "correct that line") from None
    return tuple(expectations)


def write_bundle(
    path: str | Path,
    audio: NDArray[np.int16],
    rate: int,
    *,
    options: Mapping[str, Any] | None = None,
    leak: Leak | None = None,
    frames: Mapping[int, bytes] | None = None,
    commands: Iterable[Mapping[str, Any]] = (),
    expect: Iterable[Mapping[str, Any]] = (),
) -> Path:
    """Write a bundle into the new folder ``path`` and check it. Raises BundleError, or OSError on a full disk.

    ``audio`` is int16 [samples] or [samples, 2] at ``rate`` Hz; ``frames`` are JPEG or PNG files by millisecond;
    ``commands`` and ``expect`` are the lines of their files.
    """
    folder = Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BundleError(folder, "exists already", "choose a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    call = {"format": FORMAT, "options": dict(options or {})} | ({} if leak is None else {"leak": leak.as_mapping()})
    _write_text(folder / "call.json", encode(call) + "\n")
    soundfile.write(folder / "audio.wav", audio, rate, subtype="PCM_16")
    for milliseconds, picture in sorted((frames or {}).items()):
        (folder / "frames").mkdir(exist_ok=True)
        ending = "png" if picture.startswith(b"\x89PNG") else "jpg"
        (folder / "frames" / f"{milliseconds}.{ending}").write_bytes(picture)
    for name, lines in (("commands.jsonl", commands), ("expect.jsonl", expect)):
        if text := "".join(encode(line) + "\n" for line in lines):
            _write_text(folder / name, text)
    read_bundle(folder)
    return folder


NEWER_OPTIONS: dict[str, dict[str, Any]] = {
    "echo": {"gate": False},
    "silence": {"away_after_s": 0.0, "idle_end_s": 0.0},
    "vad": {"silero_fall_db": 0.0},
}
"""Options that recordings did not always have, by their groups, and what switches them off."""


@dataclass(frozen=True, slots=True)
class _Call:
    config: CallConfig
    engine: str | None
    call_id: str
    leak: Leak | None
    not_there_yet: dict[str, dict[str, Any]]
    """What a recording that does not name these options had: it was made before there were any."""


def _read_call(path: Path) -> _Call:
    """Read call.json. Members that are not known are passed over, options that are not known are faults."""
    remedy = f'it must hold {{"format": {FORMAT}, "options": {{}}}}'
    if not path.is_file():
        raise BundleError(path, "is missing", remedy)
    call = parse_json(path, read_text(path), "", remedy)
    if not isinstance(call, dict):
        raise BundleError(path, "is not a JSON object", remedy)
    versions = [call[key] for key in ("format", "format_version", "version") if key in call]
    # Beside a version, "format" may be the name of what this is.
    if len(versions) > 1 and isinstance(call.get("format"), str):
        versions.remove(call["format"])
    if not versions:
        raise BundleError(path, "has no format version", remedy)
    for version in versions:
        if version != FORMAT or isinstance(version, bool):
            raise BundleError(path, f"has format {version!r}", f"this program reads format {FORMAT}")
    options = call.get("options", {})
    if not isinstance(options, dict):
        raise BundleError(path, "has options that are not an object", remedy)
    try:
        config = CallConfig.from_mapping(options)
    except OptionError as error:
        raise BundleError(path, f"has wrong options: {str(error).rstrip('.')}", "correct or remove them") from None
    try:
        leak = Leak.from_mapping(call["leak"]) if "leak" in call else None
    except ValueError as error:
        raise BundleError(path, f"has a wrong leak: {error}", "correct or remove it") from None
    engine, call_id = call.get("engine"), call.get("call_id")
    return _Call(
        config,
        engine=engine.get("name") if isinstance(engine, dict) else None,
        call_id=call_id if isinstance(call_id, str) else "replay",
        leak=leak,
        not_there_yet={group: _missing(off, options.get(group, {})) for group, off in NEWER_OPTIONS.items()},
    )


def _missing(off: Mapping[str, Any], group: Any) -> dict[str, Any]:
    """Those of the options that a recording does not name."""
    return {name: value for name, value in off.items() if not isinstance(group, dict) or name not in group}


def _write_text(path: Path, text: str) -> None:
    if not is_unicode(text):
        raise BundleError(path, "would have half of a surrogate pair", "give whole characters")
    path.write_text(text, encoding="utf-8")


def _only_one(folder: Path, names: Sequence[str]) -> Path | None:
    found = [folder / name for name in names if (folder / name).exists()]
    if len(found) > 1:
        raise BundleError(folder, f"has both {found[0].name} and {found[1].name}", "keep one of them")
    if found and not found[0].is_file():
        raise BundleError(found[0], "is not a file", "replace it")
    return found[0] if found else None
