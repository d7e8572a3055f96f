"""What a bundle expects, and how far a call met it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.replay.expect import KEYS, ExpectError, Outcome, check, has_phrase, parse_expectations, words


def event(kind: str, t: float, turn: int, **data: Any) -> dict[str, Any]:
    return {"v": 1, "type": kind, "seq": 0, "t": t, "turn": turn, "epoch": turn, "data": data}


EVENTS = [
    event("turn.state", 0.4, 1, state="hearing", reason="speech"),
    event("frame.used", 1.0, 1, unit=1, hd=False),
    event("turn.state", 2.3, 1, state="thinking", reason="silence"),
    event("response.started", 2.3, 1),
    event("assistant.text", 2.3, 1, delta="Three plus four"),
    event("assistant.text", 2.3, 1, delta=" is SEVEN, isn't it?"),
    event("response.done", 3.1, 1, status="cancelled", reason="barge_in"),
    event("turn.state", 4.2, 2, state="thinking", reason="silence"),
    event("turn.state", 4.2, 2, state="thinking", reason="again"),
    event("response.started", 4.2, 2),
    event("response.done", 4.3, 2, status="completed", reason="stop"),
    event("turn.state", 6.0, 3, state="thinking", reason="silence"),
    event("response.started", 6.0, 3),
    event("assistant.text", 6.0, 3, delta="你好，世界 70"),
    event("metrics", 6.0, 3, rtt_ms=4),
]


def holds(**line: Any) -> bool:
    verdicts = check(parse_expectations(1, line), Outcome.from_events(EVENTS))
    assert len(verdicts) == len(line) - ("turn" in line) - ("note" in line)
    return all(verdict.passed for verdict in verdicts)


@pytest.mark.parametrize(
    "line",
    [
        {"turn": 1, "text_any": ["six", "seven"]},
        {"turn": 1, "text_any": ["isn't it"]},
        {"turn": 1, "text_any": ["isn’t"]},
        {"turn": 1, "text_all": ["three plus", "is seven"]},
        {"turn": 1, "text_not": ["seventy", "even", "plus three"]},
        {"turn": 1, "text_exact": "three plus four is seven isn't it"},
        {"turn": 1, "text_regex": r"\bfour is seven\b"},
        {"turn": 1, "text_any": ["seven"], "text_not": ["six"], "end_between_s": [2.3, 2.3]},
        {"turn": 1, "interrupted": True},
        {"turn": 2, "interrupted": False},
        {"turn": 2, "no_answer": True, "note": "nothing was said"},
        {"turn": 9, "no_answer": True},
        {"turn": 2, "end_between_s": [4, 4.5]},
        {"turn": 3, "text_any": ["世界"], "text_not": ["世好"]},
        {"text_all": ["seven", "70"]},
        {"no_answer": False},
        {"turns": 3},
        {"turns_min": 2},
        {"turns_max": 3},
        {"frames_min": 1},
    ],
)
def test_an_expectation_that_is_met_holds(line: dict[str, Any]) -> None:
    assert holds(**line)


@pytest.mark.parametrize(
    "line",
    [
        {"turn": 1, "text_any": ["six", "sevens"]},
        {"turn": 1, "text_any": ["7"]},
        {"turn": 1, "text_all": ["seven", "six"]},
        {"turn": 1, "text_not": ["six", "seven"]},
        {"turn": 1, "text_exact": "seven"},
        {"turn": 1, "text_regex": "^seven"},
        {"turn": 1, "no_answer": True},
        {"turn": 1, "interrupted": False},
        {"turn": 1, "end_between_s": [2.31, 9]},
        {"turn": 2, "no_answer": False},
        {"turn": 9, "text_not": ["six"]},
        {"turn": 9, "interrupted": False},
        {"turn": 9, "end_between_s": [0, 99]},
        {"turns": 2},
        {"turns_min": 4},
        {"turns_max": 2},
        {"frames_min": 2},
    ],
)
def test_an_expectation_that_is_not_met_fails(line: dict[str, Any]) -> None:
    assert not holds(**line)


def test_every_key_of_a_line_is_scored_by_itself() -> None:
    line = {"turn": 1, "text_any": ["seven"], "text_not": ["three"], "end_between_s": [2, 3]}
    verdicts = check(parse_expectations(4, line), Outcome.from_events(EVENTS))
    assert {v.expectation.key: v.passed for v in verdicts} == {
        "text_any": True,
        "text_not": False,
        "end_between_s": True,
    }
    assert all(v.expectation.line == 4 and v.found for v in verdicts)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ([], "holds a list"),
        ("turns", "holds a text"),
        ({}, "expects nothing"),
        ({"turn": 1}, "expects nothing"),
        ({"turn": 1, "note": "x"}, "expects nothing"),
        ({"turn": 0, "text_any": ["a"]}, "turn 0"),
        ({"turn": "1", "text_any": ["a"]}, "turn '1'"),
        ({"turn": None, "text_any": ["a"]}, "turn None"),
        ({"turn": True, "text_any": ["a"]}, "turn True"),
        ({"turn": 1, "text_none": ["a"]}, "unknown key 'text_none'"),
        ({"turn": 1, "text_any": []}, "text_any []"),
        ({"turn": 1, "text_any": ["?!"]}, "at least one word"),
        ({"turn": 1, "text_any": [7]}, "text_any [7]"),
        ({"turn": 1, "text_exact": ""}, "text_exact ''"),
        ({"turn": 1, "text_regex": "("}, "regular expression"),
        ({"turn": 1, "text_regex": 5}, "regular expression"),
        ({"turn": 1, "end_between_s": [3, 2]}, "the smaller first"),
        ({"turn": 1, "end_between_s": 2}, "[from, to]"),
        ({"end_between_s": [1, 2]}, "without the turn"),
        ({"turn": 1, "turns": 2}, "whole call"),
        ({"turns": 2.5}, "whole number"),
        ({"turns": -1}, "whole number"),
        ({"turns": True}, "whole number"),
        ({"no_answer": "yes"}, "true or false"),
    ],
)
def test_a_line_that_cannot_be_checked_is_a_fault(line: object, fault: str) -> None:
    with pytest.raises(ExpectError) as error:
        parse_expectations(1, line)
    assert fault in str(error.value)


@given(st.lists(st.text("abcdeäß", min_size=1), min_size=1), st.data())
def test_a_phrase_is_found_wherever_its_words_stand_side_by_side(text: list[str], data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(begin + 1, len(text)))
    spoken, phrase = words(", ".join(text).upper() + "!"), words(" ".join(text[begin:end]))
    assert len(spoken) == len(text)
    assert has_phrase(spoken, phrase)
    assert not has_phrase(spoken, [*phrase, "zz"])


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda v: st.lists(v) | st.dictionaries(
    st.sampled_from([*KEYS, "turn", "note", "other"]), v)))  # fmt: skip
def test_any_line_is_either_checked_or_refused(line: Any) -> None:
    try:
        expectations = parse_expectations(1, line)
    except ExpectError:
        return
    assert len(check(expectations, Outcome.from_events(EVENTS))) == len(expectations) > 0
