"""Loopback media and a peer under test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from app.webrtc import patches
from app.webrtc.patches import host_addresses
from app.webrtc.peer import Peer, PeerSettings
from app.webrtc.sdp import check_offer
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
async def connect() -> AsyncIterator[Connect]:
    """Connect a caller (with these tracks) to a new peer and wait until its channel is open."""
    lines: list[Line] = []
    workers = ThreadPoolExecutor(1)

    async def connect(caller: Caller | None = None) -> Line:
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
        await caller.accept(await peer.answer(check_offer(await caller.offer())))
        await caller.connected()
        return line

    yield connect
    for line in lines:
        await line.peer.close()
        await line.caller.close()
    workers.shutdown()
