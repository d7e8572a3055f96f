"""The fixed questions, spoken: recordings are heard or read as in a call, and answered; beside the same questions,
typed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from engine.small.measure.judge import Question, plain
from engine.small.measure.sounds import SpeechSample
from engine.small.measure.typed import AnsweredQuestion, Turn, share

TYPED = "typed"
Asked = Callable[[Sequence[Question], Sequence[Sequence[Turn]]], Iterator[AnsweredQuestion]]
"""Asks questions, with the turns in which each is put, and gives each with its answers, in any order."""
Hears = Callable[[SpeechSample, str], Turn]
"""What a model is given of a recording under a condition: the words that were read, or the sound itself."""


@dataclass(frozen=True, slots=True)
class SpokenQuestion:
    """A question with one recording for each of its turns, all of one speaker."""

    question: Question
    turns: tuple[SpeechSample, ...]


@dataclass(frozen=True, slots=True)
class HeardAnswer:
    """What became of a question under one condition, or typed."""

    kind: str
    speaker: str
    condition: str
    turns: tuple[str, ...]
    """As they were read, or as they were meant where a model only hears."""
    answers: tuple[str, ...]
    right: bool
    right_typed: bool


def spoken_questions(questions: Sequence[Question], recordings: Sequence[SpeechSample]) -> list[SpokenQuestion]:
    """The questions of which somebody said every turn, once for each speaker who did."""
    said: dict[str, dict[str, SpeechSample]] = {}
    for one in recordings:
        said.setdefault(one.speaker, {})[plain(one.text)] = one
    found = []
    for question in questions:
        for texts in said.values():
            turns = [texts.get(plain(turn)) for turn in question.turns]
            if all(turns):
                found.append(SpokenQuestion(question, tuple(turn for turn in turns if turn is not None)))
    return found


def ask_spoken(
    asked: Sequence[SpokenQuestion], conditions: Sequence[str], hear: Hears, ask: Asked
) -> Iterator[HeardAnswer]:
    """Each question typed, then under each condition."""
    typed_right: list[bool] = []
    for condition in (TYPED, *conditions):
        said = [[turn.text if condition == TYPED else hear(turn, condition) for turn in one.turns] for one in asked]
        given = [replace(one.question) for one in asked]  # a question is asked once for each speaker
        places = {id(question): place for place, question in enumerate(given)}
        answered: dict[int, AnsweredQuestion] = {}
        for answer in ask(given, said):
            answered[places[id(answer.question)]] = answer
        if condition == TYPED:
            typed_right = [answered[place].right for place in range(len(given))]
        for place, one in enumerate(asked):
            answer = answered[place]
            turns = tuple(
                turn if isinstance(turn, str) else meant.text
                for turn, meant in zip(said[place], one.turns, strict=True)
            )
            yield HeardAnswer(
                answer.question.kind, one.turns[0].speaker, condition, turns, answer.answers,
                answer.right, typed_right[place],
            )  # fmt: skip


def table(answers: Sequence[HeardAnswer]) -> str:
    """Right answers by kind and condition, and of those that are right when typed, as Markdown."""
    conditions = list(dict.fromkeys(one.condition for one in answers))
    kinds = list(dict.fromkeys(one.kind for one in answers))
    lines = [f"| kind | {' | '.join(conditions)} |", "|---|" + "---|" * len(conditions)]
    for name in [*kinds, "all"]:
        group = [one for one in answers if name in (one.kind, "all")]
        lines.append(_row(name, group, conditions))
    lines.append(_row("of those right when typed", [one for one in answers if one.right_typed], conditions))
    for speaker in dict.fromkeys(one.speaker for one in answers):
        group = [one for one in answers if one.right_typed and one.speaker == speaker]
        lines.append(_row(f"… {speaker}", group, conditions))
    return "\n".join(lines)


def _row(name: str, group: Sequence[HeardAnswer], conditions: Sequence[str]) -> str:
    here = [[one.right for one in group if one.condition == condition] for condition in conditions]
    return f"| {name} | " + " | ".join(share(sum(rights), len(rights)) for rights in here) + " |"
