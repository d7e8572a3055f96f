"""Where answers come from, and the head that is taught to look there."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

from engine.config import OmniConfig
from engine.mini.layout import CHECKPOINT
from engine.mini.stages.dialogue import Dialogue, DialogueBatch, Said, build, picture_ids, read_words
from engine.mini.stages.language import token_builder
from engine.mini.stages.looking import looking_loss
from engine.mini.world.grammar import Turn
from engine.mini.world.scenes import Scene, Thing
from engine.mini.world.words import HeardWords
from engine.model.decoder import Attention, DecoderSizes, rotary

builder = token_builder(OmniConfig.from_dir(CHECKPOINT))
words = HeardWords(builder)
SIZES = DecoderSizes(32, 16, 32, 1, 2, 2, 1e-6, 1e4, True, 8)


def pairs(batch: DialogueBatch) -> list[tuple[str, str]]:
    """Each word that is said next, and the one that is looked at."""

    def word(token: Tensor) -> str:
        out: str = builder.tokenizer.decode([int(token)]).strip()
        return out

    return [(word(batch.targets[row, at]), word(batch.ids[row, place])) for row, at, place in batch.looks]


def one(*turns: Said) -> DialogueBatch:
    return build([Dialogue(list(turns), None)], builder, random.Random(0))


def test_words_of_a_picture_are_looked_for_at_the_thing_that_is_meant() -> None:
    star = Thing("blue", "star", 2, 2)
    scene = Scene(True, [Thing("red", "circle", 0, 0), star])
    looks = tuple((word, star.slots[1]) for word in ("star", "bottom", "right"))
    turn = Turn("where is the star", "The star is bottom right.", "seeing", looks)
    batch = one(Said(turn, seen=picture_ids(scene.slots(), builder)))
    assert pairs(batch) == [("star", "star"), ("bottom", "star"), ("right", "star")]


def test_dictation_is_looked_for_where_it_was_heard() -> None:
    said = "seven four seven"
    read = read_words(said, words, np.random.default_rng(0), 0.0)
    batch = one(Said(Turn(said, f"You said {said}.", "dictation"), read=read))
    assert pairs(batch) == [(word, word) for word in said.split()]
    places = [place for _, _, place in batch.looks]
    assert places == sorted(set(places))


def test_what_was_told_is_looked_for_in_the_answer_that_said_it_last() -> None:
    told = [Turn(f"i am {n}", f"Your name is {n.title()}.", "memory") for n in ("tom", "eva")]
    batch = one(*map(Said, told), Said(Turn("who am i", "Your name is Eva.", "memory")))
    assert pairs(batch) == [(word, word) for word in ("Your", "name", "is", "Eva", ".")]


def test_the_taught_head_learns_to_look() -> None:
    torch.manual_seed(0)
    attention, x = Attention(SIZES), torch.randn(2, 12, 16)
    turn = tuple(part[None, None] for part in rotary(torch.arange(12), 8, 1e4))
    looks = torch.tensor([[0, 9, 2], [0, 9, 3], [1, 7, 5], [1, 11, 0]])
    optimizer = torch.optim.Adam(attention.parameters(), 0.05)
    losses = []
    for _ in range(60):
        loss = looking_loss(attention, x, turn, looks)  # type: ignore[arg-type]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    # Only the first head is taught, and nothing lies ahead of what looks.
    assert attention.q_proj.weight.grad is not None
    assert not attention.q_proj.weight.grad[8:].any()
    ahead = looking_loss(attention, x, turn, torch.tensor([[0, 2, 9]]))  # type: ignore[arg-type]
    assert ahead > 1000
