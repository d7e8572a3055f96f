"""The real server in a process of its own, on a free port of the loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
LONG_ANSWER = "one and then two and then three and then four and then five and then six and then seven and then " * 5
"""An answer that takes about half a minute to say, so that it can be interrupted."""


class Server:
    """``python -m app`` with ``flags``; ``address`` is where the page is once :meth:`start` has returned."""

    def __init__(self, folder: Path, *flags: str, hosts: str = "127.0.0.1", inside: Sequence[str] = ()) -> None:
        """``inside``: the words of a command that runs the server elsewhere, e.g. in a network namespace."""
        self.log = folder / "server.log"
        self.flags = flags
        self.hosts = hosts
        self.inside = inside
        self.address = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = 60) -> Server:
        """Wait for the ready line; fails with the log when the server ends or the time is up."""
        command = [*self.inside, sys.executable, "-m", "app", "--host", self.hosts, "--port", "0"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with self.log.open("ab") as log:
            log.truncate(0)
            self._process = subprocess.Popen(
                [*command, "--ice-hosts", self.hosts, *self.flags],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if found := re.search(r"^ready (https://\S+)", self.text, re.MULTILINE):
                self.address = found[1].rstrip("/")
                return self
            if self._process.poll() is not None:
                raise RuntimeError(f"The server ended with status {self._process.returncode}:\n{self.text}")
            time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"The server was not ready within {timeout_s} s:\n{self.text}")

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
        self._process = None


def write_script(path: Path, *answers: str, **delays_s: float) -> Path:
    """A script for the scripted engine, see ``engine.serving.scripted.Script``."""
    content: dict[str, Any] = {"answers": list(answers), **delays_s}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
