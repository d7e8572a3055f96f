"""How small is measured: recordings and questions find each other, pictures say what may be said of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import load_checkpoint
from engine.serving.live_engine import MINI
from engine.small.measure.judge import Question
from engine.small.measure.pictures import KINDS, make_pictures
from engine.small.measure.seen import NamedPicture
from engine.small.measure.sounds import SpeechSample, decode
from engine.small.measure.spoken import ask_spoken, spoken_questions, table
from engine.small.measure.typed import AnsweredQuestion, Turn, Typist

DATE = Path(__file__).parent.parent / "data" / "speech" / "date-man.flac"
NAME = Question("memory", ("My name is Anna.", "What is my name?"), (("anna",),))
SUM = Question("sums", ("What is two plus two?",), (("4",),))


def recording(speaker: str, text: str) -> SpeechSample:
    return SpeechSample(speaker, text, np.zeros(16, np.float32))


def echo(questions: Sequence[Question], said: Sequence[Sequence[Turn]]) -> Iterator[AnsweredQuestion]:
    """Answers every question with its first turn, and sound with its length, the last question first."""
    for question, turns in reversed([*zip(questions, said, strict=True)]):
        answer = turns[0] if isinstance(turns[0], str) else str(len(turns[0]))
        yield AnsweredQuestion(question, (answer,), question.holds(answer))


def test_a_question_is_asked_by_whoever_said_all_of_it() -> None:
    said = [recording("ann", "what is two plus two"), recording("ben", "My name is Anna"),
            recording("ben", "What is my name?"), recording("ben", "What is two plus two?")]  # fmt: skip
    asked = spoken_questions([NAME, SUM, Question("facts", ("Why?",), ())], said)
    assert [(one.question.kind, one.turns[0].speaker) for one in asked] == [
        ("memory", "ben"), ("sums", "ann"), ("sums", "ben"),
    ]  # fmt: skip


def test_what_is_read_is_compared_with_what_is_typed() -> None:
    asked = spoken_questions([NAME, SUM], [recording("ben", turn) for turn in (*NAME.turns, *SUM.turns)])
    answers = list(ask_spoken(asked, ["clean", "10 dB"], lambda one, how: "anna" if how == "clean" else "?", echo))
    rights = {(one.kind, one.condition): (one.right, one.right_typed) for one in answers}
    assert rights[("memory", "typed")] == (True, True)
    assert rights[("memory", "clean")] == (True, True)
    assert rights[("memory", "10 dB")] == (False, True)
    assert rights[("sums", "clean")] == (False, False)
    assert "| of those right when typed | 100 % (1/1) | 100 % (1/1) | 0 % (0/1) |" in table(answers)


def test_a_model_that_reads_nothing_is_asked_by_the_sound() -> None:
    asked = spoken_questions([Question("sums", SUM.turns, (("16",),))], [recording("ben", SUM.turns[0])])
    typed, spoken = ask_spoken(asked, ["clean"], lambda one, _: one.wave, echo)
    assert (typed.right, spoken.right) == (False, True)
    assert spoken.turns == SUM.turns


def test_a_model_that_hears_is_spoken_to() -> None:
    typist = Typist(load_checkpoint(MINI, LoadOptions(device="cpu", progress=False)), MINI)
    asked = Question("dictation", ("october twenty third nineteen sixty seven",), (("october",), ("67",)))
    [heard] = typist.ask_all([asked], [[decode(DATE)]])
    assert heard.right, heard.answers


@pytest.mark.parametrize(
    ("needed", "words", "verdict"),
    [
        (("red", "circle"), "a red circle", "right"),
        (("red", "circle"), "a red circle on the left", "right"),
        (("two", "red", "circle", "blue", "star"), "two things: a red circle on the left and a blue star", "right"),
        (("two", "red", "circle", "blue", "star"), "two things: a red circle and something unclear", "part"),
        (("a",), "the letter a", "right"),
        (("seven",), "the number nine", "wrong"),
        ((), "", "nothing"),
        ((), "a white cross", "wrong"),
    ],
)
def test_what_is_said_of_a_picture_is_judged(needed: tuple[str, ...], words: str, verdict: str) -> None:
    assert NamedPicture("held", 0, needed, words).verdict == verdict


def test_a_picture_follows_from_its_number() -> None:
    for kind in KINDS[:-1]:
        [one], [again] = make_pictures(kind, [3]), make_pictures(kind, [3])
        assert one.picture.tobytes() == again.picture.tobytes()
        assert bool(one.needed) == ("empty" not in kind and kind != "room")
