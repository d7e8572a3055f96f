"""Stage *listening*: the language model learns to live with what the ears and eyes really say, mistakes included.

It trains on whole conversations in sound and pictures; ears and eyes stay as their own stages left them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.config import OmniConfig
from engine.mini.sound.hearing import UNIT, HeardBatch, WarpedMel, encode_units
from engine.mini.sound.hearing_data import FAMILIES, Utterance, hear, units_of
from engine.mini.sound.not_speech import not_speech
from engine.mini.sound.voices import Voices, draw
from engine.mini.stages.dialogue import PERSONAS, Dialogue, DialogueBatch, Said, build, picture_ids
from engine.mini.stages.language import (
    HALVES,
    VOICE_PROMPTS,
    Language,
    accuracy,
    shown_question,
    text_batch,
    token_builder,
    written,
)
from engine.mini.stages.seeing import Eyes
from engine.mini.stages.training import Budget, Losses, chances, load_modules, mixed_precision, train
from engine.mini.stages.words import Ears
from engine.mini.world import grammar
from engine.mini.world.conversations import shown_conversation, spoken_conversation, told_conversation
from engine.mini.world.halves import some_half, with_halves
from engine.mini.world.rendering import render
from engine.mini.world.scenes import Scene
from engine.mini.world.words import HeardWords
from engine.processing.image import ImageProcessor, ImageSlices
from engine.processing.tokens import TokenBuilder

MAX_TURN_SECONDS = 6
SINGLE = 3
"""Single turns in the place of one conversation."""
LOOKED = 4
"""Single questions about pictures in the place of one conversation."""
TOGETHER = 8
"""Turns of about the same length that are heard at once."""
NOT_SPEECH = 0.1
"""Share of turns that are no speech: they get the honest no."""
COUGHED = 0.06
"""Share of turns before which somebody coughs, knocks or hums."""
TOLD_SHARE = 0.2
"""Share of conversations that are about what was told."""
TO_THE_WORD = ("memory", "seeing", "blind", "smalltalk", "everyday", "half")
"""Skills whose turns are spoken as they are. Others depend on nothing else, so that what a recorded person said may
stand for them; small talk does, too, but nobody recorded any."""
TEXTS = ("list", "ends", "voiced", "seen", "ends", "talk", "list", "ends", "voiced", "told", "typed")
"""Kinds of text that take turns, so that they are not forgotten."""


@dataclass(slots=True)
class ListeningBatch:
    dialogues: DialogueBatch
    sounds: HeardBatch | None
    """What was said in the turns, then the voice prompts."""


@dataclass(slots=True)
class SensedBatch:
    """Conversations with what ears and eyes say in them: ``tokens`` [N, hidden] for the places (row, column) int64
    [2, N]."""

    dialogues: DialogueBatch
    places: Tensor
    tokens: Tensor


class Senses(nn.Module):
    """All that hears, sees and answers."""

    def __init__(self, config: OmniConfig, words: HeardWords, builder: TokenBuilder) -> None:
        super().__init__()
        self.words = words
        self.language = Language(config)
        self.ears = Ears(config, words)
        self.eyes = Eyes(config, builder)

    def adopt(self, folder: Path) -> list[str]:
        """Takes what the stages *language*, *words* and *seeing* learned; returns the names of those that exist."""
        parts = {"language": self.language, "words": self.ears, "seeing": self.eyes}
        return [name for name, module in parts.items() if load_modules(folder, name, module)]

    @torch.no_grad()
    def sense(self, batch: ListeningBatch, mel: WarpedMel) -> SensedBatch:
        """Listens and looks."""
        rows: list[Tensor] = []
        columns: list[Tensor] = []
        values: list[Tensor] = []

        def put(row: int, places: NDArray[np.int64], tokens: Tensor) -> None:
            rows.append(torch.full((len(places),), row))
            columns.append(torch.from_numpy(places))
            values.append(tokens[: len(places)])

        if batch.sounds is not None:
            heard = [*batch.dialogues.sounds, *batch.dialogues.prompts]
            by_length = sorted(range(len(heard)), key=batch.sounds.lengths.__getitem__)
            for at in range(0, len(heard), TOGETHER):
                chosen = by_length[at : at + TOGETHER]
                part = batch.sounds.part(chosen)
                tokens, _ = self.ears.tokens(encode_units(self.ears.apm, mel, part), part)
                for index, line in zip(chosen, tokens, strict=True):
                    put(*heard[index], line)
        if batch.dialogues.images:
            for (row, places), picture in zip(batch.dialogues.pictures, self.eyes(batch.dialogues.images), strict=True):
                put(row, places, picture)
        if not values:
            return SensedBatch(batch.dialogues, torch.zeros(2, 0, dtype=torch.long), torch.zeros(0))
        return SensedBatch(batch.dialogues, torch.stack([torch.cat(rows), torch.cat(columns)]), torch.cat(values))

    def embed(self, batch: SensedBatch) -> Tensor:
        """Embeddings [B, T, hidden] with sound and picture tokens in their places."""
        embeds = self.language.embed(batch.dialogues)
        if len(batch.tokens):
            row, column = batch.places.to(embeds.device)
            embeds = embeds.index_put((row, column), batch.tokens.to(embeds))
        return embeds


@dataclass(frozen=True, slots=True)
class Callers:
    """Those who say the turns: ``families`` of ``voices``, made ``strength`` harder to hear."""

    voices: Voices
    strength: float = 0.6
    families: dict[str, float] = field(default_factory=lambda: dict(FAMILIES))

    def say(self, turn: grammar.Turn, rng: np.random.Generator) -> tuple[grammar.Turn, Utterance]:
        """``turn``, or what a recorded person said instead; now and then noise. Raises KeyError as
        :meth:`Voices.read` does."""
        while True:
            if rng.random() < NOT_SPEECH:
                nothing = grammar.Turn("", grammar.NOT_UNDERSTOOD, "noise", over=False)
                return nothing, not_speech(rng, self.voices.crowd)
            family = self.voices.pick(self.families, rng)
            if family in ("espeak", "kal") and self.voices.library is None:
                made = grammar.invented(random.Random(int(rng.integers(1 << 60)))) if turn.skill == "ood" else turn
                speech = self.voices.read(made.heard, rng, family)
            else:
                text, speech = self.voices.say(rng, family)
                answered = grammar.answer_to(text)
                if answered is None:
                    continue
                made = answered
            heard = hear(made.heard, speech, rng, self.strength, self.voices.crowd)
            if len(heard.samples) <= MAX_TURN_SECONDS * UNIT:
                return made, heard
            turn = grammar.turn(random.Random(int(rng.integers(1 << 60))))

    def read(self, turn: grammar.Turn, rng: np.random.Generator) -> tuple[grammar.Turn, Utterance]:
        """``turn`` to the word, by one of those who can read any text. Raises KeyError as :meth:`Voices.read` does."""
        readers = self.voices.readers()
        while True:
            speech = self.voices.read(turn.heard, rng, draw(readers, rng))
            heard = hear(turn.heard, speech, rng, self.strength, self.voices.crowd)
            if len(heard.samples) <= MAX_TURN_SECONDS * UNIT:
                return turn, heard

    def ask(self, turn: grammar.Turn, rng: np.random.Generator) -> tuple[grammar.Turn, Utterance] | None:
        """``turn``, spoken; None where there are only shards and none has this text."""
        try:
            made, heard = (self.read if turn.skill in TO_THE_WORD or not turn.over else self.say)(turn, rng)
        except KeyError:
            return None
        if self.strength and rng.random() < COUGHED:
            before = not_speech(rng, []).samples
            heard.samples = np.concatenate([before, heard.samples])[-MAX_TURN_SECONDS * UNIT :]
        return made, heard

    def prompt(self, rng: np.random.Generator) -> tuple[int, Utterance]:
        """A voice prompt of a few seconds, and which of mini's voices is like it."""
        speech = self.voices.stranger(rng)
        heard = hear("", speech, rng, 0.3 * self.strength, self.voices.crowd)
        heard.samples = np.resize(heard.samples, int(rng.integers(2, 5)) * UNIT)
        return int(not speech.high), heard


