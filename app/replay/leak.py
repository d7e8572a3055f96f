"""A loudspeaker beside the microphone: what the replayed call plays is heard in what it is told to hear.

What an answer sounds like depends on the engine, so that its echo cannot be in a bundle's audio. A bundle can say how
it leaks instead: ``"leak": {"gain_db": -12, "delay_ms": 120, "room_ms": 200}`` in call.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.call.microphone import StreamResampler
from engine.client import INPUT_RATE, OUTPUT_RATE

SPEAKER_HZ = (250.0, 6_500.0)
"""What a small loudspeaker gives: it falls by 12 dB an octave below, and above."""

DIRECT = 3.0
"""How much stronger than the first of its reflections the sound itself is."""

BOUNDS = {"gain_db": (-80.0, 20.0), "delay_ms": (5.0, 2_000.0), "room_ms": (10.0, 2_000.0)}


@dataclass(frozen=True, slots=True)
class Leak:
    """How the loudspeaker is heard."""

    gain_db: float
    """Level of speech in the microphone relative to what was played."""
    delay_ms: float
    """From the moment at which a sound is taken for the listener to that at which it is heard."""
    room_ms: float = 200.0
    """Reverberation time of the room: after it 60 dB are gone."""

    @classmethod
    def from_mapping(cls, values: object) -> Leak:
        """Read the member of call.json. Raises ValueError with what is wrong."""
        if not isinstance(values, Mapping) or not {"gain_db", "delay_ms"} <= set(values) <= set(BOUNDS):
            raise ValueError("a leak has gain_db, delay_ms and perhaps room_ms")
        for name, value in values.items():
            low, high = BOUNDS[name]
            if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"{name} of a leak must be a number from {low:g} to {high:g}")
        return cls(**{name: float(value) for name, value in values.items()})

    def as_mapping(self) -> dict[str, Any]:
        """The member of call.json."""
        return asdict(self)


class LeakyRoom:
    """Takes what is pulled for the listener and gives what the microphone hears of it, 16 kHz. Deterministic."""

    def __init__(self, leak: Leak) -> None:
        self._response = _response(leak)
        self._resample = StreamResampler(OUTPUT_RATE)
        self._line = np.zeros(round(leak.delay_ms * INPUT_RATE / 1000), np.float64)
        self._tail = np.zeros(len(self._response) - 1, np.float64)

    def play(self, pcm: NDArray[np.int16]) -> None:
        """int16 [n] at 24 kHz goes to the loudspeaker."""
        sound = self._resample.push(pcm).astype(np.float64)
        heard = np.convolve(np.append(sound, 0.0), self._response)[:-1]
        heard[: len(self._tail)] += self._tail
        self._line = np.concatenate([self._line, heard[: len(sound)]])
        self._tail = heard[len(sound) :]

    def hear(self, microphone: NDArray[np.int16]) -> NDArray[np.int16]:
        """The next samples of the microphone, int16 [n] at 16 kHz, with the echo in them."""
        echo, self._line = self._line[: len(microphone)], self._line[len(microphone) :]
        both = microphone.astype(np.float64)
        both[: len(echo)] += echo
        return np.clip(np.rint(both), -32768, 32767).astype(np.int16)


def _response(leak: Leak) -> NDArray[np.float64]:
    """Impulse response of the loudspeaker and the room, at 16 kHz: the sound itself, and noise that dies away."""
    samples = round(leak.room_ms * INPUT_RATE / 1000)
    time_s = np.arange(samples) / INPUT_RATE
    noise = np.random.default_rng(round(leak.room_ms)).standard_normal(samples)
    response = noise * 10 ** (-3 * time_s * 1000 / leak.room_ms) / 2
    response[0] = DIRECT
    spectrum = np.fft.rfft(response, 4 * samples)
    hertz = np.fft.rfftfreq(4 * samples, 1 / INPUT_RATE)
    low, high = SPEAKER_HZ
    spectrum /= np.sqrt((1 + (low / np.maximum(hertz, 1)) ** 4) * (1 + (hertz / high) ** 4))
    speech = 1 / (1 + (hertz / 500) ** 3)  # long-term spectrum of speech: falls by 9 dB an octave above 500 Hz
    power = (np.abs(spectrum) ** 2 * speech).sum() / speech.sum()
    found: NDArray[np.float64] = np.fft.irfft(spectrum)[:samples] * 10 ** (leak.gain_db / 20) / np.sqrt(power)
    return found
