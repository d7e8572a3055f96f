"""Halves of messages: what a person has said who pauses in the middle of a sentence.

Half a question is not answered with a guess but with :data:`~engine.mini.world.grammar.NOT_UNDERSTOOD`. What begins a
dictation is one itself: its words are repeated, and whether more will come is a matter of how often it does.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache

from engine.mini.world import grammar
from engine.mini.world.scenes import Scene, ask, random_scene
from engine.mini.world.small_talk import SMALL_TALK

REPEATING = ("repeat after me", "please say")
"""What may come before a dictation."""
HESITATIONS = ("um", "uh", "er", "hm", "well um", "let me think")
HESITATING = 0.2
"""Share of halves of sentences that end with one of them."""


def half(turn: grammar.Turn, rng: random.Random) -> grammar.Turn | None:
    """The beginning of ``turn``, cut between two words; None where there is none, or where it would ask for something
    that only the conversation tells."""
    words = turn.heard.split()
    if len(words) < 2:
        return None
    begun = " ".join(words[: rng.randrange(1, len(words))])
    if turn.skill == "dictation":
        said = begun
        for lead in REPEATING:
            said = said.removeprefix(lead).strip()
        if said and not any(lead.startswith(said) and turn.heard.startswith(lead) for lead in REPEATING):
            return grammar.Turn(begun, grammar.sentence(f"you said {said}"), "dictation", over=False)
    elif begun in _asked():
        return None
    elif (whole := _answered().get(begun)) is not None:
        return grammar.Turn(begun, whole.answer, whole.skill, over=False)
    return grammar.Turn(begun, grammar.NOT_UNDERSTOOD, "half", over=False)


def hesitating(begun: grammar.Turn, rng: random.Random) -> grammar.Turn:
    """Half of a message, now and then with an "um" after it."""
    if begun.skill == "half" and rng.random() < HESITATING:
        return replace(begun, heard=f"{begun.heard} {rng.choice(HESITATIONS)}")
    return begun


def some_half(rng: random.Random, *, judge: bool = False) -> grammar.Turn:
    """Half of a message of any kind, most of them questions; with ``judge``, of sentences that are kept apart, too."""
    while True:
        kind = rng.random()
        if kind < 0.35:
            turn = grammar.everyday(rng, judge=judge)
        elif kind < 0.5:
            turn = grammar.Turn(ask(random_scene(rng), rng)[0], "", "seeing")
        elif kind < 0.6:
            turn = grammar.recall(rng, grammar.Memory())
        elif kind < 0.7:
            turn = grammar.tell(rng, grammar.Memory())
        else:
            turn = rng.choice((grammar.arithmetic, grammar.counting, grammar.small_talk, grammar.dictation))(rng)
        if (begun := half(turn, rng)) is not None:
            return hesitating(begun, rng)


def with_halves(
    turns: Iterable[tuple[grammar.Turn, Scene | None]], rng: random.Random, share: float
) -> Iterator[tuple[grammar.Turn, Scene | None]]:
    """A conversation in which, before ``share`` of the turns, their beginning was taken for all of it. Not where the
    picture is a new one: what "before" means there would change."""
    shown: Scene | None = None
    for number, (turn, scene) in enumerate(turns):
        still = number == 0 or scene is shown
        if still and rng.random() < share and (begun := half(turn, rng)) is not None:
            yield hesitating(begun, rng), scene
        yield turn, scene
        shown = scene


@lru_cache(maxsize=1)
def _answered() -> dict[str, grammar.Turn]:
    """Whole messages that have one answer."""
    rng = random.Random(4)
    made = [(grammar.arithmetic, grammar.counting)[number % 2](rng) for number in range(40_000)]
    made += [grammar.tell(rng, grammar.Memory()) for _ in range(10_000)]
    made += [grammar.Turn(text, answer, "smalltalk") for wordings, answer in SMALL_TALK.values()
             for text in wordings]  # fmt: skip
    return {turn.heard: turn for turn in made}


@lru_cache(maxsize=1)
def _asked() -> frozenset[str]:
    """Whole messages whose answer depends on what was told or is seen."""
    rng = random.Random(5)
    made = [grammar.recall(rng, grammar.Memory()).heard for _ in range(2_000)]
    made += [grammar.blind(rng).heard for _ in range(2_000)]
    made += [ask(random_scene(rng), rng)[0] for _ in range(10_000)]
    return frozenset(made)
