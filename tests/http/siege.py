"""A server under siege: bad offers beside a call that must not notice, and calls that begin and end by the hundred.

``python -m tests.http.siege [--offers 10000] [--cycles 500]`` starts a server (scripted engine, in its own process, on
the loopback), attacks it, prints figures, and ends with status 1 if something was not as it should be.

* Offers: mutations of good ones, and candidates for those that were answered. Each gets a JSON answer that is no 500;
  meanwhile a bystander talks: its events have no gap, its packets none, each ping its pong, each question its answer.
* Cycles: calls that hang up, say bye, close, or (one in ten) fall silent without a word; each 25th end meets an event
  loop that stands still for 0.7 s. Afterwards places, engine sessions, tasks and descriptors are what they were.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import random
import re
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from app.server.options import ServerOptions
from app.server.server import Server, engine_spec
from engine.serving.factory import create_engine
from tests.webrtc import caller as callers
from tests.webrtc.caller import Caller, Camera

FLAGS = (
    *("--engine", "scripted", "--host", "127.0.0.1", "--port", "0", "--ice-hosts", "127.0.0.1"),
    *("--offers-per-minute", "0", "--max-calls", "24", "--grace-s", "1"),
)
WARM_UP_CYCLES = 20
MORE_MB = 40
"""Memory that calls may leave behind, all together: caches and what the allocator keeps."""

PATIENCE_S = 60.0
STALL_S = 0.7


# ------------------------------------------------------------------------------------------------------ the besieged
class FaultCount(logging.Handler):
    """Counts what is logged as an error, or with a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.seen[f"{record.name}: {record.getMessage()[:160]}"] += 1


async def serve() -> None:
    """The server; reads ``figures`` or ``stall SECONDS`` from stdin and answers each with a line of JSON."""
    faults = FaultCount()
    logging.basicConfig(level=logging.WARNING, handlers=[faults, logging.StreamHandler(sys.stderr)])
    options = ServerOptions.parse(FLAGS, {})
    async with Server(options, create_engine(engine_spec(options))) as server:
        await server.listen(None)
        await server.start_engine()
        print(json.dumps({"port": server.port}), flush=True)
        commands = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        while line := (await commands.readline()).decode().split():
            answer: dict[str, Any] = {}
            if line[0] == "stall":
                time.sleep(float(line[1]))  # noqa: ASYNC251  on purpose
            else:
                answer = await figures(server) | {"faults": faults.seen}
            print(json.dumps(answer), flush=True)


async def figures(server: Server) -> dict[str, int]:
    """What the server holds now."""
    return {
        "places": len(server.registry),
        "engine_sessions": len(await server.engine.sessions()),
        "tasks": len(asyncio.all_tasks()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "memory_mb": memory_mb(),
    }


def memory_mb() -> int:
    """What this process holds in memory, without what is garbage."""
    gc.collect()
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) // 1024


