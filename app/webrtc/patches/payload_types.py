"""aiortc.rtp.DYNAMIC_PAYLOAD_TYPES: codecs numbered 35 to 63 keep their number, too.

Reason: browsers use these numbers once 96 to 127 are taken (RFC 5761 section 4 leaves them to RTP). aiortc answers
such a codec with a number of its own, which the offer uses for another codec or not at all, and the stream is not
understood.
"""

from __future__ import annotations

from aiortc import rtp

DYNAMIC = (*range(35, 64), *range(96, 128))


def apply() -> None:
    """Put the patch in place."""
    rtp.DYNAMIC_PAYLOAD_TYPES = DYNAMIC  # type: ignore[assignment]
