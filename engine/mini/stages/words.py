"""Stage *words*: encoder and projector learn to name the words in sound tokens (:mod:`engine.mini.world.words`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.config import OmniConfig
from engine.mini.sound.hearing import FRAMES, HeardBatch, PhoneHeads, WarpedMel, edit_distance, encode_units
from engine.mini.sound.hearing_data import FAMILIES, collate, sample
from engine.mini.sound.voices import Voices
from engine.mini.stages.hearing import HearingStage, hearing_batch
from engine.mini.stages.language import token_builder
from engine.mini.stages.training import Budget, Losses, load_modules, train
from engine.mini.world.words import HeardWords, WordHead, embedding_table
from engine.model.audio import AudioEncoder, AudioProjector, pool

WEIGHTS = {"word": 1, "aligned": 3, "twice": 2, "distance": 20, "ctc": 0.5, "frame": 0.3, "voice": 0.1}
"""What each term of the loss counts."""
VALIDATION = {"espeak": 60, "an4": 70, "fsdd": 40}


class Ears(nn.Module):
    """Encoder and projector under their official names, and training heads."""

    def __init__(self, config: OmniConfig, words: HeardWords) -> None:
        super().__init__()
        width = config.llm.hidden_size
        self.apm = AudioEncoder(config.audio)
        self.audio_projection_layer = AudioProjector(config.audio.ffn_dim // 4, width)
        self.heads = PhoneHeads(config.audio.d_model)
        self.word_head = WordHead(words, embedding_table(config.llm.vocab_size, width))
        self.step = config.audio.pool_step

    def adopt(self, hearing: HearingStage) -> None:
        """Starts from what the stage *hearing* learned."""
        self.apm.load_state_dict(hearing.apm.state_dict())
        self.heads.load_state_dict(hearing.heads.state_dict())

    def tokens(self, hidden: Tensor, batch: HeardBatch) -> tuple[Tensor, list[int]]:
        """Sound tokens [B, N, llm hidden] of encoder states, and how many of them each utterance has."""
        return pool(self.audio_projection_layer(hidden), self.step), [frames // self.step for frames in batch.frames]


def word_error_rates(ears: Ears, mel: WarpedMel, words: HeardWords, voices: Voices) -> dict[str, float]:
    """Share of wrong words by validation family, best path without any language model, clean speech."""
    rates = {}
    for family, count in VALIDATION.items():
        if not voices.has(family):
            continue
        rng = np.random.default_rng(5)
        edits = total = 0
        for _ in range(0, count, 10):
            items = [sample(voices, rng, 0.0, {family: 1.0}) for _ in range(10)]
            batch, _, _ = collate(items, rng, 0.0)
            tokens, lengths = ears.tokens(encode_units(ears.apm, mel, batch), batch)
            best = ears.word_head(tokens).argmax(-1)
            for row, length, item in zip(best, lengths, items, strict=True):
                heard, said = words.text(row[:length].tolist()), words.text(_spaced(words.classes(item.text)))
                edits += edit_distance([hash(w) for w in heard.split()], [hash(w) for w in said.split()])
                total += len(said.split())
        rates[f"wer_{family}"] = edits / total
    return rates


def _spaced(classes: list[int]) -> list[int]:
    return [x for c in classes for x in (c, 0)]


def train_words(
    config: OmniConfig, folder: Path, people: Path, budget: Budget, *, seed: int = 3, size: int = 24, workers: int = 0,
    until: int | None = None, device: str = "cpu", families: dict[str, float] = FAMILIES, strength: float = 0.65,
) -> Ears:  # fmt: skip
    """Runs or resumes the stage; the first run starts from the stage *hearing*."""
    torch.manual_seed(seed)
    words = HeardWords(token_builder(config))
    ears, mel = Ears(config, words), WarpedMel(config.mel).to(device)
    hearing = HearingStage(config)
    if load_modules(folder, "hearing", hearing):
        ears.adopt(hearing)
    ears.to(device)
    voices, judges = Voices(folder, people), Voices(folder, people, validation=True)
    bands = torch.Generator().manual_seed(seed)

    def loss(made: Any, progress: float) -> Losses:
        batch, phones, labels, items = made
        hidden = encode_units(ears.apm, mel, batch, mask_bands=bands if progress > 0.2 else None)
        tokens, lengths = ears.tokens(hidden, batch)
        aims = [words.labels(h.text, h.word_ends, n, FRAMES / ears.step) for h, n in zip(items, lengths, strict=True)]
        terms = ears.word_head.loss(tokens, lengths, [words.classes(h.text) for h in items], aims)
        ctc, frame = ears.heads.loss(hidden, batch.frames, phones, labels)
        voice = ears.word_head.voice(tokens, lengths, [h.high for h in items])
        terms |= {"ctc": ctc, "frame": frame, "voice": voice}
        return {"loss": sum((w * terms[k] for k, w in WEIGHTS.items()), torch.zeros(())), **terms}

    make = hearing_batch(voices, seed, size, strength, texts=True, families=families)
    train("words", folder, ears, make, loss, budget, workers=workers, until=until,
          evaluate=lambda: word_error_rates(ears, mel, words, judges))  # fmt: skip
    return ears
