"""Token buckets and the waiting line, on a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import RequestError
from app.server.limits import MAX_ADDRESSES, RateLimiter, Share, WaitingLine
from app.token_bucket import TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_allows_a_burst_and_then_its_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(2.0, 5, clock)
    assert [bucket.take() for _ in range(7)] == [True] * 5 + [False] * 2
    assert bucket.wait_s == pytest.approx(0.5)
    clock.now += 0.5
    assert bucket.take()
    assert not bucket.take()
    clock.now += 1_000
    assert bucket.full
    assert [bucket.take() for _ in range(6)] == [True] * 5 + [False]


def test_a_limit_can_be_asked_without_being_used_up() -> None:
    clock = Clock()
    limiter = RateLimiter(2, clock)
    assert [limiter.wait_s("a") for _ in range(5)] == [0.0] * 5
    assert limiter.take("a") == 0.0
    assert limiter.wait_s("a") == pytest.approx(limiter.take("a"))
    assert limiter.wait_s("b") == 0.0
    clock.now += limiter.wait_s("a")
    assert limiter.take("a") == 0.0


@given(st.lists(st.floats(0, 3), max_size=200))
def test_a_bucket_never_allows_more_than_burst_and_rate(pauses: list[float]) -> None:
    clock = Clock()
    bucket = TokenBucket(3.0, 4, clock)
    taken = 0
    for pause in pauses:
        clock.now += pause
        taken += bucket.take()
        assert taken <= 4 + 3.0 * (clock.now - 50.0) + 1e-6


def test_addresses_are_limited_one_by_one() -> None:
    clock = Clock()
    limiter = RateLimiter(6, clock)
    assert [limiter.take("a") > 0 for _ in range(4)] == [False, False, False, True]
    assert limiter.take("b") == 0
    assert limiter.take("a") == pytest.approx(10)
    clock.now += 10.1
    assert limiter.take("a") == 0


def test_no_limit_is_possible_and_many_addresses_take_bounded_memory() -> None:
    assert all(RateLimiter(0).take("a") == 0 for _ in range(1_000))
    limiter = RateLimiter(6, Clock())
    for number in range(MAX_ADDRESSES + 500):
        limiter.take(f"address {number}")
    assert len(limiter._buckets) <= MAX_ADDRESSES


def test_callers_wait_in_the_order_in_which_they_asked() -> None:
    line = WaitingLine(Clock())
    first, second = line.wait(None), line.wait(None)
    assert first is not None
    assert second is not None
    assert (first[1], second[1]) == (1, 2)
    assert line.wait(first[0]) == first
    assert line.position(second[0]) == 1
    assert line.position(None) == line.position("forged") == 2
    line.leave(first[0])
    assert line.wait(second[0]) == (second[0], 1)


def test_who_stops_asking_loses_the_place() -> None:
    clock = Clock()
    line = WaitingLine(clock)
    gone, patient = line.wait(None), line.wait(None)
    assert gone is not None
    assert patient is not None
    clock.now += WaitingLine.PATIENCE_S / 2
    line.wait(patient[0])
    clock.now += WaitingLine.PATIENCE_S / 2 + 1
    assert line.position(patient[0]) == 0
    line.keep(patient[0])
    clock.now += WaitingLine.PATIENCE_S
    assert line.position(patient[0]) == 0
    assert line.wait(gone[0]) not in (None, gone)


def test_the_line_has_an_end() -> None:
    line = WaitingLine(Clock())
    assert all(line.wait(None) for _ in range(WaitingLine.MAX_LENGTH))
    assert line.wait(None) is None


def test_a_client_has_no_more_under_way_than_its_share() -> None:
    share = Share(2)
    with share.of("10.0.0.1"), share.of("10.0.0.2"):
        with share.of("10.0.0.1"), pytest.raises(RequestError, match="2 of your requests are under way") as refused:
            share.of("10.0.0.1").__enter__()
        assert refused.value.retry_after
        with share.of("10.0.0.1"):
            pass
