"""aioice.ice.get_host_addresses: choose the addresses that are gathered and announced.

Reason: aioice gathers every address of the machine, docker bridges included, and never 127.0.0.1; neither can be
configured. On a machine without a network it then announces nothing at all, and a call on the machine itself could
never connect: there loopback takes over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address

from aioice import ice

_gather: Callable[[bool, bool], list[str]] = ice.get_host_addresses
_chosen: tuple[str, ...] = ()


def choose(addresses: Sequence[str]) -> None:
    """From now on gather exactly these addresses; none means all of the machine's."""
    global _chosen
    _chosen = tuple(addresses)


def apply() -> None:
    """Put the patch in place."""
    ice.get_host_addresses = _host_addresses


def _host_addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
    wanted = {4: use_ipv4, 6: use_ipv6}
    if _chosen:
        return [address for address in _chosen if wanted[ip_address(address).version]]
    return _gather(use_ipv4, use_ipv6) or ["127.0.0.1"]
