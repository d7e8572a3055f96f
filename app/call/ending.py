"""When a call is told that it will end."""

from __future__ import annotations

NOTICES_S = (60.0, 30.0)
"""How long before its end a call is told, seconds."""


def notices_s(limit_s: float) -> tuple[float, ...]:
    """How long before the end of something that may last ``limit_s`` its end is announced, seconds, the longest first.
    Where there is little time, half and a quarter of it."""
    return tuple(min(notice_s, limit_s / 2**n) for n, notice_s in enumerate(NOTICES_S, start=1))
