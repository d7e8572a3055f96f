"""The shipped model is killed during a call: the page says so, and the call goes on with its memory."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.caller import PATIENCE_MS, Browsers
from tests.browser.conftest import ServerFactory
from tests.browser.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="session")


def kill_engine(server: Server) -> None:
    """Kill the server's only worker."""
    (worker,) = [
        int(process.name)
        for process in Path("/proc").iterdir()
        if process.name.isdigit() and _is_worker_of(process, server.pid)
    ]
    os.kill(worker, signal.SIGKILL)


def _is_worker_of(process: Path, server: int) -> bool:
    try:
        parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        return parent == server and b"engine.serving.worker" in (process / "cmdline").read_bytes()
    except OSError:  # it has ended meanwhile
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the worker in /proc")
async def test_a_killed_model_comes_back_and_remembers(
    browsers: Browsers, start_server: ServerFactory, listener: Path
) -> None:
    server = start_server("--max-calls", "1")
    async with browsers.visit(server.address, listener) as person:
        await person.start("voice")
        await person.write("my name is anna")
        await person.events("response.done")
        await person.write("count from one to seven")
        await person.state("speaking")
        kill_engine(server)
        await person.shows("notice", "The model stopped and is being restarted.")
        await person.shows("notice", "The model is back; it remembers your conversation.")
        done = (await person.events("response.done", at_least=2))[1]["data"]
        assert done["status"] == "completed"
        await person.write("what is my name")
        await person.hears()
        await person.events("response.done", at_least=3)
        await person.shows("captions", "Your name is Anna.")
        await expect(person["notice"]).to_be_hidden(timeout=PATIENCE_MS)
        await expect(person["error"]).to_be_hidden()
        assert person.complaints == []
