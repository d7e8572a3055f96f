"""The lines of a call bundle: client events, and the recorded inputs of a call. Both are JSON Lines.

Whatever is wrong with a line ends as one :class:`~app.replay.bundle_media.BundleError` that names the file and the
line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from app.call.protocol import ProtocolError, encode, parse_message
from app.replay.bundle_media import BundleError
from app.text import JsonError, read_json
from engine.media.sound import MAX_SECONDS

TIMED_INPUTS: Mapping[str, str | None] = {
    "result": "n",
    "fault": "what",
    "judged": "of",
    "meant": "said",
    "pull": "n",
    "command": "line",
    "frame": "file",
    "paused": None,
    "closed": "reason",
}
"""Inputs of a recorded call besides its audio, and the member that each has in its line of ``timing.jsonl``: the
number of the engine's result; the epoch that the engine failed at (null: for good) and its error as code, message and
whether it may go well later; the media time that a judgement is about and the probability that the turn was over then;
the media time until which something was said during an answer and whether it meant to stop;
the samples (24 kHz) that the track took, the line of ``commands.jsonl``, the picture's file, and why the call ended."""


@dataclass(frozen=True, slots=True)
class TimedCommand:
    """A client event, as the data channel would have carried it, ``time_s`` seconds after the beginning."""

    time_s: float
    raw: str


@dataclass(frozen=True, slots=True)
class TimedInput:
    """One input of a recorded call: it took effect when ``at`` samples (16 kHz) of the microphone were processed.

    ``kind`` and what ``value`` means: see :data:`TIMED_INPUTS`.
    """

    at: int
    kind: str
    value: Any = None


def read_commands(path: Path) -> tuple[TimedCommand, ...]:
    """The client events of ``commands.jsonl``; none without the file. Raises BundleError.

    A line is the event with the media time ``t`` (seconds) at which it arrives; ``v`` and ``seq`` may be left out.
    ``{"t": …, "raw": "…"}`` stands for a message that is no event, so that a recording can hold what it received.
    """
    commands: list[TimedCommand] = []
    for number, line in read_lines(path):
        if not isinstance(line, dict):
            remedy = 'write lines such as {"t": 2.5, "type": "input.text", "data": {"text": "hello"}}'
            raise BundleError(path, f"line {number} is not an object", remedy)
        if "t" not in line:
            raise BundleError(path, f"line {number} has no t", "add the second at which the event arrives")
        time_s = line["t"]
        if not _is_number(time_s) or not 0 <= time_s <= MAX_SECONDS:
            raise BundleError(path, f"line {number} has t {time_s!r}", f"give seconds from 0 to {MAX_SECONDS}")
        if commands and time_s < commands[-1].time_s:
            fault = f"line {number} has t {time_s} after {commands[-1].time_s}"
            raise BundleError(path, fault, "put the lines in order of time")
        if "raw" in line:
            if set(line) != {"t", "raw"} or not isinstance(line["raw"], str):
                raise BundleError(path, f"line {number} has more than a raw text", "give t and raw alone")
            commands.append(TimedCommand(time_s, line["raw"]))
            continue
        raw = _as_message(line, len(commands) + 1)
        try:
            known = parse_message(raw).known
        except ProtocolError as error:
            fault = f"line {number} is no client event: {error.message.rstrip('.')}"
            raise BundleError(path, fault, "correct that line") from None
        if not known:
            raise BundleError(path, f"line {number} has the unknown type {line['type']!r}", "correct that line")
        commands.append(TimedCommand(time_s, raw))
    return tuple(commands)


def command_line(time_s: float, raw: str, number: int) -> dict[str, Any]:
    """The line with which ``commands.jsonl`` holds message ``raw`` as its line ``number``: what
    :func:`read_commands` reads has the same effect on a call. Readable where the message is a client event."""
    try:
        command, message = parse_message(raw), json.loads(raw)
        line: dict[str, Any] = {"t": time_s} | message | {"t": time_s}
        if command.known and "raw" not in line and parse_message(_as_message(line, number)) == command:
            return line
    except ProtocolError:
        pass
    return {"t": time_s, "raw": raw}


def _as_message(line: Mapping[str, Any], number: int) -> str:
    return encode({"v": 1, "seq": number, "data": {}, **line})


def read_timing(path: Path, commands: int) -> tuple[TimedInput, ...] | None:
    if not path.exists():
        return None
    remedy = "remove the file, and the bundle replays as if the engine took no time"
    inputs: list[TimedInput] = []
    for number, line in read_lines(path):
        if not isinstance(line, dict) or line.get("input") not in TIMED_INPUTS or not _is_count(line.get("at")):
            raise BundleError(path, f"line {number} is no input of a call", remedy)
        kind, member = line["input"], TIMED_INPUTS[line["input"]]
        value = line.get(member) if member else None
        if member and not _VALUES[member](value):
            raise BundleError(path, f"line {number} lacks {member}", remedy)
        if kind == "command" and value not in range(1, commands + 1):
            raise BundleError(path, f"line {number} names line {value} of commands.jsonl, which is not there", remedy)
        if kind == "frame" and not (path.parent / "frames" / Path(str(value)).name).is_file():
            raise BundleError(path, f"line {number} names the picture {value}, which is not there", remedy)
        inputs.append(TimedInput(line["at"], kind, value))
    # A picture is written down when it is first used, after other inputs: its place is behind those of its own time.
    return tuple(sorted(inputs, key=lambda timed: timed.at))


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The lines of a JSON Lines file with their numbers from 1; empty ones are passed over."""
    if not path.exists():
        return
    for number, text in enumerate(read_text(path).split("\n"), start=1):
        if text.strip():
            yield number, parse_json(path, text, f"line {number} ", "write one JSON object per line")


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BundleError(path, "is not UTF-8 text", "save it as UTF-8") from None
    except OSError as error:
        raise BundleError(path, f"cannot be read ({error.strerror})", "see to its permissions") from None


def parse_json(path: Path, text: str, where: str, remedy: str) -> Any:
    try:
        return read_json(text)
    except JsonError as error:
        raise BundleError(path, f"{where}is not JSON ({error})", remedy) from None


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str)


def _is_judgement(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_count(value[0]) and _is_number(value[1])


def _is_meaning(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_count(value[0]) and isinstance(value[1], bool)


def _is_fault(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 4:
        return False
    epoch, code, message, retryable = value
    return (epoch is None or _is_count(epoch)) and _is_text(code) and _is_text(message) and isinstance(retryable, bool)


_VALUES: Mapping[str, Callable[[object], bool]] = {
    "n": _is_count,
    "line": _is_count,
    "file": _is_text,
    "reason": _is_text,
    "of": _is_judgement,
    "said": _is_meaning,
    "what": _is_fault,
}
