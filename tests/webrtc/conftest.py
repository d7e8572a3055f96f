"""Loopback media and a peer under test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from app.webrtc import patches
from app.webrtc.offer import read_offer
from app.webrtc.patches import host_addresses
from app.webrtc.peer import Peer, PeerSettings
from app.webrtc.tracks import MicrophoneTimeline
from tests.webrtc.caller import Caller, ProbeCall


@pytest.fixture(autouse=True)
def _loopback() -> Iterator[None]:
    patches.apply()
    host_addresses.choose(["127.0.0.1"])
    yield
    host_addresses.choose([])


@dataclass
class Line:
    """A caller connected to a peer, whose call is a probe."""

    caller: Caller
    call: ProbeCall
    peer: Peer
    lost: list[str] = field(default_factory=list)
    flooded: list[None] = field(default_factory=list)


Connect = Callable[..., Awaitable[Line]]


@pytest.fixture
async def answer() -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """Answer an offer with a new peer."""
    peers: list[Peer] = []
    with ThreadPoolExecutor(1) as workers:

        async def answer(offer: str) -> str:
            call = cast(Any, ProbeCall())
            peers.append(
                Peer(call, MicrophoneTimeline(), PeerSettings((), workers), lambda peer, why: None, lambda: None)
            )
            return await peers[-1].answer(read_offer(offer))

        yield answer
        for peer in peers:
            await peer.close()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connect a caller, whose offer may be edited on its way, to a new peer and wait until its channel is open."""
    lines: list[Line] = []
    workers = ThreadPoolExecutor(1)

    async def connect(caller: Caller | None = None, *, edit: Callable[[str], str] = str) -> Line:
        caller, call, lost, flooded = caller or Caller(), ProbeCall(), list[str](), list[None]()
        peer = Peer(
            cast(Any, call),
            MicrophoneTimeline(),
            PeerSettings((), workers),
            lambda _, why: lost.append(why),
            lambda: flooded.append(None),
        )
        line = Line(caller, call, peer, lost, flooded)
        lines.append(line)
        await caller.accept(await peer.answer(read_offer(edit(await caller.offer()))))
        await caller.connected()
        return line

    yield connect
    for line in lines:
        await line.peer.close()
        await line.caller.close()
    workers.shutdown()
