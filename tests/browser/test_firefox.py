"""A call from Firefox.

Firefox makes no WebRTC connection over the loopback alone: it wants an interface with a default route. A network
namespace with one end of a veth pair is such a place, and lets nothing out; making one needs root.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.server import LONG_ANSWER, ROOT, Server, write_script

FIREFOX = os.environ.get("FIREFOX") or shutil.which("firefox-esr") or shutil.which("firefox")
ADDRESS = "10.213.77.1"
TIMEOUT_S = 240


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """A network namespace in which ADDRESS is the machine's own."""
    name = f"call-{os.getpid()}"
    try:
        _ip("netns", "add", name)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        pytest.skip(f"No network namespace can be made, which Firefox needs here (root and iproute2): {reason!r}")
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "link", "add", "v0", "type", "veth", "peer", "name", "v1")
        _ip("-n", name, "address", "add", f"{ADDRESS}/24", "dev", "v0")
        _ip("-n", name, "link", "set", "v0", "up")
        _ip("-n", name, "link", "set", "v1", "up")
        _ip("-n", name, "route", "add", "default", "dev", "v0")
        yield name
    finally:
        _ip("netns", "delete", name)


@pytest.mark.skipif(FIREFOX is None, reason="Firefox is not installed: apt-get install firefox-esr")
def test_firefox_calls_sees_its_pictures_used_and_hears_the_answer(namespace: str, tmp_path: Path) -> None:
    script = write_script(tmp_path / "long.json", LONG_ANSWER)
    inside = ("ip", "netns", "exec", namespace)
    server = Server(tmp_path, "--engine", "scripted", "--script", str(script), hosts=ADDRESS, inside=inside).start()
    try:
        result = subprocess.run(
            [*inside, sys.executable, "-m", "tests.browser.firefox", str(FIREFOX), server.address],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    finally:
        server.stop()
    assert result.returncode == 0, f"{result.stderr}\n{server.text}"
    seen = json.loads(result.stdout)
    assert seen["first"] in ("listening", "hearing")
    assert seen["frames"] >= 1
    assert seen["muted"] == "true"
    assert seen["heard"] is True
    assert LONG_ANSWER.startswith(seen["captions"])
    assert seen["stopped"] == "cancelled"
    assert (seen["last"], seen["error"]) == ("ended", "")
