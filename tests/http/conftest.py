"""The server in the test's own process: plain HTTP on the loopback, a scripted engine behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession

from app.server.options import ServerOptions
from app.server.server import Server, engine_spec
from engine.serving.factory import create_engine
from tests.webrtc.caller import Caller, until

StartServer = Callable[..., Awaitable["Site"]]


class Site:
    """A running server and an HTTP client for it."""

    def __init__(self, server: Server, http: ClientSession) -> None:
        self.server = server
        self.http = http
        self.callers: list[Caller] = []

    async def post(self, path: str, body: Any) -> tuple[int, dict[str, Any], ClientResponse]:
        async with self.http.post(path, json=body) as response:
            return response.status, await response.json(), response

    async def offer(self, sdp: str, **more: Any) -> tuple[int, dict[str, Any], ClientResponse]:
        return await self.post("/api/calls", {"type": "offer", "sdp": sdp, **more})

    async def call(self, caller: Caller | None = None, **more: Any) -> tuple[Caller, dict[str, Any]]:
        """Begin a call; return the caller, with an open channel, and the answer."""
        caller = caller or Caller()
        self.callers.append(caller)
        status, answer, _ = await self.offer(await caller.offer(), **more)
        assert status == 201, answer
        await caller.accept(answer["sdp"])
        await caller.connected()
        return caller, answer

    async def hang_up(self, call_id: str) -> int:
        async with self.http.delete(f"/api/calls/{call_id}") as response:
            return response.status

    async def free(self, places: int) -> None:
        """Wait until only this many places are taken."""
        await until(lambda: len(self.server.registry) == places, f"{places} taken places")


@pytest.fixture
async def start() -> AsyncIterator[StartServer]:
    """Start a server with these options (and a scripted engine on the loopback)."""
    sites: list[Site] = []

    async def start(*flags: str, ready: bool = True, in_process: bool = True) -> Site:
        usual = ["--engine", "scripted", "--host", "127.0.0.1", "--port", "0", "--ice-hosts", "127.0.0.1"]
        options = ServerOptions.parse([*usual, *flags], {})
        engine = create_engine(replace(engine_spec(options), in_process=in_process))
        server = await Server(options, engine).__aenter__()
        await server.listen(None)
        if ready:
            await server.start_engine()
        sites.append(Site(server, ClientSession(f"http://127.0.0.1:{server.port}")))
        return sites[-1]

    yield start
    for site in sites:
        for caller in site.callers:
            await caller.close()
        await site.http.close()
        await site.server.close()


@pytest.fixture
async def site(start: StartServer) -> Site:
    """A server with the usual options."""
    return await start()
