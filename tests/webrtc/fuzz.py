"""Hostile datagrams and messages against one call of a real server, and a bystander whose call must stay perfect.

    python -m tests.webrtc.fuzz [--datagrams 10000] [--messages 10000] [--seed 0]

Datagrams have every first byte and lengths from nothing to more than a frame carries. They come from strangers, to
both calls, and from the attacked caller's own address. Messages go through the attacked caller's data channel with
the rate limit lifted, so that each one is read. The status is 1 if the bystander missed anything, or the server
logged an error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from aiohttp import ClientSession
from aiortc import rtcsctptransport
from aiortc.stats import RTCInboundRtpStreamStats

from app.server.options import ServerOptions
from app.server.server import Server, engine_spec
from app.webrtc import channel
from engine.serving.factory import create_engine
from tests.http.conftest import Site
from tests.webrtc.caller import Caller, until

LENGTHS = (0, 1, 2, 3, 4, 11, 12, 13, 19, 20, 21, 28, 60, 100, 172, 500, 1200, 1499, 1500, 1501, 2048, 9000, 65_507)
BURST, BURST_BYTES = 16, 64 * 1024
"""Datagrams at once. More would fill the sockets' buffers, and the kernel would drop what others send."""

TAIL_FRAMES = 75
"""What is listened to after an answer is done: as much as the voice may be late, and half a second."""

MAX_WORK_S = 0.25
"""CPU time after which others notice that the event loop does something else."""

SPEECH = "one two three four five six seven eight"
TYPES = (
    *("hello", "session.update", "input.text", "input.commit", "input.discard", "mic.state", "camera.state"),
    *("response.cancel", "playback.report", "feedback", "ping", "nothing.known"),
)
BYE_SHARE = 0.002
"""Of the messages: each ends the attacked call, and dialling again takes its time."""

MEMBERS = (
    *("muted", "text", "id", "speak", "reason", "epoch", "played_ms", "buffered_ms", "nonce", "facing", "last_seq"),
    *("resume_token", "voice", "vad", "turn", "rating", "comment", "protocol", "caps", "preset", "language", "x"),
)
LEAVES = (None, True, -1, 0, 1, 2**53, 2**80, -1e308, 0.5, "", "go on", "\ud800", "\x00", "user", "x" * 9_000)


@dataclass
class Outcome:
    """What became of the bystander, and of the attacked call."""

    sent: int = 0
    answers: int = 0
    frames: int = 0
    lost: int = 0
    """Packets to and from the bystander that did not arrive."""

    gaps: int = 0
    """Steps in the time stamps of the voice. Without a lost packet the voice was a second late (``VoiceTrack``), which
    the caller's decoder takes for a loss and fills in, so that the energy of this answer is another."""

    longest_s: float = 0.0
    """The most CPU time for which the event loop was kept from everything else: it tells work that is too much from a
    machine that is too busy."""

    underruns: int = 0
    wrong_answers: list[str] = field(default_factory=list)
    quietest: float = 1.0
    """The least energy that one answer arrived with, as a share of an answer's before the attack."""

    loudest: float = 1.0
    attacked_lost: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def perfect(self) -> bool:
        at_fault = self.lost or self.wrong_answers or self.errors or self.longest_s > MAX_WORK_S
        whole = 0.97 < self.quietest <= self.loudest < 1.03
        return bool(self.answers) and not at_fault and (whole or bool(self.gaps))

    def __str__(self) -> str:
        return (
            f"{self.sent} sent; bystander: {self.answers} answers, {self.frames} frames of 20 ms, {self.lost} lost "
            f"packets, {self.gaps} gaps, "
            f"{self.underruns} underruns, {len(self.wrong_answers)} wrong answers, energy of an answer "
            f"{self.quietest:.3f} to {self.loudest:.3f}; attacked calls lost: {self.attacked_lost}; "
            f"errors logged: {len(self.errors)}; longest work {1000 * self.longest_s:.0f} ms"
        )


