"""The speech queue: what was played, and what was dropped."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.call.playout import SpeechQueue


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
