"""Who speaks in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.mini.sound import voices
from engine.mini.sound.synthesis import Speech
from engine.mini.sound.synthesis_programs import has_pico, has_rhvoice, pico, rhvoice


def test_what_slow_voices_say_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def read(texts: list[str], rng: np.random.Generator) -> list[Speech]:
        calls.append(texts)
        return [
            Speech(rng.uniform(-1, 1, 50 + i).astype(np.float32), 16_000, (("AH", 0.1),), high=i > 0)
            for i in range(len(texts))
        ]

    monkeypatch.setattr(voices, "_slow_voices", lambda: {"low": (1.0, read), "rare": (0.5, read)})
    made, again = (voices.cached_speech(tmp_path, 4) for _ in range(2))
    assert [len(texts) for texts in calls] == [4, 2]
    assert [text for text, _ in made] == [text for texts in calls for text in texts]
    assert [speech.high for _, speech in made] == [False, True, True, True, False, True]
    assert [len(speech.samples) for _, speech in made] == [50, 51, 52, 53, 50, 51]
    for (text, one), (same_text, other) in zip(made, again, strict=True):
        assert (text, one.rate, one.phones, one.high) == (same_text, other.rate, other.phones, other.high)
        assert np.array_equal(one.samples, other.samples)


def test_programs_that_are_not_there_have_no_voices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "has_rhvoice", lambda: False)
    monkeypatch.setattr(voices, "has_pico", lambda: True)
    assert {"rms", "slt", "en-GB"} <= set(voices._slow_voices())
    assert "bdl" not in voices._slow_voices()


@pytest.mark.skipif(not has_pico(), reason="SVOX Pico (libttspico-utils) is not installed")
def test_pico_reads() -> None:
    speech = pico("seven", "en-GB", np.random.default_rng(1))
    assert 0.3 < len(speech.samples) / speech.rate < 3
    assert abs(speech.samples).max() > 0.1


@pytest.mark.skipif(not has_rhvoice(), reason="RHVoice is not installed")
def test_rhvoice_reads() -> None:
    speech = rhvoice("seven", "bdl", np.random.default_rng(1))
    assert 0.3 < len(speech.samples) / speech.rate < 3
    assert abs(speech.samples).max() > 0.1
