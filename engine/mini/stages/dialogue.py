"""Conversations as the language model sees them: the true prompts, turn headers, units and answers, with their targets.

A turn reaches the model typed, as sound, or (in the first stage) as *read words*: the ids that perfect ears would put
into the sound tokens, see :mod:`engine.mini.world.words`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.mini.sound.hearing import UNIT
from engine.mini.stages.looking import Look, from_answers, from_picture, from_words
from engine.mini.world.grammar import Turn
from engine.mini.world.words import HeardWords
from engine.processing.image import ImageSlices
from engine.processing.prompts import UNIT as UNIT_MARK
from engine.processing.prompts import answer_header, get_sys_prompt, turn_header
from engine.processing.tokens import AudioSlot, ImageSlot, Piece, TokenBuilder

PERSONAS = (
    "You are a friendly assistant in a video call. Answer in one short sentence.",
    "You are a patient language tutor.",
    "You are a helpful assistant.",
    "Answer as briefly as you can.",
)


EVEN = 16
"""Batches are as long as a multiple of this, since a processor prepares anew for every size that it meets."""


@dataclass(slots=True)
class Said:
    """One turn of a conversation: sound, read words, or typed."""

    turn: Turn
    samples: NDArray[np.float32] | None = None
    read: list[int] | None = None
    """Ids in the places of sound tokens."""
    picture: ImageSlices | None = None
    seen: list[int] | None = None
    """Ids in the places of the picture tokens, instead of a picture."""


@dataclass(slots=True)
class Dialogue:
    turns: list[Said]
    prompt: str | None = ""
    """System sentence; empty: one of the model's own; None: no system message."""
    voice: int = 0
    voice_sample: NDArray[np.float32] | None = None
    sample_read: list[int] | None = None
    """Ids in the places of the voice sample's sound tokens, where ears need not hear it."""
    sample_tone: float = 0.0
    """What those tokens say of whose voice it is (:func:`engine.mini.world.words.voice_direction`)."""
    caller_tone: float | None = None
    """The same, of turns that are read; None: nothing."""


@dataclass(slots=True)
class DialogueBatch:
    """``ids`` and ``targets`` (-100: none) int64 [B, T]; the places of what is not text, as (row, first, last)."""

    ids: Tensor
    targets: Tensor
    sounds: list[tuple[int, NDArray[np.int64]]] = field(default_factory=list)
    """Row and positions of each turn that is sound, in order; one position per sound token."""
    read: list[tuple[int, NDArray[np.int64]]] = field(default_factory=list)
    """The same of each turn of read words."""
    pictures: list[tuple[int, NDArray[np.int64]]] = field(default_factory=list)
    images: list[ImageSlices] = field(default_factory=list)
    seen: list[tuple[int, int, int]] = field(default_factory=list)
    """Row, position and number of every picture token that is given as a word."""
    speakers: list[tuple[int, int]] = field(default_factory=list)
    """Row and position of every ``<|spk|>``."""
    voices: list[int] = field(default_factory=list)
    """Voice of every speaker position."""
    prompts: list[tuple[int, NDArray[np.int64]]] = field(default_factory=list)
    tones: list[tuple[int, NDArray[np.int64], float]] = field(default_factory=list)
    """Row and positions of sound tokens that nobody hears, and how far along the direction of voices they lie."""
    skills: list[tuple[int, int, int, str]] = field(default_factory=list)
    """Row, first and last target position, skill of every answer."""
    looks: list[tuple[int, int, int]] = field(default_factory=list)
    """Row, a position, and one that it looks at to know the next word (:mod:`engine.mini.stages.looking`)."""
    ends: list[tuple[int, int, bool]] = field(default_factory=list)
    """Row and last position of every turn of the person, and whether they are done: where an engine reads how probable
    :attr:`end_token` is."""
    end_token: int = 0


def read_words(
    text: str, words: HeardWords, rng: np.random.Generator, errors: float, spacing: float = 1.0, misheard: float = 0.0
) -> list[int]:
    """What ideal ears would write into the sound tokens of a reading of ``text``: ids of words, blanks between them.

    ``errors`` is the share of words that are lost or not understood; ``misheard`` that of unknown words that are taken
    for a known one, for two unknown ones, or not noticed; ``spacing`` 0 to 1 scales the blanks.
    """
    ids: list[int] = []

    def blanks(low: int, high: int) -> None:
        ids.extend([words.blank] * round(spacing * int(rng.integers(low, high + 1))))

    blanks(1, 5)
    for token in words.encode(text):
        event = rng.random()
        if token == words.garbage and rng.random() < misheard:
            heard = words.vocabulary[int(rng.integers(1, len(words.vocabulary)))]
            ids.extend(([heard], [token] * 2, [])[rng.choice(3, p=(0.6, 0.2, 0.2))])
            blanks(1, 4)
            continue
        if event < errors / 2:
            blanks(1, 3)
            continue
        ids.append(words.garbage if event < errors else token)
        if rng.random() < 0.02 * spacing:
            ids.append(ids[-1])
        blanks(1, 4)
    blanks(0, 3)
    return ids


def system_pieces(dialogue: Dialogue, source: random.Random) -> list[Piece]:
    """The first message, with a place for the voice sample where there is one."""
    if dialogue.prompt:
        content: list[object] = [dialogue.prompt, *([] if dialogue.voice_sample is None else [dialogue.voice_sample])]
    else:
        mode = source.choices(("omni", "default", "audio_assistant"), (8, 1, 1))[0]
        content = list(
            get_sys_prompt(dialogue.voice_sample, mode if dialogue.voice_sample is None else "omni", "en").content
        )
    pieces: list[Piece] = ["<|im_start|>user\n"]
    for part in content:
        pieces.append(part if isinstance(part, str) else AudioSlot(len(part)))  # type: ignore[arg-type]
    return [*pieces, "<|im_end|>\n"]


