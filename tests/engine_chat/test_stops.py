"""Where an answer ends that is to stop at a text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.chat.stops import StopTexts

LETTERS = st.text("ab", max_size=12)


def given_out(stops: StopTexts, pieces: Sequence[str]) -> list[str]:
    return [*(stops.add(piece) for piece in pieces), stops.rest()]


@pytest.mark.parametrize(
    ("texts", "pieces", "expected"),
    [
        (["four"], ["three plus fo", "ur is seven"], ["three plus ", "", ""]),
        (["four"], ["three plus fo", "rty"], ["three plus ", "forty", ""]),
        (["four"], ["three plus fo"], ["three plus ", "fo"]),
        ([], ["three"], ["three", ""]),
        (["", "b"], ["abc"], ["a", ""]),
    ],
)
def test_what_may_be_a_stop_text_waits(texts: list[str], pieces: list[str], expected: list[str]) -> None:
    assert given_out(StopTexts(texts), pieces) == expected


@given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=3), st.lists(LETTERS, max_size=6))
def test_the_answer_ends_before_the_first_stop_text_however_it_is_cut(texts: list[str], pieces: list[str]) -> None:
    whole = "".join(pieces)
    # A stop text counts once all of it is there: the one that is complete first, from its own beginning.
    found = [(place + len(text), place) for text in texts if (place := whole.find(text)) >= 0]
    stops = StopTexts(texts)
    out = "".join(given_out(stops, pieces))
    assert stops.met == bool(found)
    assert whole.startswith(out)
    assert not any(text in out for text in texts)
    if not found:
        assert out == whole
