"""Ears and eyes: what they are taught lies where it is said and seen, and the shipped eyes say places."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from engine.config import OmniConfig
from engine.mini.export import unpack
from engine.mini.layout import CHECKPOINT
from engine.mini.sound.hearing import FRAMES, UNIT
from engine.mini.sound.hearing_data import Utterance, joined
from engine.mini.stages.language import token_builder
from engine.mini.stages.seeing import Eyes
from engine.mini.stages.training import load_modules
from engine.mini.world.rendering import render
from engine.mini.world.scenes import random_scene
from engine.mini.world.words import embedding_table, place_vectors
from engine.processing.image import ImageProcessor

config = OmniConfig.from_dir(CHECKPOINT)


def utterance(text: str, samples: int, ends: tuple[float, ...], high: bool) -> Utterance:
    labels = np.arange(-(-samples // UNIT) * FRAMES) % 7
    return Utterance(text, np.full(samples, 0.1, np.float32), labels, ends, high=high)


def test_what_follows_an_utterance_is_said_later() -> None:
    first, second = utterance("one two", 20_100, (0.4, 0.9), True), utterance("three", 9_000, (0.3,), True)
    both = joined(first, second)
    frames = 20_100 // (UNIT // FRAMES)
    assert both.text == "one two three"
    assert len(both.samples) == frames * (UNIT // FRAMES) + 9_000
    assert both.word_ends == (0.4, 0.9, frames / FRAMES + 0.3)
    assert both.classes() == first.classes() + second.classes()
    assert len(both.labels) == 2 * FRAMES, "whole units"
    assert both.labels[:frames].tolist() == first.labels[:frames].tolist()
    assert both.labels[frames:].tolist() == second.labels[: 2 * FRAMES - frames].tolist()
    assert both.high is True


def test_two_voices_are_nobodys_and_unknown_times_stay_unknown() -> None:
    both = joined(utterance("one", 9_000, (0.4,), True), utterance("two", 9_000, (), False))
    assert both.high is None
    assert both.word_ends == ()


@torch.inference_mode()
def test_the_shipped_eyes_say_where_shapes_are(tmp_path: Path) -> None:
    builder, source = token_builder(config), random.Random(12)
    eyes = Eyes(config, builder).eval()
    unpack(tmp_path)
    assert load_modules(tmp_path, "seeing", eyes)
    width = config.llm.hidden_size
    table, places = embedding_table(config.llm.vocab_size, width), place_vectors(config.query_num, width)
    process = ImageProcessor(config.image)
    scenes = [scene for scene in (random_scene(source, 0.0) for _ in range(40)) if scene.things]
    right = []
    for scene, tokens in zip(scenes, eyes([process(render(scene, source), 1) for scene in scenes]), strict=True):
        every = [slot for slot in range(len(places)) if places[slot].any()]
        for thing in scene.things:
            slot = thing.slots[1]
            offset = tokens[slot] - table[builder.text(" " + thing.shape)[0]]
            nearest = min(every, key=lambda other: float((offset - places[other]).square().sum()))
            right.append(nearest == slot)
    assert np.mean(right) > 0.5, "one in nine would be chance"
