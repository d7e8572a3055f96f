"""RTCSctpTransport._send_chunk: what is sent after the end of DTLS is lost, as on any network.

Reason: SCTP's timers and queues go on for a moment after the other side has closed DTLS. Their chunks then raise, in
tasks that nobody waits for, and leave a traceback in the log.
"""

from __future__ import annotations

from contextlib import suppress

from aiortc.rtcsctptransport import Chunk, RTCSctpTransport
from OpenSSL import SSL

_send = RTCSctpTransport._send_chunk


def apply() -> None:
    """Put the patch in place."""
    RTCSctpTransport._send_chunk = _send_or_lose  # type: ignore[method-assign, assignment]


async def _send_or_lose(transport: RTCSctpTransport, chunk: Chunk) -> None:
    with suppress(ConnectionError, SSL.Error):
        await _send(transport, chunk)