class Besieged:
    """The server's process, and HTTP to it."""

    async def __aenter__(self) -> Besieged:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.http.siege", "--serve"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._turn = asyncio.Lock()
        port = (await self._read())["port"]
        self.http = ClientSession(f"http://127.0.0.1:{port}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def tell(self, command: str) -> dict[str, Any]:
        """Send a command; its answer."""
        async with self._turn:
            assert self._process.stdin is not None
            self._process.stdin.write(command.encode() + b"\n")
            return await self._read()

    async def settled(self, places: int) -> dict[str, Any]:
        """The figures when only so many places and sessions are left, or after some patience."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            now = await self.tell("figures")
            done = now["places"] == now["engine_sessions"] == places
            if done or time.monotonic() > deadline:
                await asyncio.sleep(2.0)  # connections, timers and threads have their own ends
                return await self.tell("figures")
            await asyncio.sleep(0.5)

    async def call(self, caller: Caller) -> str:
        """Connect; the call's id. Waits where too many others connect."""
        sdp = await caller.offer()
        while True:
            async with self.http.post("/api/calls", json={"type": "offer", "sdp": sdp}) as response:
                answer = await response.json()
                if response.status == 201:
                    break
                assert response.status in (429, 503), answer
            await asyncio.sleep(0.1)
        await caller.accept(answer["sdp"])
        await caller.connected()
        return str(answer["call_id"])

    async def hang_up(self, call_id: str) -> None:
        async with self.http.delete(f"/api/calls/{call_id}") as response:
            assert response.status in (204, 404)

    async def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return answer


# --------------------------------------------------------------------------------------------------- the bystander
class Bystander:
    """A call that goes on beside the attack and notes all that is not as it should be."""

    def __init__(self) -> None:
        self.caller = Caller()
        self.pings = self.questions = 0

    async def live(self) -> None:
        while True:
            self.caller.send("ping", nonce=self.pings)
            self.pings += 1
            if self.pings % 8 == 1 and len(self.caller.of_type("response.done")) == self.questions:
                self.questions += 1
                self.caller.send("input.text", text=f"Question {self.questions}")
            await asyncio.sleep(1.0)

    async def faults(self) -> list[str]:
        """What it noticed, once its last question is answered."""
        with suppress(AssertionError):
            await self.caller.receive("response.done", self.questions)
            await self.caller.receive("pong", self.pings)
        caller, found = self.caller, []
        if caller.connection.connectionState != "connected":
            found.append(f"the connection is {caller.connection.connectionState}")
        if [event["seq"] for event in caller.events] != list(range(len(caller.events))):
            found.append("its events have a gap")
        if [event["data"]["nonce"] for event in caller.of_type("pong")] != list(range(self.pings)):
            found.append(f"{self.pings} pings got {len(caller.of_type('pong'))} pongs")
        done = [event["data"]["status"] for event in caller.of_type("response.done")]
        if done != ["completed"] * self.questions:
            found.append(f"{self.questions} questions ended as {Counter(done)}")
        if told := [event["data"] for kind in ("warning", "error", "session.ending") for event in caller.of_type(kind)]:
            found.append(f"it was told {told[:3]}")
        stats = await caller.connection.getStats()
        if lost := sum(s.packetsLost for s in stats.values() if s.type == "inbound-rtp"):
            found.append(f"{lost} of its packets were lost")
        return [f"bystander: {fault}" for fault in found]


# ------------------------------------------------------------------------------------------------------ the attacks
ODD = ("", "0", "-1", "65536", "99999999999999999999", "1e9", "ü", "\x00", "\ud83d", "a=", "m=audio", "*", "x" * 300)


def mutated(offer: str, chance: random.Random) -> str:
    """An offer with one to four changes: lines and words that are missing, doubled, swapped, replaced or cut."""
    lines = offer.split("\r\n")
    for _ in range(chance.randint(1, 4)):
        at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        match chance.randrange(9):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, lines[other])
            case 2:
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                words = re.split(r"([ :=/])", lines[at])
                words[chance.randrange(len(words))] = chance.choice(ODD)
                lines[at] = "".join(words)
            case 4:
                lines[at] = lines[at][: chance.randrange(len(lines[at]) + 1)]
            case 5:
                lines[at] = re.sub(r"\d+", lambda _: chance.choice(ODD), lines[at], count=1)
            case 6:
                lines = lines[: max(1, at)]
            case 7:
                lines += lines[at:]
            case 8:
                text = list(lines[at])
                chance.shuffle(text)
                lines[at] = "".join(text)
        lines = lines[:400] or [""]
    return "\r\n".join(lines)


def bad_body(offers: list[str], chance: random.Random) -> Any:
    """The body of an offer: mostly a mutated description, sometimes another thing that is wrong."""
    body: dict[str, Any] = {"type": "offer", "sdp": mutated(chance.choice(offers), chance)}
    kind = chance.randrange(20)
    if kind == 0:
        body["options"] = {
            chance.choice(["vad", "prompt", "seed", "voice", "no"]): chance.choice([*ODD, None, 1e9, {}])
        }
    elif kind == 1:
        body["ticket"] = chance.choice([*ODD, 7, None, []])
    elif kind == 2:
        body[chance.choice(["type", "sdp"])] = chance.choice([*ODD, 7, None, [], {}])
    elif kind == 3:
        return chance.choice([[], 7, None, "offer", [body]])
    return body


def bad_candidate(chance: random.Random) -> dict[str, Any]:
    words = f"candidate:1 1 udp 2122260223 127.0.0.{chance.randrange(300)} {chance.randrange(70_000)} typ host".split()
    if chance.random() < 0.5:
        words[chance.randrange(len(words))] = chance.choice(ODD)
    return {"candidate": " ".join(words)}


