"""Files from the web, where the server's owner allows it: of public addresses only, so that nobody reaches what lies
behind the server's firewall through it, and neither large nor slow."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from ipaddress import IPv4Address, IPv6Address

from aiohttp import (
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
    ThreadedResolver,
)
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from app.openai.errors import ApiError
from app.openai.media import RemotePart

MAX_BYTES = 12 << 20
TIMEOUT_S = 10.0
MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = IPv4Address | IPv6Address


def is_public(address: Address) -> bool:
    """Whether an address is one of the internet's, and leads to no other kind of address inside of it (RFC 4291, 6052,
    3056)."""
    if isinstance(address, IPv6Address):
        translated = IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else None
        if (inner := address.ipv4_mapped or address.sixtofour or translated) is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved


class _Refused(Exception):
    """The half of a sentence that says why an address is not fetched from."""


class _Resolver(AbstractResolver):
    """Looks names up, and gives none but allowed addresses: what is checked is what is connected to."""

    def __init__(self, allowed: Callable[[Address], bool]) -> None:
        self._allowed, self._inner = allowed, ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        for entry in found:
            _check(entry["host"], self._allowed)
        return found

    async def close(self) -> None:
        await self._inner.close()


def _check(host: str, allowed: Callable[[Address], bool]) -> None:
    """Raise _Refused for an address that is not allowed; a name is none."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0].strip("[]"))
    except ValueError:
        return
    if not allowed(address):
        raise _Refused("is no public address")


async def fetch(parts: Sequence[RemotePart], *, allowed: Callable[[Address], bool] = is_public) -> list[bytes]:
    """The files of all parts, in their order. Raises ApiError."""
    connector = TCPConnector(resolver=_Resolver(allowed), limit=4, use_dns_cache=False)
    timeout = ClientTimeout(total=TIMEOUT_S)
    async with ClientSession(
        connector=connector, timeout=timeout, cookie_jar=DummyCookieJar(), trust_env=False, auto_decompress=False
    ) as session:
        return list(await asyncio.gather(*(_fetch(session, part, allowed) for part in parts)))


async def _fetch(session: ClientSession, part: RemotePart, allowed: Callable[[Address], bool]) -> bytes:
    try:
        async with AsyncExitStack() as stack:
            return await _read(await _open(session, stack, URL(part.url), allowed))
    except _Refused as refusal:
        cause = str(refusal)
    except TimeoutError:
        cause = f"did not answer within {TIMEOUT_S:g} s"
    except (ClientError, OSError, ValueError) as error:
        inner = error.__cause__ or error.__context__
        cause = str(inner) if isinstance(inner, _Refused) else "cannot be reached"
    raise ApiError(f"{part.path} {cause}; send the file itself as a data URL.", param=part.path, code="invalid_media")


async def _open(
    session: ClientSession, stack: AsyncExitStack, url: URL, allowed: Callable[[Address], bool]
) -> ClientResponse:
    """The answer at the end of all redirects."""
    for _ in range(MAX_REDIRECTS + 1):
        if url.scheme not in ("http", "https") or not url.host or url.user or url.password:
            raise _Refused("leads to an address that is not plain http or https")
        _check(url.host, allowed)  # names go through the resolver
        headers = {"Accept-Encoding": "identity", "User-Agent": "omni-call"}
        response = await stack.enter_async_context(session.get(url, allow_redirects=False, headers=headers))
        if response.status not in REDIRECTS:
            return response
        url = url.join(URL(response.headers.get("Location", "")))
    raise _Refused(f"was redirected more than {MAX_REDIRECTS} times")


async def _read(response: ClientResponse) -> bytes:
    if response.status != 200:
        raise _Refused(f"was answered with status {response.status}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _Refused("was answered in a compressed form")
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > MAX_BYTES:
            raise _Refused(f"has more than {MAX_BYTES >> 20} MB")
    if not data:
        raise _Refused("is empty")
    return bytes(data)
