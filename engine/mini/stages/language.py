"""Stages *language* and *listening*: the language model learns to answer, first typed text and read words, then sound.

Both train on whole conversations in the true format (:mod:`engine.mini.stages.dialogue`).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from engine.config import OmniConfig
from engine.mini.layout import CHECKPOINT
from engine.mini.sound.hearing import UNIT
from engine.mini.stages.dialogue import EVEN, PERSONAS, Dialogue, DialogueBatch, Said, build, picture_ids, read_words
from engine.mini.stages.induction import plant_induction
from engine.mini.stages.looking import looking_loss
from engine.mini.stages.training import Budget, Losses, chances, train
from engine.mini.stages.voice_choice import Example, decoder_layer, plant_voice_choice
from engine.mini.world import grammar
from engine.mini.world.conversations import seen_turn, shown_conversation, spoken_conversation, told_conversation
from engine.mini.world.halves import some_half, with_halves
from engine.mini.world.scenes import Scene, random_scene
from engine.mini.world.vocabulary import DIGITS, LETTERS, MONTHS, NAMES, UNITS, WORDS
from engine.mini.world.words import (
    EMBEDDING_STD,
    TONE_STD,
    HeardWords,
    embedding_table,
    place_vectors,
    random_tone,
    voice_direction,
)
from engine.model.llm import LanguageModel
from engine.processing.image import ImageSlices
from engine.processing.tokens import TokenBuilder

SHORT = 10
"""Single turns in the place of one conversation."""
LISTS = 3
"""Long lists in the place of one conversation."""
TOLD = 4
"""Conversations about what was told in the place of one conversation."""
SHORT_WORDS = 12
"""Words of such a turn and its answer."""
FAINT, NOISY = 0.6, 0.8
"""What a read word loses of its embedding at most, and the most noise on it, as a share of an embedding."""
VOICE_PROMPTS = 0.4
"""Share of conversations that begin with a voice prompt."""
HALVES = 0.15
"""Share of the turns of a conversation before which a half of them is answered."""
MISHEARD = 0.4
"""Share of unknown words that are not heard as one."""
END_WEIGHT = 0.3
ANY_WORDS = sorted({*WORDS, *NAMES, *UNITS, *LETTERS, *MONTHS})


def token_builder(config: OmniConfig) -> TokenBuilder:
    return TokenBuilder(PreTrainedTokenizerFast.from_pretrained(str(CHECKPOINT)), config)


def voice_vectors(width: int) -> Tensor:
    """What the state at ``<|spk|>`` is for each of the two voices, [2, width]. The vectors are agreed on beforehand, so
    that the language model and the talker can be trained apart."""
    return torch.randn(2, width, generator=torch.Generator().manual_seed(22))


class Language(nn.Module):
    """The language model on its fixed input embeddings."""

    def __init__(self, config: OmniConfig) -> None:
        super().__init__()
        self.llm = LanguageModel(config.llm)
        self.register_buffer("voices", voice_vectors(config.llm.hidden_size), persistent=False)
        self.register_buffer("places", place_vectors(config.query_num, config.llm.hidden_size), persistent=False)
        self.register_buffer("direction", voice_direction(config.llm.hidden_size), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                # Little is said at first, so that what is planted is not drowned.
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.002 if residual else 0.05)
        table = self.llm.model.embed_tokens.weight
        table.data = embedding_table(*table.shape)
        table.requires_grad_(False)
        # The head begins as the same table: repeating a word that was heard is then almost free.
        self.llm.lm_head.weight.data = 0.1 * table.data.clone()

    def embed(self, batch: DialogueBatch) -> Tensor:
        """Embeddings [B, T, hidden] of what is text, and of pictures that are given as words."""
        ids = batch.ids.to(self.llm.lm_head.weight.device)
        embeds = self.llm.embed(ids)
        if batch.seen:
            rows, columns, slots = torch.tensor(batch.seen, device=ids.device).T
            embeds = embeds.index_put((rows, columns), self.places[slots], accumulate=True)  # type: ignore[index]
        if self.training and (batch.read or batch.seen):
            embeds = self._unclear(embeds, batch)
        if batch.tones:
            embeds = embeds + self._tones(batch)[..., None].to(embeds.device) * self.direction  # type: ignore[operator]
        return embeds

    def _unclear(self, embeds: Tensor, batch: DialogueBatch) -> Tensor:
        """Makes words that are read or seen as faint and noisy as ears and eyes say them, each token to a degree of its
        own."""
        seen = torch.tensor(batch.seen, dtype=torch.long).view(-1, 3)
        rows = torch.cat([seen[:, 0], *(torch.full((len(places),), row) for row, places in batch.read)])
        columns = torch.cat([seen[:, 1], *(torch.from_numpy(places) for _, places in batch.read)])
        generator = torch.Generator().manual_seed(int(batch.ids.sum()))
        clear, noisy = torch.rand(2, len(rows), 1, generator=generator)
        clear, noisy = 1 - FAINT * clear, EMBEDDING_STD * NOISY * noisy
        noise = noisy * torch.randn(len(rows), embeds.shape[2], generator=generator)
        rows, columns, clear, noise = (x.to(embeds.device) for x in (rows, columns, clear, noise))
        return embeds.index_put((rows, columns), clear * embeds[rows, columns] + noise)

    def _tones(self, batch: DialogueBatch) -> Tensor:
        """How far each token lies along the direction of voices, [B, T]: sound tokens of one voice more or less, other
        tokens not at all."""
        rows = torch.cat([torch.full((len(places),), row) for row, places, _ in batch.tones])
        columns = torch.cat([torch.from_numpy(places) for _, places, _ in batch.tones])
        means = torch.cat([torch.full((len(places),), tone) for _, places, tone in batch.tones])
        generator = torch.Generator().manual_seed(int(columns.sum()))
        along = torch.zeros(batch.ids.shape)
        along[rows, columns] = means + TONE_STD * torch.randn(len(means), generator=generator)
        return along

    def example(self, batch: DialogueBatch) -> Example:
        """What :func:`plant_voice_choice` learns from."""
        return Example(batch.ids, self.embed(batch), self._tones(batch))

    def forward(self, embeds: Tensor, looks: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor]:
        """States after the final norm [B, T, hidden], and the loss of where the taught head looks."""
        decoder, x = self.llm.model, embeds
        turn = decoder._turn(embeds, None, None)
        for index, layer in enumerate(decoder.layers):
            before, x = x, layer(x, turn, index, None, None)
        if not looks:
            return decoder.norm(x), x.new_zeros(())
        last = decoder_layer(self.llm, -1)
        places = torch.tensor(looks, device=x.device)
        return decoder.norm(x), looking_loss(last.self_attn, last.input_layernorm(before), turn, places)

    def losses(self, embeds: Tensor, batch: DialogueBatch, *, focal: bool = False) -> Losses:
        """Cross-entropy of the answers, squared distance of the speaker positions to their voices' vectors, and
        cross-entropies of where one head looks and of whether the person is done.

        Most tokens of an answer follow from those before; with ``focal`` what is not yet known counts more
        (arXiv 1708.02002), which helps where everything can be known.
        """
        states, look = self(embeds, batch.looks)
        rows, columns = (batch.targets >= 0).nonzero(as_tuple=True)
        aims = batch.targets[rows, columns]
        more = -len(aims) % (4 * EVEN)
        rows, columns = (F.pad(x, (0, more)).to(states.device) for x in (rows, columns))
        aims = F.pad(aims, (0, more), value=-100).to(states.device)
        each = F.cross_entropy(self.llm.logits(states[rows, columns]).float(), aims, reduction="none")
        weight = (1.05 - (-each.detach()).exp() if focal else torch.ones_like(each)) * (aims >= 0)
        answer = (weight * each).sum() / weight.sum()
        end = self._end_loss(states, batch)
        places = torch.tensor(batch.speakers, device=states.device)
        aimed: Tensor = self.voices[torch.tensor(batch.voices, device=states.device)]  # type: ignore[index]
        voice = F.mse_loss(states[places[:, 0], places[:, 1]].float(), aimed)
        loss = answer + 0.5 * voice + 0.5 * look + END_WEIGHT * end
        return {"loss": loss, "answer": answer, "voice": voice, "look": look, "end": end}

    def end_scores(self, states: Tensor, batch: DialogueBatch) -> Tensor:
        """Log-probability [N] that the model gives the end of the message after each turn of the person."""
        rows, columns, _ = torch.tensor(batch.ends, device=states.device).T
        more = -len(rows) % (4 * EVEN)
        scores = self.llm.logits(states[F.pad(rows, (0, more)), F.pad(columns, (0, more))])
        return scores.float().log_softmax(-1)[: len(rows), batch.end_token]

    def _end_loss(self, states: Tensor, batch: DialogueBatch) -> Tensor:
        """Cross-entropy of whether the person is done."""
        scores = self.end_scores(states, batch).clamp(max=-1e-6)
        over = torch.tensor([over for *_, over in batch.ends], device=states.device)
        return -torch.where(over, scores, torch.log(-torch.expm1(scores))).mean()


def accuracy(language: Language, judged: Iterable[tuple[Tensor, DialogueBatch]]) -> dict[str, float]:
    """Share of answers that greedy decoding would give right, by skill, in batches with their embeddings; and how
    probable on average it is found that the person is done, when they are and when they are not."""
    hits: dict[str, list[bool]] = defaultdict(list)
    done: dict[str, list[float]] = defaultdict(list)
    for embeds, batch in judged:
        states = language.llm(embeds)
        best = language.llm.logits(states).argmax(-1).cpu()
        for row, first, last, skill in batch.skills:
            hits[skill].append(bool((best[row, first:last] == batch.targets[row, first:last]).all()))
        ends = language.end_scores(states, batch).exp().tolist()
        for probability, (*_, over), (*_, skill) in zip(ends, batch.ends, batch.skills, strict=True):
            done[f"{'done' if over else 'half'}_{skill}"].append(probability)
    right = {f"acc_{skill}": sum(each) / len(each) for skill, each in sorted(hits.items())}
    return right | {f"p_{kind}": sum(each) / len(each) for kind, each in sorted(done.items())}


FIRST = ("list", "list", "list", "typed")
LATER = (
    "talk", "ends", "seen", "read", "ends", "told", "voiced", "ends", "seen", "typed", "talk", "ends", "list", "told",
)  # fmt: skip
"""Kinds of batches that take turns, in the beginning and later."""


def text_batch(
    builder: TokenBuilder, words: HeardWords, seed: int, size: int, ramp: int, kinds: Sequence[str] = ("talk",),
    first: int = 0,
) -> Callable[[int], DialogueBatch]:  # fmt: skip
    """What is typed or read: batches of ``kinds`` by turns, and of :data:`FIRST` in the ``first`` steps. ``size`` is
    the number of conversations (``talk``) in a batch, which have more errors of reading as ``ramp`` steps go by. The
    other kinds are shorter and so more in a batch.

    Lists teach to repeat: to say a word, find the one before among those that were heard, and take its follower.
    Attention learns that soonest where a row asks for it thirty times and nothing else tells the answer. Typed
    single turns are the cheapest way to learn sums by heart, single questions about a picture to find things in it,
    conversations about what was told to remember, halves of messages (``ends``) to tell when somebody is done."""

    def make(step: int) -> DialogueBatch:
        rng, source = chances(seed, step)
        kind = FIRST[step % len(FIRST)] if step < first else kinds[step % len(kinds)]
        if kind == "talk":
            noise = min(1.0, step / ramp)
            dialogues = [text_dialogue(words, rng, source, noise) for _ in range(size)]
        elif kind == "told":
            dialogues = [told_dialogue(words, rng, source) for _ in range(TOLD * size)]
        elif kind == "list":
            dialogues = [long_list(words, rng, source) for _ in range(LISTS * size)]
        elif kind == "ends":
            dialogues = [end_dialogue(words, rng, source) for _ in range(SHORT * size)]
        elif kind == "seen":
            dialogues = [shown_question(words, rng, source) for _ in range(SHORT * size // 2)]
        else:
            typed = kind == "typed" or (kind == "voiced" and rng.random() < 0.5)
            rows = SHORT * size * (2 if kind == "typed" else 1)
            prompt = "" if kind == "voiced" else None
            dialogues = [short_dialogue(words, rng, source, typed, prompt) for _ in range(rows)]
        for dialogue in dialogues:
            give_voices(dialogue, words, rng, source, 0.8 if kind == "voiced" else VOICE_PROMPTS)
        return build(dialogues, builder, source)

    return make


def give_voices(
    dialogue: Dialogue, words: HeardWords, rng: np.random.Generator, source: random.Random, prompted: float
) -> None:
    """Says whose voice it is that is read, and in that share of the dialogues with a system message, in whose voice to
    answer."""
    dialogue.caller_tone = random_tone(rng, rng.random() < 0.5)
    if dialogue.prompt is not None and rng.random() < prompted:
        dialogue.voice = int(rng.integers(2))
        dialogue.voice_sample = np.zeros(int(rng.integers(2, 5)) * UNIT, np.float32)
        dialogue.sample_read = read_words(grammar.turn(source).heard, words, rng, 0.3)
        dialogue.sample_tone = random_tone(rng, dialogue.voice == 0)


def text_dialogue(
    words: HeardWords, rng: np.random.Generator, source: random.Random, noise: float, typed: float = 0.3
) -> Dialogue:
    turns = shown_conversation(source) if source.random() < 0.3 else spoken_conversation(source)
    said = _typed_or_read(turns, words, rng, source, noise, typed)
    return Dialogue(said, source.choice(PERSONAS) if source.random() < 0.12 else "")


def told_dialogue(words: HeardWords, rng: np.random.Generator, source: random.Random) -> Dialogue:
    """About what was told, without a system message."""
    return Dialogue(_typed_or_read(told_conversation(source), words, rng, source, 0.0, 0.3), None)


def _typed_or_read(
    turns: list[tuple[grammar.Turn, Scene | None]], words: HeardWords, rng: np.random.Generator, source: random.Random,
    noise: float, typed: float,
) -> list[Said]:  # fmt: skip
    said = []
    for turn, scene in with_halves(turns, source, HALVES):
        seen = picture_ids(scene.slots(), words.builder) if scene else None
        if rng.random() < typed:
            said.append(Said(written(turn, source), seen=seen))
        else:
            errors = 0.08 * noise * rng.random() if turn.skill == "smalltalk" else 0.0
            said.append(Said(turn, read=read_words(turn.heard, words, rng, errors, misheard=MISHEARD), seen=seen))
    return said


def short_dialogue(
    words: HeardWords, rng: np.random.Generator, source: random.Random, typed: bool, prompt: str | None = None
) -> Dialogue:
    """One turn, by itself without a system message."""
    while True:
        turn = grammar.arithmetic(source) if source.random() < 0.3 else grammar.turn(source)
        if len(f"{turn.heard} {turn.answer}".split()) <= SHORT_WORDS:
            break
    if typed:
        return Dialogue([Said(written(turn, source))], prompt)
    return Dialogue([Said(turn, read=read_words(turn.heard, words, rng, 0.0, misheard=MISHEARD))], prompt)


def end_dialogue(words: HeardWords, rng: np.random.Generator, source: random.Random) -> Dialogue:
    """One message, or half of one, of any kind, by itself."""
    kind = source.random()
    turn = some_half(source) if kind < 0.5 else grammar.everyday(source) if kind < 0.75 else grammar.turn(source)
    if source.random() < 0.2:
        return Dialogue([Said(written(turn, source))], None)
    errors = 0.06 * source.random() if turn.skill == "smalltalk" else 0.0
    return Dialogue([Said(turn, read=read_words(turn.heard, words, rng, errors, misheard=MISHEARD))], None)


def shown_question(
    words: HeardWords, rng: np.random.Generator, source: random.Random,
    draw: Callable[[Scene], ImageSlices] | None = None,
) -> Dialogue:  # fmt: skip
    """One question about a picture, without a system message. ``draw`` gives the picture, or else what perfect eyes see
    in it is told."""
    scene = random_scene(source)
    turn = seen_turn(scene, source)
    said = Said(turn, picture=draw(scene)) if draw else Said(turn, seen=picture_ids(scene.slots(), words.builder))
    if source.random() < 0.6:
        said.turn = written(turn, source)
    else:
        said.read = read_words(turn.heard, words, rng, 0.0)
    return Dialogue([said], None)


def long_list(words: HeardWords, rng: np.random.Generator, source: random.Random, repeats: float = 0.5) -> Dialogue:
    """Many words in any order, next to each other or as far apart as in speech: all different or, in that share of the
    lists, few of them time and again, as in a telephone number."""
    if source.random() >= repeats:
        said = " ".join(source.sample(ANY_WORDS, source.randint(8, 36)))
    else:
        few = source.sample(source.choice((DIGITS, LETTERS, ANY_WORDS)), source.randint(2, 10))
        said = " ".join(source.choices(few, k=source.randint(3, 12)))
    turn = grammar.Turn(said, grammar.sentence(f"you said {said}"), "dictation")
    return Dialogue([Said(turn, read=read_words(said, words, rng, 0.0, min(1.0, 1.6 * source.random())))], None)


def written(turn: grammar.Turn, source: random.Random) -> grammar.Turn:
    """How people type: sometimes with a capital letter and punctuation."""
    heard = turn.heard
    if source.random() < 0.5:
        question = heard.split()[0] in ("what", "how", "who", "where", "which", "can", "do", "are", "is", "what's")
        heard = heard[:1].upper() + heard[1:]
        if turn.over:
            heard += "?" if question else source.choice((".", "", "!"))
    return replace(turn, heard=heard)


def train_language(
    config: OmniConfig, folder: Path, budget: Budget, *, seed: int = 2, size: int = 6, workers: int = 0,
    until: int | None = None, device: str = "cpu",
) -> Language:  # fmt: skip
    """Runs or resumes the stage *language*."""
    torch.manual_seed(seed)
    model, builder = Language(config), token_builder(config)
    words, special = HeardWords(builder), builder.specials
    plant_induction(model.llm, (special.unknown, special.audio_start, special.audio_end))
    talk = text_batch(builder, words, seed + 2000, 4, 1, ("voiced", "talk"))
    plant_voice_choice(model.llm, [model.example(batch) for batch in map(talk, range(6))], special.im_end)
    model.to(device)
    judge = text_batch(builder, words, seed + 1000, 20, 1, ("talk", "talk", "talk", "seen", "ends"))

    def evaluate() -> dict[str, float]:
        return accuracy(model, ((model.embed(batch), batch) for batch in map(judge, range(1, 6))))

    half = max(1, budget.steps // 2)
    train("language", folder, model, text_batch(builder, words, seed, size, half, LATER, half // 5),
          lambda batch, _: model.losses(model.embed(batch), batch, focal=True), budget, workers=workers, until=until,
          evaluate=evaluate)  # fmt: skip
    return model
