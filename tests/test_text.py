"""Text from outside: what is read can be written again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.text import JsonError, is_unicode, printable, read_json

ANY_TEXT = st.text(st.characters(codec=None))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=8,
)


@given(VALUES)
def test_what_is_read_can_be_sent_and_what_cannot_is_refused(value: Any) -> None:
    try:
        read = read_json(json.dumps(value))
    except JsonError:
        with pytest.raises(ValueError, match=r"surrogate|JSON compliant"):
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    else:
        assert read == value
        json.dumps(read, ensure_ascii=False, allow_nan=False).encode()


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        read_json(raw)
    except JsonError:
        return


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expecting value"),
        ('"\\ud83d"', "half of a surrogate pair"),
        ('{"\\udc00": 1}', "half of a surrogate pair"),
        (b'"\xed\xa0\xbd"', "half of a surrogate pair"),
        (b'"\xff"', "not UTF-8"),
        ("[" * 100_000, "nested too deep"),
        ("NaN", "NaN is no number"),
        ("1e999", "number that is too large"),
        ("9" * 5_000, "number that is too large"),
    ],
)
def test_the_reason_is_named(text: str | bytes, reason: str) -> None:
    with pytest.raises(JsonError, match=reason):
        read_json(text)


def test_a_whole_pair_is_a_character() -> None:
    assert read_json('"\\ud83d\\ude00"') == "😀"


@given(ANY_TEXT)
def test_whatever_is_made_printable_can_be_printed(text: str) -> None:
    printable(text).encode()
    assert is_unicode(text) == (printable(text) == text)
