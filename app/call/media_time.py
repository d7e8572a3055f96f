"""Media time: samples of the microphone at 16 kHz, processed in frames of 20 ms. The only clock of a call."""

from engine.client import INPUT_RATE

FRAME_MS = 20
"""Length of a frame in milliseconds."""

FRAME_SAMPLES = INPUT_RATE * FRAME_MS // 1000
"""Length of a frame in samples at 16 kHz."""
