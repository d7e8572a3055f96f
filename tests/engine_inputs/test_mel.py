"""Log-mel frames equal Whisper's own front end, whatever the length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from engine.config import MelConfig
from engine.errors import InputError
from engine.processing.mel import MelExtractor, mel_filters, mel_length, split_clips
from tests.engine_inputs.conftest import GoldenSet

CONFIG = MelConfig(80, 16_000, 160, 400, 30)
EXTRACT = MelExtractor(CONFIG)
REFERENCE = WhisperFeatureExtractor()
SOUNDS = {"sys": "ref_audio", "unit0": "unit0_audio", "unit3": "unit3_audio", "turn2_unit0": "turn2_audio"}


@pytest.mark.parametrize("name", SOUNDS)
def test_goldens(golden: GoldenSet, name: str) -> None:
    torch.testing.assert_close(
        EXTRACT(golden.sounds[SOUNDS[name]]), golden.expected[f"stream.{name}.mel"][0], rtol=0, atol=1e-4
    )


def test_filters_are_whispers() -> None:
    np.testing.assert_allclose(mel_filters(80, 400, 16_000), REFERENCE.mel_filters, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(
    st.one_of(st.integers(321, 40_000), st.sampled_from([479_800, 479_961, 479_999, 480_000])),
    st.sampled_from([0.0, 1e-5, 0.01, 0.5]),
    st.integers(0, 2**32 - 1),
)
def test_equals_the_padded_front_end(samples: int, loudness: float, seed: int) -> None:
    sound = (np.random.default_rng(seed).standard_normal(samples) * loudness).astype(np.float32)
    reference = REFERENCE(sound, sampling_rate=16_000, return_tensors="np")["input_features"][0]
    expected = torch.from_numpy(reference[:, : mel_length(samples)])
    torch.testing.assert_close(EXTRACT(sound), expected, rtol=0, atol=1e-4)


def test_a_late_bang_counts_for_the_loudness() -> None:
    """The last frame that a clip touches lies behind its end, and is louder than all that is kept."""
    sound = np.zeros(16_001, np.float32)
    sound[:-1] = 1e-4 * np.sin(np.arange(16_000))
    sound[-40:] = 1.0
    reference = REFERENCE(sound, sampling_rate=16_000, return_tensors="np")["input_features"][0][:, :101]
    torch.testing.assert_close(EXTRACT(sound), torch.from_numpy(reference), rtol=0, atol=1e-4)


def test_clips_of_a_batch_are_independent() -> None:
    wave = np.sin(np.arange(4_000, dtype=np.float32))
    quiet, loud = wave * np.float32(1e-4), wave
    both = EXTRACT(torch.from_numpy(np.stack([quiet, loud])))
    torch.testing.assert_close(both[0], EXTRACT(quiet))
    torch.testing.assert_close(both[1], EXTRACT(loud))


def test_int16_and_float_mean_the_same() -> None:
    pcm = (np.sin(np.arange(8_000) / 20) * 20_000).astype(np.int16)
    pcm.flags.writeable = False
    assert torch.equal(EXTRACT(pcm), EXTRACT((pcm / 32_768).astype(np.float32)))


@pytest.mark.parametrize(
    ("sound", "words"),
    [
        (np.zeros(0, np.float32), "at least 321"),
        (np.zeros(320, np.float32), "at least 321"),
        (np.zeros(480_001, np.float32), "at most 30 s"),
        (np.full(4_000, np.nan, np.float32), "finite"),
        (np.array(0.5, np.float32), "at least 321"),
    ],
)
def test_unusable_sounds_are_refused(sound: NDArray[np.float32], words: str) -> None:
    with pytest.raises(InputError, match=words):
        EXTRACT(sound)


def test_long_sounds_are_split() -> None:
    lengths = [len(piece) for piece in split_clips(np.zeros(2 * 480_000 + 500, np.float32), CONFIG)]
    assert lengths == [480_000, 480_000, 500]
    assert [len(piece) for piece in split_clips(np.zeros(480_200, np.float32), CONFIG)] == [480_000]
