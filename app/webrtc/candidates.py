"""The browser's ICE candidates: read strictly (RFC 8839 section 5.1), and only those tried that can be its own.

A candidate names an address and a port, and the server sends checks there: whoever makes a call could have it knock at
any door of its network. Nothing is lost by trying few: a browser that reaches the server is found by its own checks
(peer-reflexive, RFC 8445 section 7.3.1.3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from aiortc import RTCIceCandidate
from aiortc.sdp import candidate_from_sdp

from app.errors import RequestError

IpAddress = IPv4Address | IPv6Address

FIELDS = re.compile(
    r"(?P<foundation>[A-Za-z0-9+/]{1,32}) (?P<component>[0-9]{1,3}) (?P<transport>[A-Za-z0-9-]+)"
    r" (?P<priority>[0-9]{1,10}) (?P<address>[A-Za-z0-9.:_-]+) (?P<port>[0-9]{1,5}) typ (?P<type>[a-z]+)"
    r"( raddr [A-Za-z0-9.:_-]+)?( rport (?P<related_port>[0-9]{1,5}))?( (?!raddr |rport )[!-~]+ [!-~]+)*"
)
"""After the port come pairs of a name and a value, which may be unknown."""

MAX_PORT = 65_535

SAME_NETWORK_BITS = {4: 24, 6: 64}
"""The network that a private address is taken to be in, as its mask is not known."""


def parse_candidate(text: str) -> RTCIceCandidate | None:
    """One trickled candidate, or None where there is nothing to try: the end of candidates, TCP, which the server does
    not speak, RTCP's component, and names such as ``.local``, which only their own network could resolve.

    Raises RequestError ``bad_candidate``.
    """
    text = " ".join(text.removeprefix("a=").removeprefix("candidate:").split())
    if not text or text == "end-of-candidates":
        return None
    found = FIELDS.fullmatch(text)
    if found is None:
        raise RequestError("bad_candidate", "A candidate cannot be read; it is like an a=candidate line (RFC 8839).")
    udp = found["transport"].lower() == "udp"
    port, related_port = int(found["port"]), int(found["related_port"] or 0)
    if not udp <= port <= MAX_PORT or related_port > MAX_PORT:
        raise RequestError("bad_candidate", f"A candidate has port {port}; ports are from 1 to {MAX_PORT}.")
    if _is_name(found["address"]):
        return None
    try:
        ip_address(found["address"])
    except ValueError:
        raise RequestError(
            "bad_candidate", f"A candidate has the address {found['address'][:60]}, which is none."
        ) from None
    return candidate_from_sdp(text) if udp and int(found["component"]) == 1 else None


@dataclass(frozen=True, slots=True)
class Reachable:
    """Where one caller can be: the answer to which of its candidates are tried.

    ``caller`` is the address that its HTTP requests come from, ``here`` are the server's own addresses, and ``relays``
    says whether there is a TURN server, behind which both sides may use relayed addresses.
    """

    caller: str
    here: frozenset[str] = field(default_factory=frozenset)
    relays: bool = False

    def includes(self, candidate: RTCIceCandidate) -> bool:
        """Whether a candidate that :func:`parse_candidate` gave is tried: an address of the caller's own, one of the
        same private network, or a relay's."""
        address, caller = _plain(candidate.ip), _plain(self.caller)
        if (
            address is None
            or address.is_multicast
            or address.is_unspecified
            or address == IPv4Address("255.255.255.255")
        ):
            return False
        if candidate.type == "relay":
            return self.relays and not (address.is_loopback or address.is_link_local)
        if caller is None:
            return False
        if address == caller:
            return True
        if caller.is_loopback or str(caller) in self.here:  # the browser runs on this machine
            return str(address) in self.here
        if address.version != caller.version or not (address.is_private and caller.is_private):
            return False
        return address in ip_network((caller, SAME_NETWORK_BITS[caller.version]), strict=False)

    def filter(self, offer: str) -> str:
        """An offer without the candidate lines that are not tried. Raises RequestError ``bad_candidate``."""
        return "\n".join(line for line in offer.splitlines() if not self._is_out(line))

    def _is_out(self, line: str) -> bool:
        if not line.startswith("a=candidate:"):
            return False
        candidate = parse_candidate(line)
        return candidate is None or not self.includes(candidate)


def _plain(text: str) -> IpAddress | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _is_name(address: str) -> bool:
    """Whether an address has a letter where none of a number's can be: the name of a host."""
    return ":" not in address and re.search(r"[^0-9.]", address) is not None
