"""RTCSctpTransport._data_channel_receive: one bad message is dropped, not the connection.

Reason: a text that is not UTF-8, a second opening of a channel and an acknowledgement of none (RFC 8832) raise inside
of aiortc's DTLS transport, whose loop then ends, and the call with it.
"""

from __future__ import annotations

import logging

from aiortc import rtcsctptransport
from aiortc.rtcsctptransport import RTCSctpTransport

log = logging.getLogger(__name__)

_receive = RTCSctpTransport._data_channel_receive


def apply() -> None:
    """Put the patch in place."""
    RTCSctpTransport._data_channel_receive = _receive_checked  # type: ignore[method-assign, assignment]


async def _receive_checked(transport: RTCSctpTransport, stream_id: int, pp_id: int, data: bytes) -> None:
    if pp_id == rtcsctptransport.WEBRTC_STRING:
        await _receive(transport, stream_id, pp_id, data.decode("utf-8", "replace").encode())
    elif pp_id == rtcsctptransport.WEBRTC_DCEP:
        try:
            await _receive(transport, stream_id, pp_id, data)
        except (AssertionError, UnicodeDecodeError):
            log.debug("a message about a data channel was dropped", exc_info=True)
    else:
        await _receive(transport, stream_id, pp_id, data)
