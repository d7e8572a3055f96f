"""The listening side of HTTP: how many connections there may be, and how long each may take for what it has to do.

A connection costs memory before its first byte has come (TLS alone keeps a quarter of a megabyte), so the bounds hold
where it is accepted: one address has so many at once, all together so many. What stalls after that, in the TLS
handshake, in the middle of a header or of a body, or in taking an answer, is closed by a timer.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import socket
import ssl
import sys
from asyncio import sslproto
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from aiohttp import web

from app.errors import RequestError
from app.server.api import error_response, refused
from app.server.limits import client_of
from app.server.pages import SECURITY_HEADERS
from app.server.proxies import Network, is_proxy

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 512
MAX_PER_ADDRESS = 64
"""A browser holds six; many may share an address behind a router."""

HANDSHAKE_S = 8.0
GOODBYE_S = 2.0
"""What a peer gets to answer the end of a TLS connection."""

IDLE_S = 15.0
"""How long a connection may be without a whole request: before the first one, between two, and within a header."""

UNREAD_S = 2.0
"""How long the rest of a body that nobody wants is read, so that the answer is not lost with a reset connection."""

ANSWER_S = 30.0
"""How long the peer may take to accept an answer."""

BACKLOG = 128

TLS_BUFFER_BYTES = 16 * 1024
"""What asyncio keeps for each TLS connection to read into, one record (RFC 8446 section 5.1). It takes 256 KB by
itself, and as much again for a moment at every read, which leaves the heap full of holes."""

WAVE = 48
"""From so many connections on, their end is the time to give their memory back to the system."""

SETTLED_S = 1.0


class ConnectionCount:
    """How many connections are open, of each address and of all."""

    def __init__(
        self, most: int = MAX_CONNECTIONS, most_per_address: int = MAX_PER_ADDRESS, proxies: Sequence[Network] = ()
    ) -> None:
        """``proxies``: who may have as many as there are, since they have them for others."""
        self._proxies = proxies
        self._most = most
        self._most_per_address = most_per_address
        self._open: Counter[str] = Counter()
        self._peak = 0
        self.total = 0
        self.refused = 0
        """Connections that were closed at once."""

    def add(self, address: str) -> bool:
        """Count one more; False if it is one too many, which is then not counted."""
        client = client_of(address)
        many = self._open[client] >= self._most_per_address and not is_proxy(address, self._proxies)
        if many or self.total >= self._most:
            self.refused += 1
            return False
        self._open[client] += 1
        self.total += 1
        self._peak = max(self._peak, self.total)
        return True

    def remove(self, address: str) -> None:
        """One of them is gone."""
        client = client_of(address)
        self.total -= 1
        self._open[client] -= 1
        if not self._open[client]:
            del self._open[client]
        if self._peak >= WAVE and self.total < self._peak / 2:
            self._peak = self.total
            asyncio.get_running_loop().call_later(SETTLED_S, _give_memory_back)


class BoundedListener(socket.socket):
    """A listening TCP socket that hands out no connection beyond the bounds: it accepts and closes them."""

    def __init__(self, family: int, address: tuple[Any, ...], count: ConnectionCount) -> None:
        """Raises OSError if the address cannot be had."""
        super().__init__(family, socket.SOCK_STREAM)
        self._count = count
        try:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                self.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.setblocking(False)
            self.bind(address)
        except OSError:
            self.close()
            raise

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection within the bounds. Raises BlockingIOError when there is none."""
        while True:
            accepted, address = super().accept()
            if self._count.add(address[0]):
                return _Connection(accepted, self._count, address[0]), address
            accepted.close()


class _Connection(socket.socket):
    """An accepted socket, which is counted until it is closed."""

    def __init__(self, accepted: socket.socket, count: ConnectionCount, address: str) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self._counted: tuple[ConnectionCount, str] | None = (count, address)

    def close(self) -> None:
        super().close()
        if self._counted is not None:
            count, address = self._counted
            self._counted = None
            count.remove(address)


class Connection(web.RequestHandler):
    """aiohttp's side of one connection. What it answers by itself, before a request reaches the application, is our
    JSON, too; an answer that is not taken in time is given up."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            raise ConnectionError("The client is gone, or has the beginning of another answer.") from exc
        if status < 500:
            log.debug("a request that is no HTTP: %s", exc)
            response = refused(exc)
        else:
            log.error("%s %s failed", request.method, request.path, exc_info=exc)
            response = error_response(
                RequestError("internal", "Something went wrong here; the server's log says what.")
            )
        response.headers.update(SECURITY_HEADERS)
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException) and resp.status >= 400:  # from outside of the middleware
            resp = refused(resp)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            log.debug("%s does not take its answer", request.remote)
            if request.transport is not None:
                request.transport.abort()
            return resp, True


async def listen(
    runner: web.AppRunner, host: str, port: int, tls: ssl.SSLContext | None, proxies: Sequence[Network]
) -> tuple[list[asyncio.Server], int]:
    """Serve the application of ``runner``, which is set up, at these addresses, behind these proxies; port 0 takes a
    free one. The servers and the port. Raises OSError."""
    loop = asyncio.get_running_loop()
    sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES
    count = ConnectionCount(proxies=proxies)
    server = runner.server
    assert server is not None
    access_log = logging.getLogger("app.access") if log.isEnabledFor(logging.DEBUG) else None

    def connection() -> Connection:
        return Connection(
            server,
            loop=loop,
            access_log=access_log,  # type: ignore[arg-type]  # None is right, and means no log
            keepalive_timeout=IDLE_S,
            lingering_time=UNREAD_S,
            auto_decompress=False,  # no page compresses its few kilobytes; what does is after the server's memory
        )

    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    servers: list[asyncio.Server] = []
    try:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            listener = BoundedListener(family, (address[0], port, *address[2:]), count)
            port = listener.getsockname()[1]
            servers.append(
                await loop.create_server(
                    connection,
                    sock=listener,
                    ssl=tls,
                    backlog=BACKLOG,
                    ssl_handshake_timeout=HANDSHAKE_S if tls else None,
                    ssl_shutdown_timeout=GOODBYE_S if tls else None,
                )
            )
    except BaseException:
        for opened in servers:
            opened.close()
        raise
    return servers, port


def _give_memory_back() -> None:
    """Return the free pages of the heap to the system, which glibc does not do by itself where a page in use lies
    behind them. Takes some milliseconds, on a thread."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            asyncio.get_running_loop().run_in_executor(None, ctypes.CDLL(None).malloc_trim, 0)
