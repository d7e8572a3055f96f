"""Figures of a peer's transport for the ``metrics`` event, out of aiortc's statistics (W3C webrtc-stats)."""

from __future__ import annotations

from typing import Any

from aiortc.stats import (
    RTCInboundRtpStreamStats,
    RTCRemoteInboundRtpStreamStats,
    RTCStatsReport,
    RTCTransportStats,
)

from app.webrtc.tracks import RTC_RATE


class Figures:
    """Turns the running totals of a connection into figures for the time since the update before."""

    def __init__(self) -> None:
        self._packets = 0
        self._audio_received = 0
        self._audio_lost = 0
        self.received_something = False
        """Whether any packet came between the last two updates."""

    def update(self, report: RTCStatsReport) -> dict[str, Any]:
        """The figures: ``rtt_ms`` (round trip of RTCP), ``loss`` (share of audio packets that did not come, 0 to 1),
        ``jitter_ms`` (of audio arrivals, RFC 3550 section 6.4.1). A figure that is not known yet is left out."""
        figures: dict[str, Any] = {}
        packets = 0
        for stats in report.values():
            if isinstance(stats, RTCTransportStats):
                packets += stats.packetsReceived
            elif isinstance(stats, RTCRemoteInboundRtpStreamStats) and stats.roundTripTime is not None:
                figures["rtt_ms"] = round(stats.roundTripTime * 1000, 1)
            elif isinstance(stats, RTCInboundRtpStreamStats) and stats.kind == "audio":
                received = stats.packetsReceived - self._audio_received
                lost = max(0, stats.packetsLost - self._audio_lost)
                self._audio_received, self._audio_lost = stats.packetsReceived, stats.packetsLost
                figures["loss"] = round(lost / max(1, lost + received), 3)
                figures["jitter_ms"] = round(stats.jitter / RTC_RATE * 1000, 1)
        self.received_something = packets != self._packets
        self._packets = packets
        return figures
