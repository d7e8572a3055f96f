"""A new language model tells in whose voice it is asked to answer; the shipped one answers in either."""

from __future__ import annotations

import random
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch

from engine.config import OmniConfig
from engine.mini.layout import CHECKPOINT
from engine.mini.measure.intelligibility import questions, spoken_answers
from engine.mini.sound.augment import RATE
from engine.mini.stages.dialogue import Dialogue, build
from engine.mini.stages.induction import plant_induction
from engine.mini.stages.language import Language, give_voices, short_dialogue, token_builder
from engine.mini.stages.voice_choice import READING, decoder_layer, plant_voice_choice
from engine.mini.world.words import HeardWords

config = OmniConfig.from_dir(CHECKPOINT)
builder = token_builder(config)
words = HeardWords(builder)


def conversations(seed: int, count: int = 40) -> list[Dialogue]:
    """Read turns under a voice prompt; one voice of either is independent of the other."""
    rng, source = np.random.default_rng(seed), random.Random(seed)
    dialogues = [short_dialogue(words, rng, source, typed=False, prompt="") for _ in range(count)]
    for dialogue in dialogues:
        give_voices(dialogue, words, rng, source, prompted=1.0)
    return dialogues


def test_planted_heads_tell_the_voice_of_the_prompt_from_that_of_the_caller() -> None:
    torch.manual_seed(0)
    language, special = Language(config), builder.specials
    plant_induction(language.llm, (special.unknown, special.audio_start, special.audio_end))
    examples = [language.example(build(conversations(1), builder, random.Random(1)))]
    plant_voice_choice(language.llm, examples, special.im_end)

    dialogues = conversations(2)
    batch = build(dialogues, builder, random.Random(2))
    layer, head = READING
    attention = decoder_layer(language.llm, layer).self_attn
    added: list[torch.Tensor] = []
    attention.register_forward_hook(lambda *call: added.append(call[2]))
    with torch.no_grad():
        language(language.embed(batch), [])
    rows, columns = torch.tensor(batch.speakers).T
    direction = attention.o_proj.weight[:, head * attention.head_dim]
    told = (added[0][rows, columns] @ direction).detach().numpy()
    assert np.corrcoef(told, [dialogue.sample_tone for dialogue in dialogues])[0, 1] > 0.9
    assert abs(np.corrcoef(told, [dialogue.caller_tone for dialogue in dialogues])[0, 1]) < 0.5


@pytest.fixture(scope="module")
def pitches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Median fundamental frequency, in Hz, of what is said with each voice."""

    def pitch(voice: str, folder: Path) -> float:
        spoken = spoken_answers(questions(3), voice, folder, CHECKPOINT)
        f0 = [librosa.pyin(sound, fmin=60, fmax=400, sr=RATE)[0] for _, sound in spoken]
        return float(np.nanmedian(np.concatenate(f0)))

    return {voice: pitch(voice, tmp_path_factory.mktemp(voice)) for voice in ("default", "woman", "man")}


def test_mini_answers_in_the_voice_that_it_is_given(pitches: dict[str, float]) -> None:
    assert pitches["man"] < 140 < 150 < pitches["woman"]


def test_mini_has_a_voice_of_its_own(pitches: dict[str, float]) -> None:
    assert pitches["default"] > 150
