"""Google's WebRTC detector (Gaussian mixtures over six sub-bands) behind an energy gate.

By itself it takes hum, clicks and music for speech, and at low levels also noise; the gate is what it needs.
"""

from __future__ import annotations

import numpy as np
import webrtcvad
from numpy.typing import NDArray

from app.call.config import VadConfig
from app.call.vad.detector import level_dbfs
from app.call.vad.energy import EnergyGate
from engine.client import INPUT_RATE


class WebrtcDetector:
    """webrtcvad with mode ``config.webrtc_mode``; about 30 µs per frame."""

    def __init__(self, config: VadConfig) -> None:
        self._vad = webrtcvad.Vad(config.webrtc_mode)
        self._gate = EnergyGate(config)

    def push(self, frame: NDArray[np.int16]) -> float:
        """1.0 or 0.0 for int16 [320] at 16 kHz."""
        centred = np.clip(frame - np.rint(frame.mean(dtype=np.float64)), -32768, 32767).astype(np.int16)
        voiced = self._vad.is_speech(centred.tobytes(), INPUT_RATE)  # asked for every frame: it adapts to what it hears
        loud = self._gate.push(level_dbfs(frame))
        return float(voiced and loud)
