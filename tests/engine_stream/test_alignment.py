"""Which text a talker says when: found where its attention tells, kept at its pace where it does not, and never mended
once its sound was handed over."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.client import OUTPUT_RATE
from engine.conversation.alignment import Alignment, Attention
from engine.conversation.answer_text import AnswerText
from engine.conversation.pace import Pace

CODE = 512
LENGTHS = [3, 5, 2, 8, 4, 6, 3, 3]
"""Codes that each token of the attention below takes."""


def attention(lengths: list[int], peak: float = 0.3) -> Attention:
    """Codes that look at the token that they say [codes, tokens], and a little at all the others."""
    said = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.full((len(said), len(lengths)), 0.01, np.float32)
    rows[np.arange(len(said)), said] = peak
    return rows


def follow(rows: Attention, block: int, lag: int = 4, code_s: float = CODE / OUTPUT_RATE) -> list[int | None]:
    """Starts of all tokens, found block by block with ``lag`` codes of outlook."""
    found, usual = Alignment(code_s), np.full(rows.shape[1], 4.0)
    for begin in range(0, len(rows), block):
        end = min(begin + block, len(rows))
        last = rows.shape[1] - 1 if end == len(rows) else None
        found.follow(rows[begin:end], 0, usual, fix=end - lag, last=last)
    return [found.start(token) for token in range(rows.shape[1])]


@pytest.mark.parametrize("block", [3, 7, 16, 100])
def test_attention_tells_where_a_token_begins(block: int) -> None:
    exact = np.concatenate([[0], np.cumsum(LENGTHS)[:-1]]).tolist()
    assert follow(attention(LENGTHS), block) == exact


def test_a_glance_elsewhere_is_passed_over() -> None:
    rows = attention(LENGTHS)
    rows[[4, 11, 20]] = rows[[30, 2, 6]]
    found = follow(rows, 16)
    exact = np.concatenate([[0], np.cumsum(LENGTHS)[:-1]])
    assert np.abs(np.array(found) - exact).max() <= 2


def test_without_attention_the_pace_is_kept() -> None:
    found = np.array(follow(np.full((32, 8), 0.1, np.float32), 8))
    assert np.abs(found - np.arange(8) * 4).max() <= 4


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(1, 12))
def test_no_token_goes_back_whatever_the_talker_looks_at(seed: int, block: int, tokens: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.full(tokens, 0.05), 30).astype(np.float32)
    found = follow(rows, block)
    assert found[0] == 0
    assert None not in found
    starts = [start for start in found if start is not None]
    assert starts == sorted(starts)
    assert starts[-1] <= len(rows)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 20))
def test_a_start_is_final_when_its_sound_is_handed_over(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    text = AnswerText(CODE, Pace())
    words = ["One", " two", " three", " four."]
    rows = rng.dirichlet(np.full(8, 0.05), 40).astype(np.float32)
    text.write([(word, 10 + index) for index, word in enumerate(words[:2])])
    text.admit(len("One "), 2)
    for begin in range(0, 40, block):
        end = min(begin + block, 40)
        if begin:
            text.write([(word, 12 + index) for index, word in enumerate(words[2:])] if begin == block else [])
        if begin == block:
            for portion in ("two ", "three ", "four."):
                text.admit(len(portion), 2)
        seen = 2 if begin < block else 8
        text.follow(rows[begin:end, :seen], 0, fix=end - 4, last=seen - 1 if end == 40 else None)
        before = [text.spoken.heard_chars(samples) for samples in range(0, (begin - 4) * CODE, CODE)]
        text.hand_over(max(0, end - 4) * CODE)
        assert [text.spoken.heard_chars(samples) for samples in range(0, (begin - 4) * CODE, CODE)] == before
    text.hand_over(40 * CODE, last=True)
    starts = [start for _, start in text.spoken.starts]
    assert starts == sorted(starts)
    assert starts[-1] < 40 * CODE


def test_the_context_ends_with_the_token_that_ends_a_word() -> None:
    text = AnswerText(CODE, Pace())
    text.write([("One", 11), (" tw", 12), ("o", 13), (",", 14), (" three", 15)])
    assert [character for character, _ in text.spoken.starts] == [0, 3, 8]
    assert [text.position(end) for end in (0, 3, 8, 14)] == [None, 11, 14, 15]


def test_the_pace_is_learned_from_what_was_heard() -> None:
    assert Pace().factor == 1
    slow = Pace().after(said_s=8, usual_s=4)
    assert 1.5 < slow.factor < 2
    text = AnswerText(CODE, slow)
    ((_, first), (_, second)) = text.write([("One", 11), (" more", 12)])
    assert first == 0
    assert second == pytest.approx(4 * 0.062 * slow.factor * OUTPUT_RATE, abs=1)
