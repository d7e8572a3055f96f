"""What mini may be told and what it answers."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.mini.sound.hearing_data import lexicon
from engine.mini.world import grammar
from engine.mini.world.conversations import shown_conversation, spoken_conversation
from engine.mini.world.halves import half
from engine.mini.world.known_words import heard_words, lexicon_words
from engine.mini.world.rendering import render
from engine.mini.world.scenes import Scene, Thing, ask, describe, random_scene
from engine.mini.world.vocabulary import TENS, UNITS, number
from engine.serving.live_engine import MINI, read_examples

KNOWN = set(lexicon_words())
HEARD = set(heard_words())
VALUES = {w: i for i, w in enumerate(UNITS)} | {w: 10 * i for i, w in enumerate(TENS, 2)}


def value(words: str) -> int:
    """The integer that English words say; the inverse of :func:`number`, written down independently."""
    total, sign = 0, 1
    for word in words.split():
        if word == "minus":
            sign = -1
        elif word == "hundred":
            total *= 100
        else:
            total += VALUES[word]
    return sign * total


@settings(deadline=None)
@given(st.integers(-999, 999))
def test_numbers_are_said_so_that_they_can_be_read_back(n: int) -> None:
    assert value(number(n)) == n


@settings(deadline=None)
@given(st.integers(0, 10**9))
def test_arithmetic_is_right(seed: int) -> None:
    turn = grammar.arithmetic(random.Random(seed))
    left, right = grammar.plain(turn.answer).split(" is ")
    operator = next(op for op in (" plus ", " minus ", " times ") if op in left)
    a, b = (value(part) for part in left.split(operator, 1))
    assert value(right) == {" plus ": a + b, " minus ": a - b, " times ": a * b}[operator]


@settings(deadline=None)
@given(st.integers(0, 10**9))
def test_counting_goes_in_steps_of_one(seed: int) -> None:
    words = grammar.plain(grammar.counting(random.Random(seed)).answer).split()
    numbers = [VALUES[word] for word in words]  # nothing above twenty is counted
    steps = {b - a for a, b in pairwise(numbers)}
    assert len(steps) == 1
    assert steps <= {1, -1}


@settings(deadline=None)
@given(st.integers(0, 10**9))
def test_recall_repeats_only_what_was_told(seed: int) -> None:
    rng, memory = random.Random(seed), grammar.Memory()
    assert grammar.recall(rng, memory).answer.startswith("You did not")
    told = grammar.tell(rng, memory)
    for _ in range(10):
        recalled = grammar.recall(rng, memory).answer
        assert "did not" in recalled or recalled == told.answer


def test_every_word_has_a_pronunciation() -> None:
    spoken = {w for w in lexicon_words() if w.isalpha()}
    assert not spoken - set(lexicon())


@pytest.mark.parametrize(
    ("text", "skill"),
    [
        ("three five", "dictation"),
        ("hello", "smalltalk"),
        ("what is five plus six", "arithmetic"),
        ("count to ten", "counting"),
    ],
)
def test_an_utterance_that_stands_for_itself_has_its_answer(text: str, skill: str) -> None:
    turn = grammar.answer_to(text)
    assert turn is not None
    assert turn.skill == skill


def test_invented_words_are_not_understood() -> None:
    for seed in range(200):
        turn = grammar.invented(random.Random(seed))
        assert set(turn.heard.split()) - KNOWN
        assert turn.answer == grammar.NOT_UNDERSTOOD


def test_what_needs_memory_has_no_answer_of_its_own() -> None:
    assert grammar.answer_to("what is my name") is None


def test_a_picture_is_described_by_what_is_in_it() -> None:
    scene = Scene(True, [Thing("blue", "star", 1, 2), Thing("red", "circle", 0, 0)])
    assert describe(scene) == "I see two shapes: red circle, blue star."
    answers = {ask(scene, random.Random(seed))[:2] for seed in range(300)}
    assert ("where is the circle", "The circle is top left.") in answers
    assert ("what color is the star", "The star is blue.") in answers
    assert ("how many stars are there", "There is one star.") in answers


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_what_is_read_from_a_picture_is_said_in_order_by_tokens_that_know_it(seed: int) -> None:
    source = random.Random(seed)
    scene = random_scene(source)
    _, answer, looks = ask(scene, source)
    words = grammar.plain(answer).split()
    things = {slot: thing for thing in scene.things for slot in thing.slots}
    for word, slot in looks:
        words = words[words.index(word) + 1 :]
        thing = things.get(slot)
        known = f"{thing.colour} {thing.shape} {thing.place}" if thing else ""
        assert ("zero" if word == "no" else word) in (scene.slots()[slot], *known.split())


def test_the_colour_of_a_thing_is_where_the_scene_says() -> None:
    scene = Scene(True, [Thing("red", "square", 1, 1)])
    picture = render(scene, random.Random(2), difficulty=0.0)
    red, green, blue = picture.getpixel((picture.width // 2, picture.height // 2))  # type: ignore[misc]
    assert red > 150
    assert green < 90
    assert blue < 90


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_picture_words_name_every_thing(seed: int) -> None:
    scene = random_scene(random.Random(seed))
    slots = scene.slots()
    assert sum(bool(s) for s in slots[3:]) == 2 * len(scene.things)
    assert slots[0] in ("light", "dark")
    assert slots[1] == UNITS[len(scene.things)]


@pytest.mark.parametrize("converse", [spoken_conversation, shown_conversation])
def test_nothing_that_was_told_is_forgotten_in_a_conversation(
    converse: Callable[[random.Random], list[tuple[grammar.Turn, Scene | None]]],
) -> None:
    forgotten = {f"The {kind} is": f"You did not tell me a {kind}." for kind in ("number", "word")}
    forgotten["Your name is"] = "You did not tell me your name."
    asked = 0
    for seed in range(4000):
        answers = [turn.answer for turn, _ in converse(random.Random(seed)) if turn.skill == "memory"]
        for confirmed, denied in forgotten.items():
            told = next((i for i, answer in enumerate(answers) if answer.startswith(confirmed)), len(answers))
            asked += len(answers[told + 1 :])
            assert denied not in answers[told:]
    assert asked > 100


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 10**9), st.booleans())
def test_every_word_of_a_question_can_be_heard(seed: int, shown: bool) -> None:
    source = random.Random(seed)
    turns = shown_conversation(source) if shown else spoken_conversation(source)
    asked = {word for turn, _ in turns if turn.skill not in ("ood", "everyday") for word in turn.heard.split()}
    assert asked <= HEARD


def test_the_first_screen_suggests_what_can_be_understood() -> None:
    examples = read_examples(MINI)
    assert 3 <= len(examples) <= 6
    assert {word for example in examples for word in grammar.plain(example).split()} <= HEARD


def test_everyday_sentences_to_judge_by_are_none_of_those_to_learn_from() -> None:
    rng = random.Random(1)
    learned, judged = ({grammar.everyday(rng, judge=judge).heard for _ in range(5_000)} for judge in (False, True))
    assert len(learned) > 300
    assert len(judged) > 150
    assert not learned & judged


@settings(deadline=None)
@given(st.integers(0, 10**9), st.booleans())
def test_everyday_sentences_get_no_answer_that_may_be_false(seed: int, judge: bool) -> None:
    turn = grammar.everyday(random.Random(seed), judge=judge)
    assert "{" not in turn.heard
    true = ("I do not know the weather.", "I do not have a clock.")
    assert turn.answer in (grammar.NOT_UNDERSTOOD, *true)


@pytest.mark.parametrize(
    ("skill", "whole", "begun", "answer"),
    [
        ("memory", "my name is anna", "my name is", grammar.NOT_UNDERSTOOD),
        ("arithmetic", "what is three plus four", "what is three plus", grammar.NOT_UNDERSTOOD),
        ("counting", "count from three to six", "count from three to", grammar.NOT_UNDERSTOOD),
        ("smalltalk", "hello how are you", "hello", "Hello! How can I help you?"),
        ("memory", "my number is forty two", "my number is forty", "The number is forty."),
        ("dictation", "seven four two", "seven four", "You said seven four."),
        ("dictation", "repeat after me seven four", "repeat after", grammar.NOT_UNDERSTOOD),
        ("dictation", "repeat after me seven four", "repeat after me seven", "You said seven."),
    ],
)
def test_half_of_a_message_is_answered_as_far_as_it_is_one(skill: str, whole: str, begun: str, answer: str) -> None:
    made = {}
    for seed in range(100):
        part = half(grammar.Turn(whole, "", skill), random.Random(seed))
        assert part is not None
        assert whole.startswith(part.heard + " ")
        assert not part.over
        made[part.heard] = part.answer
    assert made[begun] == answer


def test_half_of_a_message_asks_for_nothing_that_only_the_conversation_tells() -> None:
    begun = {half(grammar.Turn("what did i say my name was", "", "memory"), random.Random(seed)) for seed in range(100)}
    assert None in begun  # "what did i say" asks for something else
    assert {part.answer for part in begun if part is not None} == {grammar.NOT_UNDERSTOOD}


def test_strange_words_are_not_told_from_each_other() -> None:
    assert {"government", "nevertheless"}.isdisjoint(HEARD)
