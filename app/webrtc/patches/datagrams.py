"""aioice.ice.StunProtocol.datagram_received: only datagrams that can be the peer's get any further.

Reason: aioice passes on whatever is not STUN, from any address, and aiortc's DTLS transport ends the connection at
what it did not expect: an empty datagram (it looks at the first byte), or one longer than the buffer of libsrtp. One
datagram from anybody ended a call, therefore. And each STUN message with an attribute that is too short left a
traceback in the log, since aioice catches ValueError alone.

What is dropped: datagrams that are empty or longer than an Ethernet frame carries; what claims to be STUN (RFC 7983
section 7) and cannot be read; anything else from an address that is in no pair of the check list. Nearly all pairs
there come from checks that were authenticated (RFC 8445 section 7.3), the rest from candidates of the caller's own
offer. The selected pair alone would be too few: the controlling side may begin DTLS on a pair just before this side
sees its nomination.
"""

from __future__ import annotations

import struct
from typing import Any

from aioice import ice, stun

MAX_DATAGRAM_BYTES = 1500
LAST_STUN_BYTE = 3

_receive = ice.StunProtocol.datagram_received


def apply() -> None:
    """Put the patch in place."""
    ice.StunProtocol.datagram_received = _receive_from_peer


def _receive_from_peer(protocol: ice.StunProtocol, data: bytes | str, addr: tuple[Any, ...]) -> None:
    assert isinstance(data, bytes)
    if not 0 < len(data) <= MAX_DATAGRAM_BYTES:
        return
    if data[0] <= LAST_STUN_BYTE:
        if not _readable(data):
            return
    elif not _paired(protocol, addr):
        return
    _receive(protocol, data, addr)


def _readable(data: bytes) -> bool:
    try:
        stun.parse_message(data)
    except (ValueError, struct.error):
        return False
    return True


def _paired(protocol: ice.StunProtocol, addr: tuple[Any, ...]) -> bool:
    source = (addr[0], addr[1])  # of IPv6 there is more
    return any(pair.protocol is protocol and pair.remote_addr == source for pair in protocol.receiver._check_list)
