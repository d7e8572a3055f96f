"""Reverse proxies in front of the server: whose request it is that one of them passes on.

A proxy is the sender of every connection, so that limits for each client would be limits for all of them. One that the
operator has named is believed about who sent it a request (``X-Forwarded-For``, to which every proxy adds the sender it
sees); from anybody else that header is a claim, and is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

from aiohttp import web
from aiohttp.typedefs import Handler

from app.server.limits import ip_of

Network = IPv4Network | IPv6Network

PROXIES: web.AppKey[Sequence[Network]] = web.AppKey("proxies")
"""The networks of the proxies that are believed."""


def networks(text: str) -> tuple[Network, ...]:
    """Networks and addresses, parted by commas. Raises ValueError with what the text must be."""
    try:
        return tuple(ip_network(word) for word in text.replace(",", " ").split())
    except ValueError as error:
        raise ValueError(f"must be IP addresses or networks (10.0.0.0/8) separated by commas; {error}") from None


def client_address(sender: str, forwarded: Sequence[str], proxies: Sequence[Network]) -> str:
    """Who made a request that came from the address ``sender`` with these ``X-Forwarded-For`` headers.

    The list is read from its end, which the nearest proxy wrote, as long as the one who wrote it is believed."""
    hops = [hop.strip().strip("[]") for header in forwarded for hop in header.split(",")]
    client = sender
    while hops and is_proxy(client, proxies) and (hop := ip_of(hops.pop())):
        client = str(hop)
    return client


def is_proxy(address: str, proxies: Sequence[Network]) -> bool:
    """Whether ``address`` is one of the proxies'."""
    ip = ip_of(address)
    return ip is not None and any(ip in network for network in proxies)


@web.middleware
async def as_the_client(request: web.Request, handler: Handler) -> web.StreamResponse:
    """From here on, ``request.remote`` is the client's address."""
    client = client_address(request.remote or "", request.headers.getall("X-Forwarded-For", ()), request.app[PROXIES])
    return await handler(request if client == request.remote else request.clone(remote=client))
