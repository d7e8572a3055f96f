"""Sentences spoken by hibari (a distillation of Kokoro, Apache-2.0), with the time of every phone.

The package is unpacked, not installed: ``pip download --no-deps hibari-tts==0.2.1``. Its network gives a spectrum frame
by frame; how long each phone lasts is inside, as the result of the only node that rounds, and becomes one more output
here (package ``onnx``). There is one voice. A second one, a man's, is made of the same frames: pitch lowered, the
spectrum's envelope moved down as by a longer throat. Both get a wider melody than they come with.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.mini.sound.voice_data import HOP, RATE
from engine.processing.pronunciation import MARKS, WIDE, Pronunciation

STEP = 600
"""Samples of a duration's unit."""
LEAD = RATE // 20
"""Samples of silence that are kept before the first phone."""
LOUDNESS, PEAK = 0.085, 0.9
"""Standard deviation of a sentence, and what no sample exceeds."""
PITCH_HZ = 188.0
"""The voice's median."""
VOICED_HZ = 60.0
NARROW = {wide: narrow for narrow, wide in WIDE.items()}
Frames = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Tone:
    """How a voice is made of hibari's."""

    melody: float
    """Factor on the distance of the pitch from its median, on a logarithmic scale."""
    pitch: float = 1.0
    formants: float = 1.0


TONES = (Tone(melody=1.28), Tone(melody=1.4, pitch=0.58, formants=0.88))
"""A woman and a man. Pocketsphinx understands 93 and 95 % of 40 open sentences of them."""


@dataclass(frozen=True, slots=True)
class TimedSpeech:
    voice: int
    text: str
    samples: NDArray[np.int16]
    """24 kHz, a whole number of codes."""
    tokens: tuple[str, ...]
    """Phones and marks, as the talker reads them."""
    starts: tuple[int, ...]
    """Sample with which each begins."""


class Hibari:
    def __init__(self, package: Path, pronunciation: Pronunciation) -> None:
        """``package``: the unpacked wheel. Raises ImportError without onnx or onnxruntime."""
        import onnx  # type: ignore[import-not-found]
        import onnxruntime

        sys.path.insert(0, str(package))
        self._dsp: Any = importlib.import_module("hibari.dsp")
        assets = package / "hibari" / "assets"
        self._ids: dict[str, int] = json.loads((assets / "vocab.json").read_text(encoding="utf-8"))
        network = onnx.load(assets / "hibari.onnx")
        [rounding] = [node for node in network.graph.node if node.op_type == "Round"]
        network.graph.output.append(
            onnx.helper.make_tensor_value_info(rounding.output[0], onnx.TensorProto.FLOAT, None)
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(network.SerializeToString(), options)
        self._pronounce = pronunciation

    def __call__(self, text: str, voice: int, seed: int, speed: float = 0.95) -> TimedSpeech:
        """``seed`` draws the breath. Raises ValueError for a text without a phone."""
        pieces = list(self._pieces(text))
        ids = [0, *(self._ids[letter] for piece in pieces for letter in piece), 0]
        if len(ids) == 2:
            raise ValueError(f"there is nothing to say in {text!r}")
        *frames, rounded = self._session.run(None, {"ids": np.array([ids]), "speed": np.array([speed], np.float32)})
        begins = np.concatenate([[0], np.cumsum(rounded.reshape(-1))]) * STEP
        wave = self._wave([frame[0] for frame in frames], TONES[voice], seed)
        cut = max(0, int(begins[1]) - LEAD)
        wave = wave[cut : cut + (len(wave) - cut) // (2 * HOP) * 2 * HOP]
        wave = wave * min(LOUDNESS / (wave.std() + 1e-9), PEAK / (np.abs(wave).max() + 1e-9))
        tokens, starts, at = [], [], 1
        for piece in pieces:
            if piece != " ":
                tokens.append(piece.translate(WIDE))
                starts.append(int(begins[at]) - cut)
            at += len(piece)
        return TimedSpeech(voice, text, np.round(wave * 32767).astype(np.int16), tuple(tokens), tuple(starts))

    def _pieces(self, text: str) -> Iterator[str]:
        """Phones, marks, and spaces between words, in hibari's letters."""
        last = ""
        for token in self._pronounce.tokens(text):
            if token in MARKS:
                if last and last not in MARKS:
                    yield token
                    last = token
                continue
            if last:
                yield " "
            yield from re.findall("[ˈˌ]?.", token.translate(NARROW))
            last = token

    def _wave(self, frames: list[Frames], tone: Tone, seed: int) -> Frames:
        voiced, turn, noise, free, phase, pitch = frames
        moved = np.exp(np.log(PITCH_HZ) + tone.melody * np.log(np.maximum(pitch, VOICED_HZ) / PITCH_HZ))
        pitch = np.where(pitch > VOICED_HZ, tone.pitch * moved, 0).astype(np.float32)
        if tone.formants != 1:
            voiced, turn, noise, free = (_stretched(frame, tone.formants) for frame in (voiced, turn, noise, free))
            voiced = voiced + np.float32(np.log(tone.pitch) / 2)  # more harmonics, each less loud
        wave: Frames = self._dsp.synth(voiced, turn, noise, free, phase, pitch, np.random.default_rng(seed))
        return wave


def _stretched(frames: Frames, factor: float) -> Frames:
    """Frames [bins, T] whose value at a frequency is moved to ``factor`` times that frequency."""
    at = np.minimum(np.arange(len(frames)) / factor, len(frames) - 1.001)
    below = at.astype(np.int64)
    share = (at - below)[:, None].astype(np.float32)
    moved: Frames = frames[below] * (1 - share) + frames[below + 1] * share
    return moved