def conversation_batch(
    config: OmniConfig, callers: Callers, builder: TokenBuilder, seed: int, size: int, *, typed: float = 0.2,
    shown: float = 0.4, rendered: float = 0.7,
) -> Callable[[int], ListeningBatch]:  # fmt: skip
    """Conversations by step: mostly spoken, some ``typed``, some with the camera on (``shown``). Of those, ``rendered``
    have a real picture; the others have what perfect eyes would see in it, which costs nothing."""
    process = ImageProcessor(config.image)

    def turns(source: random.Random, rng: np.random.Generator, heard: list[Utterance]) -> Iterator[Said]:
        drawn = source.random() < rendered
        converse = source.choices(
            (shown_conversation, told_conversation, spoken_conversation), (shown, TOLD_SHARE, 1 - shown - TOLD_SHARE)
        )[0]
        for turn, scene in with_halves(converse(source), source, HALVES):
            picture = process(render(scene, source), 1) if scene and drawn else None
            seen = picture_ids(scene.slots(), builder) if scene and not drawn else None
            spoken = callers.ask(turn, rng) if rng.random() >= typed else None
            if spoken is None:
                yield Said(written(turn, source), picture=picture, seen=seen)
                continue
            heard.append(spoken[1])
            yield Said(spoken[0], samples=spoken[1].samples, picture=picture, seen=seen)

    def make(step: int) -> ListeningBatch:
        rng, source = chances(seed, step)
        dialogues: list[Dialogue] = []
        heard: list[Utterance] = []
        prompts: list[Utterance] = []
        for _ in range(size):
            persona = source.choice(PERSONAS) if source.random() < 0.12 else ""
            dialogue = Dialogue(list(turns(source, rng, heard)), persona)
            if rng.random() < VOICE_PROMPTS:
                dialogue.voice, prompt = callers.prompt(rng)
                dialogue.voice_sample = prompt.samples
                prompts.append(prompt)
            dialogues.append(dialogue)
        return _listening(dialogues, heard + prompts, builder, source, rng, callers.strength)

    return make