class Bystander:
    """A caller who asks again and again, and compares each answer with the first one."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.energies: list[float] = []
        self.done: list[dict[str, Any]] = []

    async def ask(self) -> None:
        """Ask, and listen until the answer is over and its last sound has arrived."""
        begin = len(self.caller.heard)
        self.caller.send("input.text", text="go on", id=f"text-{len(self.done)}", speak=True)
        self.done.append((await self.caller.receive("response.done", len(self.done) + 1))["data"])
        end = len(self.caller.heard) + TAIL_FRAMES
        await until(lambda: len(self.caller.heard) >= end, "the end of an answer")
        sound = np.concatenate([frame.to_ndarray().ravel() for frame in self.caller.heard[begin:]]).astype(float)
        self.energies.append(float((sound**2).sum()))

    async def ask_until(self, over: asyncio.Event) -> None:
        while not over.is_set():
            await self.ask()

    async def judge(self, outcome: Outcome) -> None:
        stamps = [frame.pts or 0 for frame in self.caller.heard]
        outcome.answers = len(self.done) - 1
        outcome.frames = len(stamps)
        report = await self.caller.connection.getStats()
        inbound = [stats for stats in report.values() if isinstance(stats, RTCInboundRtpStreamStats)]
        shares_lost = [event["data"].get("loss", 0) for event in self.caller.of_type("metrics")]  # of 50 each
        outcome.lost = sum(stats.packetsLost for stats in inbound) + round(50 * sum(shares_lost))
        outcome.gaps = int((np.diff(stamps) != 960).sum())
        outcome.underruns = max([event["data"]["underruns"] for event in self.caller.of_type("metrics")], default=0)
        told = [(done["status"], done["heard_ms"], done["heard_chars"]) for done in self.done]
        outcome.wrong_answers = [str(each) for each in told if each[0] != "completed" or each != told[0]]
        shares = [energy / self.energies[0] for energy in self.energies[1:]]
        outcome.quietest, outcome.loudest = min(shares), max(shares)


async def watch(outcome: Outcome) -> None:
    """Note the most CPU time that the event loop uses before it comes to a timer that is due."""
    while True:
        before = time.thread_time()
        await asyncio.sleep(0.01)
        outcome.longest_s = max(outcome.longest_s, time.thread_time() - before)


@asynccontextmanager
async def calls(outcome: Outcome) -> AsyncIterator[tuple[Site, Bystander]]:
    """A server and a bystander who has had a first answer; afterwards the verdict stands in ``outcome``."""
    with TemporaryDirectory() as folder, lifted_limits(), errors_noted(outcome.errors):
        script = Path(folder) / "script.json"
        script.write_text(json.dumps({"answers": [SPEECH]}))
        flags = ["--engine", "scripted", "--script", str(script), "--offers-per-minute", "0"]
        flags += ["--host", "127.0.0.1", "--port", "0", "--ice-hosts", "127.0.0.1"]
        options = ServerOptions.parse(flags, {})
        server = await Server(options, create_engine(replace(engine_spec(options), in_process=True))).__aenter__()
        await server.listen(None)
        await server.start_engine()
        site = Site(server, ClientSession(f"http://127.0.0.1:{server.port}"))
        try:
            bystander = Bystander((await site.call())[0])
            await bystander.ask()
            over = asyncio.Event()
            asking = asyncio.create_task(bystander.ask_until(over))
            watching = asyncio.create_task(watch(outcome))
            yield site, bystander
            over.set()
            await asking
            watching.cancel()
            await bystander.judge(outcome)
        finally:
            for caller in site.callers:
                await caller.close()
            await site.http.close()
            await server.close()


async def fuzz_datagrams(count: int, seed: int = 0) -> Outcome:
    """``count`` datagrams to the ports of an attacked call and of the bystander's."""
    rng, outcome = random.Random(seed), Outcome()
    async with calls(outcome) as (site, bystander):
        attacked, _ = await site.call()
        own, port = media_socket(attacked)
        _, other_port = media_socket(bystander.caller)
        strangers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(8)]
        burst = 0
        for number in range(count):
            data = datagram(rng, number % 256, LENGTHS[number // 256 % len(LENGTHS)])
            if number % 3 == 0:
                own.sendto(data, port)
            else:
                rng.choice(strangers).sendto(data, port if number % 3 == 1 else other_port)
            burst += len(data)
            if number % BURST == 0 or burst >= BURST_BYTES:
                burst = 0
                for _ in range(BURST):  # in each turn the event loop reads one datagram of each socket
                    await asyncio.sleep(0)
        outcome.sent = count
        heard = len(attacked.heard)
        attacked.send("ping", nonce="alive")
        try:
            await attacked.receive("pong")
            await until(lambda: len(attacked.heard) > heard + 20, "more of the voice")
        except AssertionError:
            outcome.attacked_lost = 1
        for each in [own, *strangers]:
            each.close()
    return outcome


async def fuzz_messages(count: int, seed: int = 0) -> Outcome:
    """``count`` messages through the channel of an attacked call, which dials again when it is ended."""
    rng, outcome = random.Random(seed), Outcome()
    async with calls(outcome) as (site, _):
        attacked = None
        while outcome.sent < count:
            if attacked is None:
                attacked, _ = await site.call()
            for _ in range(min(25, count - outcome.sent)):
                if attacked.channel.readyState == "open":
                    await send(attacked, message(rng))
                    outcome.sent += 1
            if not await answers(attacked):
                await attacked.close()
                attacked = None
                outcome.attacked_lost += 1
    return outcome


def datagram(rng: random.Random, first: int, length: int) -> bytes:
    """Random bytes behind this first one; what looks like STUN, DTLS or RTP looks so for longer, half of the time."""
    data = bytearray(rng.randbytes(length))
    if rng.random() < 0.5 and length >= 20:
        if first < 4:  # STUN: a binding request with the magic cookie, the right length and some attribute
            data[:8] = bytes([first, 1]) + (length - 20).to_bytes(2, "big") + bytes.fromhex("2112a442")
            kind = rng.choice([0x0006, 0x0008, 0x0009, 0x0020, 0x0024, 0x8028, 0x8029, 0x802A])
            if length >= 24:
                data[20:24] = kind.to_bytes(2, "big") + rng.randrange(0, 40).to_bytes(2, "big")
        elif 19 < first < 64:
            data[1:13] = b"\xfe\xfd" + bytes(8) + (length - 13).to_bytes(2, "big") if length < 65_000 else data[1:13]
        elif 127 < first < 192:
            data[1] = rng.choice([96, 111, 200, 201, 205, 206])
    if data:
        data[0] = first
    return bytes(data)


def message(rng: random.Random) -> str | bytes | tuple[int, bytes]:
    """Text or bytes for the data channel; or bytes under another kind of payload (RFC 8831 section 8)."""
    kind = rng.randrange(12)
    if kind == 0:
        return rng.randbytes(rng.randrange(200))
    if kind == 1:
        return (rng.choice([rtcsctptransport.WEBRTC_STRING, 56, 57, 77]), rng.randbytes(rng.randrange(1, 60)))
    if kind == 2:
        return "".join(chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])) for _ in range(30))
    if kind == 3:
        return rng.choice(["[", '{"a":', "["]) * rng.randrange(1, 5_000)
    if kind == 4:
        return "x" * rng.choice([channel.MAX_MESSAGE_BYTES - 1, channel.MAX_MESSAGE_BYTES + 1, 60_000])
    name = "bye" if rng.random() < BYE_SHARE else rng.choice(TYPES)
    text = json.dumps({"v": 1, "type": name, "seq": rng.randrange(9), "data": value(rng, 3)})
    if kind == 5:
        return text[: rng.randrange(len(text))]
    if kind == 6:
        return text.replace('"v": 1', f'"v": {rng.choice(["NaN", "1e999", "-1", "null", "true", "9" * 400])}')
    return text


