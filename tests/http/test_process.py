"""``python -m app`` as a person runs it: the ready line, wrong options, a taken port, and the end on SIGTERM."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.webrtc.caller import Caller

ROOT = Path(__file__).resolve().parents[2]
START_S = 30.0

Run = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
async def run() -> AsyncIterator[Run]:
    """Start ``python -m app`` with these flags on the loopback, without variables of this shell."""
    running: list[asyncio.subprocess.Process] = []

    async def run(*flags: str) -> asyncio.subprocess.Process:
        usual = ["--engine", "scripted", "--host", "127.0.0.1", "--ice-hosts", "127.0.0.1"]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "app", *usual, *flags),
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ready(process: asyncio.subprocess.Process) -> str:
    """The address of the ready line."""
    assert process.stdout is not None
    async with asyncio.timeout(START_S):
        async for line in process.stdout:
            if found := re.fullmatch(rb"ready (https://\S+)\n", line):
                return found[1].decode()
    raise AssertionError((await process.communicate())[1].decode())


async def fails(process: asyncio.subprocess.Process) -> str:
    """What it says, in one line, when it cannot start."""
    async with asyncio.timeout(START_S):
        out, err = await process.communicate()
    assert (process.returncode, out) == (1, b""), err
    assert b"Traceback" not in err
    return err.decode().splitlines()[-1]


async def test_a_signal_ends_it_at_once_with_calls_open(run: Run) -> None:
    process = await run("--port", "0")
    address = await ready(process)
    assert address.startswith("https://localhost:")
    trust = ssl.create_default_context(cafile=str(ROOT / "certs" / "ca.pem"))
    callers = [Caller(), Caller()]
    async with ClientSession(address) as http:
        for caller in callers:
            offer = {"type": "offer", "sdp": await caller.offer()}
            async with http.post("/api/calls", json=offer, ssl=trust) as response:
                assert response.status == 201
                await caller.accept((await response.json())["sdp"])
            await caller.connected()
            await caller.receive("welcome")
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        status = await process.wait()
        took = time.monotonic() - begin
    for caller in callers:
        await caller.close()
    assert status == 0
    assert took < 2.5  # 2 s are promised; the rest is a busy machine's


async def test_a_taken_port_is_said_in_a_sentence(run: Run) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = await fails(await run("--port", str(port)))
    assert said.startswith(f"Port {port} is taken by another program")
    assert "make run PORT=" in said


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--prot", "1"], "Unrecognized arguments: --prot 1"),
        (["--host", "203.0.113.9"], "HOST=203.0.113.9 is not an address of this machine"),
        (["--tls-cert", "/no/such.pem"], "TLS_CERT and TLS_KEY go together"),
        (["--script", "/no/such.json"], "The script /no/such.json cannot be read"),
        (["--record", "/proc/nowhere"], "RECORD=/proc/nowhere"),
        (["--engine", "mini", "--device", "abacus"], "abacus"),
    ],
)
async def test_what_cannot_be_started_is_said_in_a_sentence(run: Run, flags: list[str], sentence: str) -> None:
    assert sentence in await fails(await run("--port", "0", *flags))
