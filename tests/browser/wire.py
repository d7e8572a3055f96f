"""The network between a browser and the server, which a test can cut: every datagram of a call passes through here."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from playwright.async_api import Page, Route

CANDIDATE = re.compile(r"(a=candidate:\S+ \d+ udp \d+) (\S+) (\d+) ", re.IGNORECASE)


class Wire:
    """Answers of the server name this wire's ports instead of its own; the browser then talks to those."""

    def __init__(self) -> None:
        self.cut = False
        self._transports: list[asyncio.DatagramTransport] = []

    async def lay(self, page: Page) -> Wire:
        """Put the wire between ``page`` and its server; do so before the call begins."""
        for path in ("**/api/calls", "**/api/calls/*/restart"):
            await page.route(path, self._on_offer)
        return self

    def close(self) -> None:
        for transport in self._transports:
            transport.close()

    async def _on_offer(self, route: Route) -> None:
        answer = await route.fetch()
        if not answer.ok:
            await route.fulfill(response=answer)
            return
        body: dict[str, Any] = await answer.json()
        for whole, front, host, port in {match.group(0, 1, 2, 3) for match in CANDIDATE.finditer(body["sdp"])}:
            near = await self._relay(host, int(port))
            body["sdp"] = body["sdp"].replace(whole, f"{front} 127.0.0.1 {near} ")
        await route.fulfill(response=answer, json=body)

    async def _relay(self, host: str, port: int) -> int:
        """A port that passes on to the server what the browser sends there, and back what the server answers."""
        near, far = _End(self), _End(self)
        near.other, far.other = far, near
        far.peer = (host, port)
        loop = asyncio.get_running_loop()
        near.transport, _ = await loop.create_datagram_endpoint(lambda: near, local_addr=("127.0.0.1", 0))
        far.transport, _ = await loop.create_datagram_endpoint(lambda: far, local_addr=("127.0.0.1", 0))
        self._transports += [near.transport, far.transport]
        address: tuple[str, int] = near.transport.get_extra_info("sockname")
        return address[1]


class _End(asyncio.DatagramProtocol):
    """One side of a relay; ``peer`` is who is there."""

    transport: asyncio.DatagramTransport
    other: _End

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.peer: tuple[str, int] | None = None

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.peer = self.peer or addr
        if not self._wire.cut and self.other.peer is not None:
            self.other.transport.sendto(data, self.other.peer)
