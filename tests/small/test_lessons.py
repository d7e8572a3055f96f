"""What small is taught and measured with: the judge, the dialogues, and one lesson."""

from __future__ import annotations

import random

import pytest

from engine.small.lessons.dialogues import KINDS, draw, measured
from engine.small.measure.heard import comparable, edit_distance
from engine.small.measure.judge import plain, read_questions


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Twenty-five, please!", "25 please"),
        ("one hundred and five", "105"),
        ("a hundred forty", "140"),
        ("One, two, three.", "1 2 3"),
        ("It's 1,000; isn't it?", "its 1000 isnt it"),
        ("a hundred and one more", "101 more"),
        ("the hundred and many", "the hundred and many"),
    ],
)
def test_numbers_are_compared_as_digits(text: str, said: str) -> None:
    assert plain(text) == said


@pytest.mark.parametrize(
    ("asked", "answer", "right"),
    [
        ("What is seventeen plus twenty-five?", "That makes forty-two.", True),
        ("What is seventeen plus twenty-five?", "17 plus 25 is 43.", False),
        ("My name is Anna.", "Your name is Anna.", True),
        ("My name is Anna.", "My name is Anna.", False),
        ("Repeat after me: the red house.", "The red house.", True),
        ("Repeat after me: the red house.", "The red house is a place where people like to be.", False),
        ("What is your name?", "I am small, your assistant.", True),
        ("Is a whale a fish?", "A whale is a smallish fish.", False),
    ],
)
def test_an_answer_is_judged_by_its_words(asked: str, answer: str, right: bool) -> None:
    question = next(question for question in read_questions() if question.turns[0] == asked)
    assert question.holds(answer) == right


def test_there_are_three_hundred_questions_and_none_is_taught() -> None:
    questions = read_questions()
    assert len({question.turns for question in questions}) == 300
    rng = random.Random(3)
    drawn = [draw(rng, kind) for kind in KINDS for _ in range(200)]
    taught = {plain(asked) for dialogue in drawn for asked, _ in dialogue.turns}
    assert len(taught) > 800
    assert not taught & measured()
    assert all(asked and said and "{" not in asked + said for d in drawn for asked, said in d.turns)


def test_sums_are_taught_rightly() -> None:
    rng = random.Random(4)
    for _ in range(300):
        [(_, said)] = draw(rng, "sums").turns
        sign = {"plus": "+", "minus": "-", "times": "*", "divided": "/"}.get(said.split()[1])
        if sign:
            left, _, right = said.rstrip(".").split(",")[0].replace("divided by", "divided").partition(" is ")
            a, _, b = left.split()
            assert eval(f"{a} {sign} {b} == {right}"), said


def test_spelled_letters_and_digits_are_compared_one_by_one() -> None:
    assert comparable("G-M-E-F 39") == comparable("g m e f three nine")
    assert comparable("862-0387") == comparable("eight six two oh three eight seven")
    assert comparable("NLNS175") == comparable("n l n s one seven five")
    assert comparable("PITT") == ["p", "i", "t", "t"]
    assert edit_distance(comparable("What is that?"), comparable("what was that now")) == 2
