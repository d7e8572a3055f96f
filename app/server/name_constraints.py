"""What the local authority may sign for: this machine and private networks (RFC 5280 section 4.2.1.10).

A device that trusts an authority without such bounds trusts whoever gets its key with every page of the web.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from cryptography import x509

LOCAL_DOMAINS = ("localhost", "local")
"""A domain stands for itself and for all below it; ``local`` belongs to multicast DNS (RFC 6762)."""

PRIVATE_NETWORKS = tuple(
    map(
        ip_network,
        (
            "127.0.0.0/8",
            "10.0.0.0/8",  # RFC 1918
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",  # link-local, RFC 3927
            "100.64.0.0/10",  # shared by customers of a provider, RFC 6598; overlay networks use it, too
            "::1/128",
            "fc00::/7",  # RFC 4193
            "fe80::/10",
        ),
    )
)


def name_constraints(names: Iterable[str], addresses: Iterable[str]) -> x509.NameConstraints:
    """The bounds of an authority for a machine with these names and addresses. Of a public IPv6 address they take in
    its /64, in which the machine changes its address daily (RFC 8981)."""
    domains = [*LOCAL_DOMAINS, *(name for name in names if not _below(name, LOCAL_DOMAINS))]
    networks = list(PRIVATE_NETWORKS)
    for address in map(ip_address, addresses):
        if not _inside(address, networks):
            networks.append(ip_network((address, 32 if address.version == 4 else 64), strict=False))
    return x509.NameConstraints([*map(x509.DNSName, domains), *map(x509.IPAddress, networks)], None)


def permitted(
    constraints: x509.NameConstraints, names: Iterable[str], addresses: Iterable[str]
) -> list[x509.GeneralName]:
    """Those of the names and addresses that an authority with these bounds may sign for, in their order."""
    subtrees = [subtree.value for subtree in constraints.permitted_subtrees or []]
    domains = [value for value in subtrees if isinstance(value, str)]
    networks = [value for value in subtrees if isinstance(value, IPv4Network | IPv6Network)]
    return [
        *(x509.DNSName(name) for name in names if _below(name, domains)),
        *(x509.IPAddress(address) for address in map(ip_address, addresses) if _inside(address, networks)),
    ]


def _below(name: str, domains: Iterable[str]) -> bool:
    return any(name == domain or name.endswith(f".{domain}") for domain in domains)


def _inside(address: IPv4Address | IPv6Address, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    return any(address in network for network in networks)
