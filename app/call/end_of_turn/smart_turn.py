"""Smart Turn v3.2 (BSD-2-Clause, © Daily): a small network that hears from the melody of speech whether a turn is over.

The model file is ``smart-turn-v3.2-cpu.onnx`` of the package ``pipecat-ai`` 1.14, unchanged. It sees the last eight
seconds as Whisper's front end would show them, padded with silence in front.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
from librosa.filters import mel
from numpy.typing import NDArray

from engine.client import INPUT_RATE

MODEL = Path(__file__).with_name("assets") / "smart_turn_v3_2.onnx"
SAMPLES = 8 * INPUT_RATE
MEL_BANDS = 80
WINDOW, HOP = 400, 160
"""Samples: 25 ms every 10 ms (arXiv 2212.04356, section 2.2)."""


class SmartTurn:
    """An :class:`app.call.end_of_turn.judge.EndOfTurn`. Calls share the network and the one thread that it runs on: two
    questions at once would both be late."""

    def __init__(self) -> None:
        _thread()  # begins to load

    async def probability(self, audio: NDArray[np.int16]) -> float:
        return await asyncio.get_running_loop().run_in_executor(_thread(), judge, audio)


def judge(audio: NDArray[np.int16]) -> float:
    """The probability that the turn is over after ``audio``, int16 [n] at 16 kHz. About 100 ms of CPU."""
    (probability,) = _network().run(None, {"input_features": log_mel(audio)[np.newaxis]})
    return float(probability[0, 0])


def log_mel(audio: NDArray[np.int16]) -> NDArray[np.float32]:
    """int16 [n] → log-mel float32 [80, 800] of its last eight seconds, scaled to about −1 to 1."""
    wave = audio[-SAMPLES:].astype(np.float32) / 32768
    wave = np.pad(wave, (SAMPLES - len(wave), 0))
    wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)  # over the padding, too: as the network was trained
    padded = np.pad(wave, WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:-1]  # [800, 400]; Whisper drops the last
    power = np.abs(np.fft.rfft(frames * _window(), axis=1)) ** 2  # [800, 201]
    loudness = np.log10(np.maximum(_filters() @ power.T, 1e-10))  # [80, 800]
    loudness = np.maximum(loudness, loudness.max() - 8.0)
    scaled: NDArray[np.float32] = ((loudness + 4.0) / 4.0).astype(np.float32)
    return scaled


@cache
def _window() -> NDArray[np.float64]:
    return np.hanning(WINDOW + 1)[:-1]


@cache
def _filters() -> NDArray[np.float32]:
    filters: NDArray[np.float32] = mel(sr=INPUT_RATE, n_fft=WINDOW, n_mels=MEL_BANDS)
    return filters


@cache
def _network() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(MODEL), options, providers=["CPUExecutionProvider"])


@cache
def _thread() -> ThreadPoolExecutor:
    """Loads the network at once, so that the first pause does not wait for it."""
    thread = ThreadPoolExecutor(1, "end of turn")
    thread.submit(judge, np.zeros(1, np.int16))
    return thread
