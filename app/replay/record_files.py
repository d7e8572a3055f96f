"""The files of a recorded call. Everything here blocks: it runs on the recorder's thread, or in a replay."""

from __future__ import annotations

import json
import re
import wave
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from app.call.media_time import FRAME_SAMPLES
from app.call.protocol import encode
from app.replay.bundle import FORMAT
from app.replay.bundle_lines import command_line
from engine.client import INPUT_RATE, OUTPUT_RATE, EngineError

ALIGN_SAMPLES = OUTPUT_RATE // 10
"""How far ``answer.wav`` may run before or behind media time before silence is left out or added."""


class SpeechFile:
    """``answer.wav``: what was pulled for the listener, laid along the media time of the microphone."""

    def __init__(self, path: Path) -> None:
        self._file = _open_wav(path, OUTPUT_RATE)
        self._waiting: list[NDArray[np.int16]] = []
        self._samples = 0

    def add(self, pcm: NDArray[np.int16], t_samples: int) -> None:
        """Append int16 [n] at 24 kHz that was pulled at media time ``t_samples`` (16 kHz).

        The track that pulls and the microphone that makes media time have clocks of their own, and a microphone can
        pause: where they drift apart, silence is put in or left out, never speech.
        """
        ahead = self._samples - t_samples * OUTPUT_RATE // INPUT_RATE
        if ahead > ALIGN_SAMPLES and not pcm.any():
            return
        if ahead < -ALIGN_SAMPLES:
            pcm = np.concatenate([np.zeros(-ahead, np.int16), pcm])
        self._waiting.append(pcm)
        self._samples += len(pcm)

    def flush(self) -> None:
        """Write what was added."""
        if self._waiting:
            self._file.writeframes(np.concatenate(self._waiting).astype("<i2").tobytes())
            self._waiting.clear()

    def close(self) -> None:
        """Write the rest and close the file."""
        self.flush()
        self._file.close()


class RecordingFiles:
    """A call bundle that grows. Has the methods of :class:`app.call.tap.CallTap`; after :meth:`flush` the folder is a
    whole bundle of what happened so far, so that a recording which breaks off can be replayed up to there."""

    def __init__(self, folder: Path, call: dict[str, Any]) -> None:
        """``call`` becomes call.json, next to the format's version. Raises OSError."""
        folder.mkdir(parents=True, mode=0o700)  # people's voices and faces
        self._folder = folder
        self._call = {"format": FORMAT, **call, "complete": False}
        self._write_call()
        self._open = ExitStack()
        self._audio = _open_wav(folder / "audio.wav", INPUT_RATE)
        self._open.callback(self._audio.close)
        self._answer = SpeechFile(folder / "answer.wav")
        self._open.callback(self._answer.close)
        self._heard: list[NDArray[np.int16]] = []
        self._commands = self._text_file("commands.jsonl")
        self._events = self._text_file("events.jsonl")
        self._timing = self._text_file("timing.jsonl")
        self._command_count = 0
        self._t_samples = 0
        self._newest: dict[str, Any] | None = None
        """The newest input, which is not written yet: see :meth:`unit_frame`."""

    def audio(self, pcm: NDArray[np.int16]) -> None:
        self._heard.append(pcm)
        self._t_samples += FRAME_SAMPLES

    def unit_frame(self, t_samples: int, jpeg: bytes) -> None:
        """A picture is told when it is first used, which the newest input caused: it came before that input."""
        name = self._new_frame_name(t_samples * 1000 // INPUT_RATE)
        (self._folder / name).write_bytes(jpeg)
        line = {"at": t_samples, "input": "frame", "file": name}
        if self._newest is not None and self._newest["at"] == t_samples:
            self._timing.write(encode(line) + "\n")
        else:
            self._input(line)

    def command(self, t_samples: int, raw: str) -> None:
        self._command_count += 1
        line = command_line(round(t_samples / INPUT_RATE, 3), without_token(raw), self._command_count)
        self._commands.write(encode(line) + "\n")
        self._input({"at": t_samples, "input": "command", "line": self._command_count})

    def result(self, t_samples: int, n: int) -> None:
        self._input({"at": t_samples, "input": "result", "n": n})

    def fault(self, t_samples: int, epoch: int | None, error: EngineError) -> None:
        what = [epoch, error.code, error.message, error.retryable]
        self._input({"at": t_samples, "input": "fault", "what": what})

    def judged(self, t_samples: int, end: int, probability: float) -> None:
        self._input({"at": t_samples, "input": "judged", "of": [end, probability]})

    def meant(self, t_samples: int, end: int, stop: bool) -> None:
        self._input({"at": t_samples, "input": "meant", "said": [end, stop]})

    def played(self, t_samples: int, epoch: int, samples: int) -> None:
        """Follows from the pull, which :meth:`speech` wrote down."""

    def paused(self, t_samples: int) -> None:
        self._input({"at": t_samples, "input": "paused"})

    def event(self, envelope: dict[str, Any]) -> None:
        self._events.write(encode(envelope) + "\n")

    def speech(self, pcm: NDArray[np.int16]) -> None:
        self._answer.add(pcm, self._t_samples)
        self._input({"at": self._t_samples, "input": "pull", "n": len(pcm)})

    def closed(self, reason: str) -> None:
        self._input({"at": self._t_samples, "input": "closed", "reason": reason})
        self._call |= {"complete": True, "seconds": self._t_samples / INPUT_RATE, "ended": reason}

    def flush(self) -> None:
        """Bring everything but the newest input to the disk."""
        if self._heard:
            self._audio.writeframes(np.concatenate(self._heard).astype("<i2").tobytes())
            self._heard.clear()
        self._answer.flush()
        for file in (self._commands, self._events, self._timing):
            file.flush()

    def close(self, fault: str | None = None) -> None:
        """Write the rest; ``fault`` says why a recording stopped before the call did."""
        with self._open:
            if self._newest is not None:
                self._timing.write(encode(self._newest) + "\n")
            self.flush()
        if fault is not None:
            self._call |= {"complete": False, "fault": fault}
        self._write_call()

    def abandon(self) -> None:
        """Close the files of a disk that takes no more."""
        with suppress(OSError):
            self._open.close()

    def _text_file(self, name: str) -> TextIO:
        return self._open.enter_context((self._folder / name).open("w", encoding="utf-8"))

    def _input(self, line: dict[str, Any]) -> None:
        if self._newest is not None:
            self._timing.write(encode(self._newest) + "\n")
        self._newest = line

    def _new_frame_name(self, milliseconds: int) -> str:
        (self._folder / "frames").mkdir(exist_ok=True)
        while (self._folder / (name := f"frames/{milliseconds}.jpg")).exists():
            milliseconds += 1
        return name

    def _write_call(self) -> None:
        part = self._folder / "call.json.part"
        part.write_text(json.dumps(self._call, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        part.replace(self._folder / "call.json")


def without_token(raw: str) -> str:
    """A client's message without its resume token, which would let a reader of the recording take over the call."""
    return re.sub(r'("resume_token"\s*:\s*)"(?:[^"\\]|\\.)*"?', r'\1""', raw)


def _open_wav(path: Path, rate: int) -> wave.Wave_write:
    """A mono 16-bit file whose header is right after every ``writeframes``."""
    file = wave.open(str(path), "wb")  # noqa: SIM115 the caller closes it
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(rate)
    return file
