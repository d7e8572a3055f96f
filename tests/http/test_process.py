"""``python -m app`` as a person runs it: the ready line, wrong options, a taken port, and the end on SIGTERM."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, TCPConnector

from engine.serving.scripted import Script, ScriptedEngine
from tests.browser.server import write_script
from tests.replay.recorded import assert_replays_identically, finished_recording
from tests.webrtc.caller import Caller
from tests.webrtc.offers import OFFER

ROOT = Path(__file__).resolve().parents[2]
START_S = 120.0

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


async def call(http: ClientSession) -> Caller:
    """A call that has begun."""
    caller = Caller()
    status, answer = await offer(http, await caller.offer())
    assert status == 201, answer
    await caller.accept(answer["sdp"])
    await caller.connected()
    await caller.receive("welcome")
    return caller


async def offer(http: ClientSession, sdp: str) -> tuple[int, dict[str, Any]]:
    async with http.post("/api/calls", json={"type": "offer", "sdp": sdp}) as response:
        return response.status, await response.json()


def client(address: str) -> ClientSession:
    trust = ssl.create_default_context(cafile=str(ROOT / "certs" / "ca.pem"))
    return ClientSession(address, connector=TCPConnector(ssl=trust))


async def ended(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(START_S):
        return await process.wait()


async def test_a_signal_ends_it_without_waiting_for_calls_in_which_nobody_speaks(run: Run) -> None:
    process = await run("--port", "0", "--drain-s", "600")
    address = await ready(process)
    assert address.startswith("https://localhost:")
    async with client(address) as http:
        callers = [await call(http), await call(http)]
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0  # in far less than draining may take
    for caller in callers:
        await caller.close()


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A script of answers that end only when they are ended."""
    return write_script(tmp_path / "script.json", "and so on " * 2_000)


async def answered(http: ClientSession) -> Caller:
    """A call in which an answer is being given."""
    caller = await call(http)
    caller.send("input.text", text="Count.")
    await caller.receive("assistant.text")
    return caller


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_answer_keeps_the_server_up_and_nobody_else_gets_in(
    run: Run, endless: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """The answers end when this test has seen what it wants, so that it needs no luck in time."""
    recordings = tmp_path / "calls"
    process = await run("--port", "0", "--script", str(endless), "--drain-s", "600", "--record", str(recordings))
    async with client(await ready(process)) as http:
        silent, talking, last = await call(http), await answered(http), await answered(http)
        process.send_signal(number)
        assert (await silent.receive("session.ending"))["data"] == {"in_s": 0, "reason": "shutdown"}
        for caller in (talking, last):
            assert (await caller.receive("session.ending"))["data"] == {"in_s": 600, "reason": "shutdown"}
            assert caller.of_type("response.done") == []
        status, refusal = await offer(http, OFFER)
        assert (status, refusal["error"]["code"]) == (503, "shutting_down")
        assert "takes no new calls" in refusal["error"]["message"]
        async with http.get("/ready") as response:
            assert (response.status, "being stopped" in (await response.json())["message"]) == (503, True)
        talking.send("response.cancel")
        for ended_call in (silent, talking):
            welcome = ended_call.of_type("welcome")[0]["data"]
            folder = await finished_recording(recordings, welcome["session"])
            assert json.loads((folder / "call.json").read_text())["complete"] is True
            await assert_replays_identically(folder, ScriptedEngine(Script.load(endless)))
        last.send("response.cancel")
        assert await ended(process) == 0
    for caller in (silent, talking, last):
        await caller.close()


async def test_a_second_signal_does_not_wait_for_the_answer(run: Run, endless: Path) -> None:
    process = await run("--port", "0", "--script", str(endless), "--drain-s", "3600")
    async with client(await ready(process)) as http:
        caller = await answered(http)
        process.send_signal(signal.SIGTERM)
        await caller.receive("session.ending")
        process.send_signal(signal.SIGINT)
        assert await ended(process) == 0
    await caller.close()


async def test_an_answer_is_waited_for_no_longer_than_was_said(run: Run, endless: Path) -> None:
    process = await run("--port", "0", "--script", str(endless), "--drain-s", "1")
    async with client(await ready(process)) as http:
        caller = await answered(http)
        process.send_signal(signal.SIGTERM)
        assert (await caller.receive("session.ending"))["data"]["in_s"] == 1
        assert await ended(process) == 0
    await caller.close()


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
