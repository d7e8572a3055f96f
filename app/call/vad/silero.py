"""Silero VAD v6 (MIT licence, github.com/snakers4/silero-vad): a small recurrent network, run by onnxruntime.

The model file is the 16 kHz one of the package ``silero-vad`` 6.2, unchanged.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from engine.client import INPUT_RATE

MODEL = Path(__file__).with_name("assets") / "silero_vad_16k.onnx"
CHUNK_SAMPLES = 512
"""What the network looks at in one step: 32 ms at 16 kHz …"""

CONTEXT_SAMPLES = 64
"""… after this much of the step before."""


class SileroDetector:
    """One stream's state; all streams share the network. About 120 µs per 32 ms."""

    def __init__(self) -> None:
        self._network = _load()
        self._state = np.zeros((2, 1, 128), np.float32)
        self._line = np.zeros(CONTEXT_SAMPLES, np.float32)
        self._probability = 0.0

    def push(self, frame: NDArray[np.int16]) -> float:
        """The network's newest probability for int16 [320] at 16 kHz: up to 32 ms old, since its steps are longer."""
        self._line = np.concatenate([self._line, frame.astype(np.float32) / 32768])
        while len(self._line) >= CONTEXT_SAMPLES + CHUNK_SAMPLES:
            chunk = self._line[np.newaxis, : CONTEXT_SAMPLES + CHUNK_SAMPLES]
            self._line = self._line[CHUNK_SAMPLES:]
            feeds = {"input": chunk, "state": self._state, "sr": np.array(INPUT_RATE, np.int64)}
            probability, self._state = self._network.run(None, feeds)
            self._probability = float(probability[0, 0])
        return self._probability


@cache
def _load() -> onnxruntime.InferenceSession:
    """The network, on one thread: a step is too small to share, and media has the other cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(MODEL), options, providers=["CPUExecutionProvider"])
