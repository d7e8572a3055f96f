"""How many calls are let in, by measured cost: arithmetic, virtual time, and an engine that refuses."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from engine.bench.costs import CARDS
from engine.bench.simulation import WAYS, simulate
from engine.client import SessionOptions
from engine.conversation.sampling import Noise, SpeechSampling, TextSampling
from engine.conversation.work import Decode, Feed, Hear, ModelPart, Render, Speak, Voice, Work
from engine.serving.admission import CODES_PER_TOKEN, HALF_LIFE_S, MARGIN, SPOKEN_SHARE, CallCosts
from engine.serving.live_engine import LiveEngine
from engine.serving.policy import ByDeadline
from engine.serving.scheduler import Job, Scheduler
from engine.serving.tracks import Finished, Track
from engine.spec import EngineSpec

NOTHING = torch.empty(0)
CODES_PER_S = 46.875
H200 = next(card for card in CARDS if card.name == "H200")


def feed() -> Feed:
    return Feed(None, torch.empty(95, 1))  # type: ignore[arg-type]


def hear() -> Hear:
    return Hear(None, NOTHING)  # type: ignore[arg-type]


def decode(steps: int) -> Decode:
    return Decode(None, (0,), steps, TextSampling(), NOTHING, Noise(0))  # type: ignore[arg-type]


def speak(steps: int) -> Speak:
    return Speak(Voice(0, NOTHING, NOTHING), steps, 0, 0, SpeechSampling(), Noise(0))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """A track whose batches take so many seconds, one after the other, of a clock."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock, self._seconds = clock, seconds

    def start(self, works: Sequence[Work], finished: Finished) -> None:
        self._clock.now += self._seconds
        finished([None] * len(works))

    def stop(self) -> None: ...


def one_track() -> tuple[dict[ModelPart, Track], Clock]:
    clock = Clock()
    return dict.fromkeys(ModelPart, Timed(clock, 0.0)), clock


def tell(costs: CallCosts) -> None:
    """A unit costs 0.1 s; a second of speech 4 tokens of 10 ms each, and 0.2 s."""
    costs([hear()], 0.04)
    costs([feed(), feed()], 0.12)
    costs([decode(8)], 0.08)
    costs([speak(25), speak(25)], 0.1 * 50 / CODES_PER_S)
    costs([Render(NOTHING)] * 2, 0.1 * 50 / CODES_PER_S)


def test_a_calls_share_is_what_was_measured() -> None:
    tracks, clock = one_track()
    costs = CallCosts(tracks, CODES_PER_S, clock)
    assert costs.share(1) == 0
    tell(costs)
    text = 0.01 * CODES_PER_S / CODES_PER_TOKEN
    assert costs.share(1) == pytest.approx((1 - SPOKEN_SHARE) * 0.1 + SPOKEN_SHARE * (text + 0.2))
    fits = int((1 - MARGIN) / costs.share(1))
    assert [calls for calls in range(20) if costs.admits(calls)] == list(range(fits))


def test_steps_that_cost_the_same_for_four_are_shared_by_those_who_speak() -> None:
    tracks, clock = one_track()
    costs = CallCosts(tracks, CODES_PER_S, clock, rows=4)
    costs([speak(25)], 0.25)
    costs([speak(25), speak(25)], 0.25)
    costs([Render(NOTHING)] * 3, 0.15)
    steps, wave = 0.01 * CODES_PER_S, 0.15 / 75 * CODES_PER_S
    for calls, speakers in ((1, 1.0), (10, 10 * SPOKEN_SHARE), (40, 4.0)):
        assert costs.share(calls) == pytest.approx(SPOKEN_SHARE * (steps / speakers + wave))


def test_parts_that_work_side_by_side_count_by_themselves() -> None:
    clock = Clock()
    costs = CallCosts({part: Timed(clock, 0.0) for part in ModelPart}, CODES_PER_S, clock)
    tell(costs)
    text = 0.01 * CODES_PER_S / CODES_PER_TOKEN
    assert costs.share(1) == pytest.approx((1 - SPOKEN_SHARE) * 0.06 + SPOKEN_SHARE * text)


def test_what_was_measured_before_fades() -> None:
    tracks, clock = one_track()
    costs = CallCosts(tracks, CODES_PER_S, clock)
    costs([feed()], 1.0)
    clock.now = 20 * HALF_LIFE_S
    costs([feed()] * 4, 0.4)
    assert costs.share(1) == pytest.approx((1 - SPOKEN_SHARE) * 0.1, rel=1e-4)


def test_what_does_not_come_keeps_its_cost() -> None:
    """After hours in which nobody spoke or showed anything, nothing has become free of charge."""
    tracks, clock = one_track()
    costs = CallCosts(tracks, CODES_PER_S, clock)
    tell(costs)
    share = costs.share(1)
    for _ in range(100):
        clock.now += 3_600
        costs([hear()], 0.04)
    assert costs.share(1) == pytest.approx(share)
    tell(costs)
    assert costs.share(1) == pytest.approx(share)


def test_the_first_call_is_always_let_in() -> None:
    tracks, clock = one_track()
    costs = CallCosts(tracks, CODES_PER_S, clock)
    assert costs.admits(7), "nothing is known"
    costs([feed()], 60.0)
    assert costs.admits(0)
    assert not costs.admits(1)


def test_the_scheduler_measures_by_its_stopwatch() -> None:
    """Batches of two pieces that share 0.2 s, in virtual time."""
    clock = Clock()
    tracks: dict[ModelPart, Track] = dict.fromkeys(ModelPart, Timed(clock, 0.2))
    costs = CallCosts(tracks, CODES_PER_S, clock)
    scheduler = Scheduler(tracks, ByDeadline(), clock=clock, measure=costs)
    for _ in range(2):
        scheduler.submit(scheduler.open(), Job(lambda: (yield feed()), lambda _: None, lambda _: None, lambda _: 0.0))
    while scheduler.turn():
        pass
    assert costs.share(1) == pytest.approx((1 - SPOKEN_SHARE) * 0.1)


def test_what_a_card_has_no_time_for_is_refused_and_not_late() -> None:
    """128 calls at an H200, which serves 96: the rest are refused, and no playout runs dry."""
    assert simulate(H200, 16, WAYS[3], seconds=4).refused == 0
    many = simulate(H200, 128, WAYS[3], seconds=4)
    assert 10 <= many.refused <= 40
    assert many.answers > 20
    assert many.underruns_per_answer == 0
    assert many.p95_ms <= 250


async def test_an_engine_refuses_a_call_that_it_has_no_time_for() -> None:
    engine = LiveEngine(EngineSpec(threads=1, untrained=True, max_sessions=0, context=512, admit_by_cost=True))
    info = await engine.start()
    try:
        assert info.max_sessions > 1
        costs = engine.costs
        assert costs is not None
        assert costs.share(1) > 0, "it was tried out at the start"
        first = await engine.open(SessionOptions())
        costs([feed()], 3_600.0)
        with pytest.raises(Exception, match="no time for more than its 1 session; try again when a call") as caught:
            await engine.open(SessionOptions())
        assert (caught.value.code, caught.value.retryable) == ("full", True)  # type: ignore[attr-defined]
        await first.close()
        await (await engine.open(SessionOptions())).close()
    finally:
        await engine.stop()