def value(rng: random.Random, depth: int) -> Any:
    """Any JSON value; objects have the names of the protocol's members, and some others."""
    kind = rng.randrange(4) if depth else 0
    if kind < 2 and depth < 3:
        return rng.choice(LEAVES)
    if kind == 2:
        return [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice(MEMBERS): value(rng, depth - 1) for _ in range(rng.randrange(5))}


async def send(caller: Caller, what: str | bytes | tuple[int, bytes]) -> None:
    if isinstance(what, tuple):
        sctp, stream = caller.connection.sctp, caller.channel.id
        assert sctp is not None
        assert stream is not None
        await sctp._send(stream, *what)
    else:
        caller.channel.send(what)


async def answers(caller: Caller) -> bool:
    """Whether a call still answers, and has therefore read all that was sent to it; False once it has ended."""
    nonce = f"still there {len(caller.events)}"
    if caller.channel.readyState == "open":
        caller.send("ping", nonce=nonce)
    deadline = time.monotonic() + 10
    while caller.channel.readyState == "open" and time.monotonic() < deadline:
        if any(event["data"].get("nonce") == nonce for event in caller.of_type("pong")):
            return True
        await asyncio.sleep(0.01)
    return False


def media_socket(caller: Caller) -> tuple[socket.socket, tuple[str, int]]:
    """A caller's own socket, and the server's address that it sends to."""
    (pair,) = caller.transport()._connection._nominated.values()
    return socket.socket(fileno=os.dup(pair.protocol.transport.get_extra_info("socket").fileno())), pair.remote_addr


@contextmanager
def lifted_limits() -> Iterator[None]:
    """Channels that are opened meanwhile take any number of messages."""
    usual = channel.MESSAGES_PER_S, channel.MESSAGE_BURST
    channel.MESSAGES_PER_S, channel.MESSAGE_BURST = 1e9, 1e9
    try:
        yield
    finally:
        channel.MESSAGES_PER_S, channel.MESSAGE_BURST = usual


@contextmanager
def errors_noted(errors: list[str]) -> Iterator[None]:
    """Whatever is logged as an error, or with a traceback, is noted."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.ERROR or record.exc_info or "Traceback" in record.getMessage():
                errors.append(self.format(record))

    notes = Notes(logging.INFO)
    logging.getLogger().addHandler(notes)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(notes)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--datagrams", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    perfect = True
    runs: list[tuple[str, Callable[[int, int], Any], int]] = [
        ("datagrams", fuzz_datagrams, options.datagrams),
        ("messages", fuzz_messages, options.messages),
    ]
    for name, fuzz, count in runs:
        begin = time.monotonic()
        outcome = asyncio.run(fuzz(count, options.seed))
        print(f"{name}: {outcome} ({time.monotonic() - begin:.0f} s)", flush=True)
        for error in [*outcome.wrong_answers, *dict.fromkeys(outcome.errors)][:10]:
            print(error)
        perfect &= outcome.perfect
    return 0 if perfect else 1


if __name__ == "__main__":
    sys.exit(main())