def build(dialogues: Sequence[Dialogue], builder: TokenBuilder, source: random.Random) -> DialogueBatch:
    """Token rows of whole conversations, padded at the end."""
    batch = DialogueBatch(torch.zeros(0), torch.zeros(0), end_token=builder.specials.im_end)
    rows, targets = [], []
    for number, dialogue in enumerate(dialogues):
        row = builder(system_pieces(dialogue, source) if dialogue.prompt is not None else [])
        ids = row.ids.tolist()
        aims = [-100] * len(ids)
        if dialogue.voice_sample is not None:
            heard = _positions(row.audio_bounds, 0)
            if dialogue.sample_read is None:
                batch.prompts.append((number, heard))
            else:
                for place, token in zip(heard.tolist(), dialogue.sample_read, strict=False):
                    ids[place] = token
                batch.tones.append((number, heard, dialogue.sample_tone))
        answers: list[tuple[int, list[int]]] = []
        for index, said in enumerate(dialogue.turns):
            shown = _add_turn(batch, number, said, index, builder, ids, aims)
            batch.ends.append((number, len(ids) - 1, said.turn.over))
            if said.read is not None and dialogue.caller_tone is not None:
                batch.tones.append((*batch.read[-1], dialogue.caller_tone))
            row = builder([answer_header()])
            spk = len(ids) + int(row.spk_bounds[-1][0])
            batch.speakers.append((number, spk))
            batch.voices.append(dialogue.voice)
            ids += row.ids.tolist()
            words = builder.text(said.turn.answer)
            for token, places in _sources(words, said, shown, batch, answers, builder):
                batch.looks += [(number, len(ids) - 1 + token, place) for place in places]
            answers.append((len(ids), words))
            answer = [*words, builder.specials.tts_end]
            batch.skills.append((number, len(ids) - 1, len(ids) + len(answer), said.turn.skill))
            aims += [-100] * (len(row) - 1) + [answer[0]]
            ids += answer
            aims += [*answer[1:], builder.specials.im_end]
        rows.append(ids)
        targets.append(aims)
    length = -(-max(map(len, rows)) // EVEN) * EVEN
    batch.ids = torch.tensor([r + [0] * (length - len(r)) for r in rows])
    batch.targets = torch.tensor([t + [-100] * (length - len(t)) for t in targets])
    return batch


def _sources(
    words: list[int], said: Said, shown: list[int], batch: DialogueBatch, answers: list[tuple[int, list[int]]],
    builder: TokenBuilder,
) -> Iterable[Look]:  # fmt: skip
    """Where the ``words`` of an answer come from, as far as that is known. ``shown``: where the turn's pictures
    begin."""
    if said.turn.looks and shown:
        return from_picture(words, said.turn.looks, shown, builder)
    if said.turn.skill == "memory":
        return from_answers(words, answers)
    if said.turn.skill == "dictation" and said.read is not None:
        places = batch.read[-1][1].tolist()
        return from_words(words, said.read[: len(places)], places)
    return ()


def _add_turn(
    batch: DialogueBatch, number: int, said: Said, index: int, builder: TokenBuilder, ids: list[int], aims: list[int]
) -> list[int]:
    """What the person says in one turn, in units as the call cuts them. Returns where its pictures begin."""
    start = len(ids)
    pieces: list[Piece] = [turn_header(answered=index > 0, completed=True)]
    shown = said.picture is not None or said.seen is not None
    picture: list[Piece] = [UNIT_MARK, ImageSlot(said.picture.grid if said.picture else None)] if shown else []
    if said.read is not None or said.samples is not None:
        tokens = len(said.read) if said.read is not None else 0
        samples = len(said.samples) if said.samples is not None else tokens * UNIT // builder.audio_tokens(UNIT)
        for at in range(0, samples, UNIT):
            pieces += [*picture, AudioSlot(min(UNIT, samples - at))]
    else:
        pieces += [*picture, said.turn.heard]
    row = builder(pieces)
    new = row.ids.copy()
    if len(row.audio_bounds) and said.read is not None:
        places = _positions(row.audio_bounds, 0)
        new[places] = (said.read + [builder.specials.unknown] * len(places))[: len(places)]
        batch.read.append((number, places + start))
    elif len(row.audio_bounds) and said.samples is not None:
        batch.sounds.append((number, _positions(row.audio_bounds, start)))
    for first, last in row.image_bounds.tolist():
        if said.picture is not None:
            batch.pictures.append((number, np.arange(first, last) + start))
            batch.images.append(said.picture)
        elif said.seen is not None:
            new[first : first + len(said.seen)] = said.seen
            blank = builder.specials.unknown
            batch.seen += [(number, first + start + slot, slot) for slot, i in enumerate(said.seen) if i != blank]
    ids += new.tolist()
    aims += [-100] * (len(ids) - len(aims))
    return [start + first for first, _ in row.image_bounds.tolist()]


def picture_ids(words: list[str], builder: TokenBuilder) -> list[int]:
    """Ids of the words that picture tokens say, see :meth:`engine.mini.world.scenes.Scene.slots`."""
    return [builder.text(" " + word)[0] if word else builder.specials.unknown for word in words]


def _positions(bounds: NDArray[np.int64], offset: int) -> NDArray[np.int64]:
    return np.concatenate([np.arange(first, last) for first, last in bounds.tolist()]) + offset
