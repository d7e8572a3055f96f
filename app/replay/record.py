"""Recording: a tap that writes a call bundle per call, off the event loop.

The tap only appends to a list; a thread empties it twice a second. What waits is bounded: where the disk cannot follow,
or is full, the recording ends there, is marked and said, and the call goes on. So a recording is whole up to its end
and replays to the identical events; it never has holes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.call.config import CallConfig
from app.errors import StartError
from app.replay.record_files import RecordingFiles
from engine.client import EngineError, EngineInfo

log = logging.getLogger(__name__)

WRITE_EVERY_S = 0.5
MAX_WAITING_BYTES = 32 * 1024 * 1024
"""What may wait for the disk per call: some five minutes of a call with video."""

ITEM_BYTES = 200
"""What an entry costs besides its payload, roughly."""

Warn = Callable[[str, str], None]
"""Told once, on the event loop, when a recording has stopped: ``(code, sentence)``."""


class Recorder:
    """The :class:`app.call.tap.CallTap` of one recorded call."""

    def __init__(
        self, folder: Path, call: dict[str, Any], warn: Warn, max_waiting_bytes: int = MAX_WAITING_BYTES
    ) -> None:
        """Write into the new folder ``folder``, under the name ``….partial`` until the call has ended.

        ``call`` goes into call.json. Belongs on a running event loop, like the call that it watches.
        """
        self.folder = folder
        self._call = call
        self._warn = warn
        self._max_waiting_bytes = max_waiting_bytes
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting: list[tuple[str, tuple[Any, ...]]] = []
        self._waiting_bytes = 0
        self._closed = False
        self._ended = threading.Event()
        self._fault: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"record {folder.name}", daemon=True)
        self._thread.start()

    def audio(self, pcm: NDArray[np.int16]) -> None:
        self._put("audio", pcm.copy(), size=pcm.nbytes)

    def unit_frame(self, t_samples: int, jpeg: bytes) -> None:
        self._put("unit_frame", t_samples, jpeg, size=len(jpeg))

    def command(self, t_samples: int, raw: str) -> None:
        self._put("command", t_samples, raw, size=4 * len(raw))

    def result(self, t_samples: int, n: int) -> None:
        self._put("result", t_samples, n)

    def fault(self, t_samples: int, epoch: int | None, error: EngineError) -> None:
        self._put("fault", t_samples, epoch, error, size=4 * len(error.message))

    def judged(self, t_samples: int, end: int, probability: float) -> None:
        self._put("judged", t_samples, end, probability)

    def meant(self, t_samples: int, end: int, stop: bool) -> None:
        self._put("meant", t_samples, end, stop)

    def played(self, t_samples: int, epoch: int, samples: int) -> None:
        """Not written: it follows from what was pulled."""

    def paused(self, t_samples: int) -> None:
        self._put("paused", t_samples)

    def event(self, envelope: Mapping[str, Any]) -> None:
        self._put("event", dict(envelope), size=2_000)

    def speech(self, pcm: NDArray[np.int16]) -> None:
        self._put("speech", pcm.copy(), size=pcm.nbytes)

    def closed(self, reason: str) -> None:
        self._put("closed", reason)
        self._closed = True
        self._ended.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread, blocking; whether it has finished. Call it off the event loop, after the call's end."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _put(self, method: str, *arguments: Any, size: int = 0) -> None:
        with self._lock:
            if self._closed or self._fault is not None:
                return  # the track may still pull silence when the call has ended
            if self._waiting_bytes <= self._max_waiting_bytes:
                self._waiting.append((method, arguments))
                self._waiting_bytes += size + ITEM_BYTES
                return
        self._stop("The recording stopped: the disk is too slow for it. The call goes on.")

    def _stop(self, fault: str) -> None:
        """End the recording before its call; from any thread."""
        with self._lock:
            self._fault = fault
        self._ended.set()
        log.error("%s: %s", self.folder, fault)
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it the call that could be told
            self._loop.call_soon_threadsafe(self._warn, "recording_stopped", fault)

    def _run(self) -> None:
        partial = self.folder.with_name(self.folder.name + ".partial")
        files: RecordingFiles | None = None
        ended = False
        try:
            files = RecordingFiles(partial, self._call)
            while not ended:
                ended = self._ended.wait(WRITE_EVERY_S)
                for method, arguments in self._take():
                    getattr(files, method)(*arguments)
                files.flush()
            files.close(self._fault)
            partial.rename(self.folder)
        except OSError as error:
            reason = error.strerror or str(error)
            self._stop(f"The recording stopped: its folder cannot be written ({reason}). The call goes on.")
        except Exception:
            log.exception("recording %s", self.folder)
            self._stop("The recording stopped because of a fault in the program. The call goes on.")
        if self._fault is not None and files is not None:
            files.abandon()

    def _take(self) -> list[tuple[str, tuple[Any, ...]]]:
        with self._lock:
            waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        return waiting


class Recordings:
    """All recordings of a server: one folder per call below ``root``."""

    def __init__(self, root: str | Path) -> None:
        """Raises StartError if nothing can be written into ``root``."""
        self._root = Path(root)
        self._recorders: set[Recorder] = set()
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            probe = self._root / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StartError(
                f"RECORD={root}: recordings cannot be written there ({error.strerror}); name a folder that can be."
            ) from None

    def begin(self, call_id: str, config: CallConfig, engine: EngineInfo | None, warn: Warn) -> Recorder:
        """The tap that records the call which begins now."""
        self._recorders = {recorder for recorder in self._recorders if not recorder.join(0)}
        now = time.localtime()
        call = {
            "call_id": call_id,
            "options": config.as_mapping(),
            "engine": asdict(engine) if engine is not None else None,
            "recorded": time.strftime("%Y-%m-%dT%H:%M:%S%z", now),
        }
        recorder = Recorder(self._root / f"{time.strftime('%Y%m%d-%H%M%S', now)}-{call_id}", call, warn)
        self._recorders.add(recorder)
        return recorder

    def finish(self, timeout_s: float) -> bool:
        """Wait, blocking, until the recordings of ended calls are on the disk; whether all are. For the shutdown."""
        until = time.monotonic() + timeout_s
        return all(recorder.join(max(0.0, until - time.monotonic())) for recorder in self._recorders)
