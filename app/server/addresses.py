"""Under which names and addresses other devices reach this machine."""

from __future__ import annotations

import ipaddress
import socket

import ifaddr

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::")

OUTSIDE = ("192.0.2.1", 9)
"""Somewhere behind the router (an address of no one, RFC 5737). Nothing is ever sent there."""


def local_addresses() -> list[str]:
    """The addresses under which other devices reach this machine: no loopback, no link-local ones."""
    found = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            address = ipaddress.ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0])
            if not (address.is_loopback or address.is_link_local or address.is_unspecified):
                found.append(str(address))
    return sorted(set(found))


def local_names() -> list[str]:
    """The host names under which this machine is reached, localhost first."""
    host = socket.gethostname().lower()
    names = ["localhost", host]
    if "." not in host:
        names.append(f"{host}.local")  # what multicast DNS calls it on a home network
    return [name for name in dict.fromkeys(names) if _is_dns_name(name)]


def reachable_hosts(listening: str) -> list[str]:
    """What other devices put into the address of a server that listens on this host, the likeliest first; empty if it
    listens for this machine alone. The likeliest is the one by which this machine reaches others, not a bridge of its
    containers."""
    if listening in LOOPBACK:
        return []
    if listening not in EVERYWHERE:
        return [listening]
    versions = (4,) if listening == "0.0.0.0" else (4, 6)
    found = [address for address in local_addresses() if ipaddress.ip_address(address).version in versions]
    first = _way_out()
    return sorted(found, key=lambda address: (address != first, ipaddress.ip_address(address).version))


def origin(host: str, port: int) -> str:
    """The address of the server's pages, as ``https://[2001:db8::1]:8443``."""
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"


def _way_out() -> str | None:
    """The IPv4 address from which this machine would speak to the outside; None if there is no way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(OUTSIDE)  # of UDP: the system looks for the route, and that is all
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _is_dns_name(name: str) -> bool:
    labels = name.split(".")
    return len(name) < 64 and all(
        label.isascii() and label.replace("-", "").isalnum() and not label.startswith("-") for label in labels
    )