def single_batch(callers: Callers, builder: TokenBuilder, seed: int, size: int) -> Callable[[int], ListeningBatch]:
    """Spoken turns without anything before them, many of them dictation: most words that are heard have to be said
    again, so that the most is learned about hearing. Small talk and counting are hard to tell from it where words were
    not understood."""
    skills = (grammar.dictation, grammar.counting, grammar.small_talk, grammar.turn, some_half, grammar.everyday)

    def make(step: int) -> ListeningBatch:
        rng, source = chances(seed, step)
        dialogues: list[Dialogue] = []
        heard: list[Utterance] = []
        while len(dialogues) < SINGLE * size:
            turn = source.choices(skills, (3, 1, 4, 2, 3, 2))[0](source)
            if (spoken := callers.ask(turn, rng)) is not None:
                heard.append(spoken[1])
                dialogues.append(Dialogue([Said(spoken[0], samples=spoken[1].samples)], None))
        return _listening(dialogues, heard, builder, source, rng, callers.strength)

    return make


def looked_batch(config: OmniConfig, words: HeardWords, seed: int, size: int) -> Callable[[int], ListeningBatch]:
    """Single questions about drawn pictures, typed or read: the most is learned about what eyes really say."""
    process = ImageProcessor(config.image)

    def make(step: int) -> ListeningBatch:
        rng, source = chances(seed, step)

        def draw(scene: Scene) -> ImageSlices:
            return process(render(scene, source), 1)

        dialogues = [shown_question(words, rng, source, draw) for _ in range(LOOKED * size)]
        return ListeningBatch(build(dialogues, words.builder, source), None)

    return make


def _listening(
    dialogues: list[Dialogue], heard: list[Utterance], builder: TokenBuilder, source: random.Random,
    rng: np.random.Generator, strength: float,
) -> ListeningBatch:  # fmt: skip
    return ListeningBatch(build(dialogues, builder, source), units_of(heard, rng, strength) if heard else None)


def train_listening(
    config: OmniConfig, folder: Path, people: Path, budget: Budget, *, seed: int = 5, size: int = 6, workers: int = 0,
    until: int | None = None, device: str = "cpu",
) -> Senses:  # fmt: skip
    """Runs or resumes the stage; the first run starts from what *language* learned."""
    torch.manual_seed(seed)
    builder = token_builder(config)
    senses, mel = Senses(config, HeardWords(builder), builder), WarpedMel(config.mel).to(device)
    # Pictures come in once the eyes can see: a language model that looks at noise learns to look away.
    rendered = 0.7 if "seeing" in senses.adopt(folder) else 0.0
    senses.to(device).eval()
    voices, judges = Voices(folder, people), Voices(folder, people, validation=True)

    def sense(batch: ListeningBatch) -> SensedBatch:
        with mixed_precision(device):
            return senses.sense(batch, mel)

    def loss(batch: ListeningBatch | SensedBatch, _: float) -> Losses:
        sensed = sense(batch) if isinstance(batch, ListeningBatch) else batch
        return senses.language.losses(senses.embed(sensed), sensed.dialogues)

    unseen = Callers(judges, 0.0, {"espeak": 0.4, "an4": 0.4, "fsdd": 0.2})
    judge = conversation_batch(config, unseen, builder, seed + 1000, 12, typed=0.0, rendered=rendered)
    apart = single_batch(unseen, builder, seed + 1000, 12)

    def evaluate() -> dict[str, float]:
        batches = map(sense, [*map(judge, range(3)), apart(0)])
        return accuracy(senses.language, ((senses.embed(batch), batch.dialogues) for batch in batches))

    callers = Callers(voices)
    spoken = conversation_batch(config, callers, builder, seed, size, rendered=rendered)
    kinds = {0: spoken, 1: single_batch(callers, builder, seed, size), 2: spoken,
             4: looked_batch(config, senses.words, seed, size)}  # fmt: skip
    text = text_batch(builder, senses.words, seed, size, 1, TEXTS)

    def make(step: int) -> ListeningBatch | SensedBatch:
        """Of five batches, two are of conversations, one of single spoken turns, one of single pictures, and one of
        text, so that sums, lists and what was told before are not forgotten. Ears and eyes do not learn here: on a
        processor the workers listen and look ahead."""
        turn = step % 5
        batch = ListeningBatch(text(step // 5), None) if turn == 3 else kinds[turn](step)
        return sense(batch) if device == "cpu" else batch

    train("listening", folder, senses.language, make, loss, budget, workers=workers, until=until, evaluate=evaluate)
    return senses
