"""Voice activity: which 20 ms frames of the microphone are speech, and from where to where a person speaks."""

from __future__ import annotations

from app.call.config import VadConfig
from app.call.vad.detector import VoiceDetector, level_dbfs
from app.call.vad.speech import SpeechTracker
from app.call.vad.webrtc import WebrtcDetector

__all__ = [
    "SpeechTracker",
    "VoiceDetector",
    "create_detector",
    "create_tracker",
    "level_dbfs",
]


def create_detector(config: VadConfig) -> VoiceDetector:
    """The detector that ``config`` names, in its initial state."""
    if config.kind == "silero":
        from app.call.vad.silero import SileroDetector  # loads onnxruntime, which calls with webrtcvad do not need

        return SileroDetector()
    return WebrtcDetector(config)


def create_tracker(config: VadConfig, now: int = 0) -> SpeechTracker:
    """The tracker for the probabilities of :func:`create_detector`, from media time ``now`` (samples) on."""
    on, off, fall_db, sure = 0.5, 0.5, 0.0, 0.0
    if config.kind == "silero":
        on, off, fall_db, sure = config.silero_on, config.silero_off, config.silero_fall_db, config.silero_sure
    return SpeechTracker(
        on=on,
        off=off,
        fall_db=fall_db,
        sure=sure,
        onset_ms=config.onset_ms,
        onset_window_ms=config.onset_window_ms,
        lull_ms=config.lull_ms,
        end_silence_ms=config.end_silence_ms,
        end_voiced_share=config.end_voiced_share,
        end_quiet_ms=config.end_quiet_ms,
        reach_back_ms=config.reach_back_ms,
        now=now,
    )