async def fuzz_offers(besieged: Besieged, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Send ``count`` bad offers; how they were answered, and what was wrong with the answers."""
    chance = random.Random(seed)
    answers: Counter[str] = Counter()
    faults: list[str] = []
    good = [Caller(), Caller(camera=Camera(0)), Caller(camera=Camera(0), codec="video/H264")]
    offers = [await caller.offer() for caller in good]
    for number in range(count):
        body = bad_body(offers, chance)
        async with besieged.http.post("/api/calls", json=body) as response:
            text = await response.text()
        try:
            answer = json.loads(text)
            code = "answered" if response.status == 201 else answer["error"]["code"]
        except (ValueError, KeyError, TypeError):
            code = "no JSON"
        answers[f"{response.status} {code}"] += 1
        if response.status >= 500 or code == "no JSON":
            faults.append(f"offer {number} was answered {response.status} {text[:200]}")
        if response.status == 201:
            path = f"/api/calls/{answer['call_id']}"
            async with besieged.http.patch(path, json=bad_candidate(chance)) as response:
                answers[f"candidate {response.status}"] += 1
            await besieged.hang_up(answer["call_id"])
    for caller in good:
        await caller.close()
    return answers, faults


async def cycle(besieged: Besieged, number: int) -> str:
    """One call that begins and ends; how it ended."""
    caller = Caller()
    call_id = await besieged.call(caller)
    await caller.receive("welcome")
    stall = asyncio.create_task(besieged.tell(f"stall {STALL_S}")) if number % 25 == 24 else None
    if number % 10 == 9:
        caller.vanish()
        how = "vanished"
    elif number % 3 == 0:
        caller.send("bye")
        how = "said bye"
        await asyncio.sleep(0.05)
    elif number % 3 == 1:
        how = "closed"
    else:
        await besieged.hang_up(call_id)
        how = "hung up"
    await caller.close()
    if stall is not None:
        await stall
        how += ", loop stalled"
    return how


async def cycles(besieged: Besieged, count: int) -> Counter[str]:
    """``count`` calls, two at a time."""
    numbers = iter(range(count))
    ends: Counter[str] = Counter()

    async def some() -> None:
        for number in numbers:
            ends[await cycle(besieged, number)] += 1

    await asyncio.gather(some(), some())
    return ends


async def siege(offers: int, cycle_count: int, seed: int = 1, warm_up: int = WARM_UP_CYCLES) -> list[str]:
    """All of it, with figures on stdout; what was not as it should be."""
    callers.PATIENCE_S = PATIENCE_S
    faults: list[str] = []
    async with Besieged() as besieged:
        await cycles(besieged, warm_up)
        before = await besieged.settled(0)
        print("before:", show(before))

        begun = time.monotonic()
        bystander = Bystander()
        await besieged.call(bystander.caller)
        living = asyncio.create_task(bystander.live())
        answers, wrong = await fuzz_offers(besieged, offers, seed)
        living.cancel()
        faults += wrong + await bystander.faults()
        print(f"{offers} offers in {time.monotonic() - begun:.0f} s:", show(answers))
        print(
            f"bystander: {bystander.pings} pings, {bystander.questions} questions, {len(bystander.caller.heard)} frames"
        )
        await bystander.caller.close()
        print("after the offers:", show(await besieged.settled(0)))

        begun = time.monotonic()
        ends = await cycles(besieged, cycle_count)
        print(f"{cycle_count} calls in {time.monotonic() - begun:.0f} s:", show(ends))
        after = await besieged.settled(0)
        print("after:", show(after))
    for name in ("places", "engine_sessions"):
        if after[name]:
            faults.append(f"{after[name]} {name} are left")
    for name in ("tasks", "descriptors"):
        if after[name] > before[name] + 2:  # a connection of the besieger's own, and its handler
            faults.append(f"{name}: {before[name]} before, {after[name]} after")
    if after["memory_mb"] > before["memory_mb"] + MORE_MB:
        faults.append(f"memory: {before['memory_mb']} MB before, {after['memory_mb']} MB after")
    return faults + [f"{times} times in the log: {fault}" for fault, times in after["faults"].items()]


def show(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(counts.items()) if name != "faults")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.http.siege", description=__doc__)
    parser.add_argument("--offers", type=int, default=10_000)
    parser.add_argument("--cycles", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        asyncio.run(serve())
        return 0
    faults = asyncio.run(siege(args.offers, args.cycles, args.seed))
    for fault in faults:
        print("FAULT", fault)
    print("all is well" if not faults else f"{len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
