"""Changes to private names of aiortc and aioice, one file each with its reason.

They hold for the whole process and for the pinned versions; each has a regression test in tests/webrtc that fails
when an upgrade moves the name.
"""

from app.webrtc.patches import (
    channel_messages,
    datagrams,
    host_addresses,
    jitter_buffers,
    late_chunks,
    opus_decoder,
    opus_encoder,
    payload_types,
)


def apply() -> None:
    """Put all patches in place. Applying them again changes nothing."""
    channel_messages.apply()
    datagrams.apply()
    host_addresses.apply()
    jitter_buffers.apply()
    late_chunks.apply()
    opus_decoder.apply()
    opus_encoder.apply()
    payload_types.apply()
