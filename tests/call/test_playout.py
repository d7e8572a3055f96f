"""The speech queue: what was played, what was dropped, what was heard."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.call.playout import SpeechQueue, SpokenText


def test_silence_when_idle_and_order_when_not() -> None:
    played: list[tuple[int, int]] = []
    queue = SpeechQueue(lambda epoch, samples: played.append((epoch, samples)))
    assert not queue.pull(480).any()
    queue.push(3, np.arange(1, 501, dtype=np.int16))
    queue.push(3, np.arange(501, 701, dtype=np.int16))
    assert np.array_equal(queue.pull(480), np.arange(1, 481))
    rest = queue.pull(480)
    assert np.array_equal(rest[:220], np.arange(481, 701))
    assert not rest[220:].any()
    assert played == [(3, 480), (3, 220)]
    queue.push(4, np.ones(10, np.int16))
    assert (queue.played, queue.buffered) == (0, 10)


@given(st.lists(st.integers(0, 2_000), max_size=20), st.lists(st.integers(1, 1_500), max_size=20))
def test_played_and_dropped_are_all_that_was_pushed(pushes: list[int], pulls: list[int]) -> None:
    counted: list[int] = []
    queue = SpeechQueue(lambda epoch, samples: counted.append(samples))
    for size in pushes:
        queue.push(1, np.full(size, 1_000, np.int16))
    for size in pulls:
        assert len(queue.pull(size)) == size
    flushed = queue.flush()
    assert flushed.played == sum(counted) == queue.played
    assert flushed.played + flushed.dropped == sum(pushes)


def test_a_flush_fades_out_and_does_not_count_it() -> None:
    queue = SpeechQueue(lambda epoch, samples: None, fade_out_ms=5.0)
    queue.push(1, np.full(4_800, 10_000, np.int16))
    queue.pull(480)
    assert queue.flush().dropped == 4_320
    tail = queue.pull(480).astype(int)
    assert tail[0] == 10_000
    assert np.all(np.diff(tail[:120]) < 0)
    assert not tail[120:].any()
    assert queue.played == 480
    assert not queue.pull(480).any()


def test_silence_in_the_middle_of_an_answer_is_an_underrun() -> None:
    queue = SpeechQueue(lambda epoch, samples: None)
    queue.pull(480)
    queue.push(1, np.ones(480, np.int16))
    queue.pull(480)
    queue.push(1, np.ones(100, np.int16))  # in time
    assert queue.underruns == 0
    queue.pull(480)
    queue.pull(480)
    queue.push(1, np.ones(480, np.int16))  # the listener waited for this
    assert queue.underruns == 1
    queue.pull(960)
    queue.push(2, np.ones(480, np.int16))  # the answer before was over
    queue.pull(480)
    queue.flush()
    queue.push(2, np.ones(480, np.int16))
    assert queue.underruns == 1


def test_heard_text_ends_with_a_whole_word() -> None:
    spoken = SpokenText()
    spoken.add("one two", 0, 12_000)
    spoken.add(" three four", 12_000, 12_000)
    assert [spoken.heard_chars(n) for n in (0, 3_000, 9_000, 12_000, 20_000, 24_000)] == [0, 0, 4, 7, 14, 18]


def test_an_answer_without_speech_is_read() -> None:
    spoken = SpokenText()
    spoken.add("hello", 0, 0)
    assert spoken.heard_chars(0) == 5


@given(st.lists(st.tuples(st.text(max_size=12), st.integers(0, 12_000)), max_size=8), st.integers(0, 100_000))
def test_heard_text_grows_with_what_was_played(chunks: list[tuple[str, int]], played: int) -> None:
    spoken, at = SpokenText(), 0
    for text, samples in chunks:
        spoken.add(text, at, samples)
        at += samples
    assert 0 <= spoken.heard_chars(played) <= spoken.heard_chars(played + 500) <= len(spoken.text)
    assert spoken.heard_chars(at) == len(spoken.text)
