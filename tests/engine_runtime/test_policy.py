"""The policy alone, in virtual time: deadlines in order, nothing starves, nothing waits for more than a batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

import pytest
import torch

from engine.client import Chunk
from engine.conversation.sampling import Noise, SpeechSampling, TextSampling
from engine.conversation.speech import SpeechChunk
from engine.conversation.work import FEED_TOKENS, Decode, Feed, Hear, ModelPart, Render, Speak, Voice, Work, batch_key
from engine.serving.live_answer import ServedAnswer
from engine.serving.policy import MARGIN_S, ByDeadline, Limits, Waiting, size_of
from engine.serving.scheduler import Job, Scheduler
from engine.serving.tracks import Finished

NOTHING = torch.empty(0)


def feed(tokens: int) -> Feed:
    return Feed(None, torch.empty(tokens, 1))  # type: ignore[arg-type]


def decode(steps: int = 4) -> Decode:
    return Decode(None, (0,), steps, TextSampling(), NOTHING, Noise(0))  # type: ignore[arg-type]


def speak(steps: int) -> Speak:
    return Speak(Voice(0, NOTHING, NOTHING), steps, 0, 0, SpeechSampling(), Noise(0))


MAKES: list[Callable[[], Work]] = [
    lambda: feed(95), lambda: feed(FEED_TOKENS), decode, lambda: decode(12), lambda: speak(6), lambda: speak(25),
    lambda: Hear(None, NOTHING), lambda: Render(NOTHING),  # type: ignore[arg-type]
]  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_every_choice_is_a_batch_that_is_led_by_what_is_due_first(seed: int) -> None:
    dice = random.Random(seed)
    policy = ByDeadline(Limits(units=dice.randint(1, 4), steps=dice.randint(1, 8), answers=dice.randint(1, 8)))
    for _ in range(50):
        waiting = [
            Waiting(dice.choice(MAKES)(), dice.uniform(0, 2), dice.uniform(0, 1)) for _ in range(dice.randint(1, 30))
        ]
        chosen = policy.choose(waiting)
        works = [waiting[index].work for index in chosen]
        dues = [waiting[index].due for index in chosen]
        assert len(set(chosen)) == len(chosen) > 0
        assert dues == sorted(dues)
        assert dues[0] == min(piece.due for piece in waiting)
        assert {batch_key(work) for work in works} == {batch_key(works[0])}
        assert len(works) == 1 or sum(map(size_of, works)) <= policy.limits.most(works[0])
        left = [piece for index, piece in enumerate(waiting) if index not in chosen]
        alike = [piece for piece in left if batch_key(piece.work) == batch_key(works[0])]
        assert all(piece.due >= dues[-1] for piece in alike)


def test_units_share_a_batch_by_their_tokens() -> None:
    policy = ByDeadline(Limits(units=4))
    assert len(policy.choose([Waiting(feed(90), 0.0, 0.0)] * 9)) == 4
    assert len(policy.choose([Waiting(feed(150), 0.0, 0.0)] * 9)) == 2
    assert len(policy.choose([Waiting(feed(5 * FEED_TOKENS), 0.0, 0.0)] * 9)) == 1


class Virtual:
    """A track and a clock: a batch takes as long as ``cost`` says, and nothing is computed."""

    def __init__(self, cost: Callable[[Sequence[Work]], float]) -> None:
        self.now, self.cost = 0.0, cost
        self.batch: tuple[float, Sequence[Work], Finished] | None = None
        self.log: list[tuple[float, str, list[Work]]] = []
        """What became ready and what was begun, in order."""

    def start(self, works: Sequence[Work], finished: Finished) -> None:
        assert self.batch is None
        self.log.append((self.now, "begun", list(works)))
        self.batch = self.now + self.cost(works), works, finished

    def stop(self) -> None: ...

    def run(self, scheduler: Scheduler, until: float) -> None:
        """Let time pass."""
        while True:
            while scheduler.turn():
                pass
            if self.batch is None or self.batch[0] > until:
                self.now = max(self.now, until)
                return
            (self.now, works, finished), self.batch = self.batch, None
            finished([None] * len(works))


@pytest.mark.parametrize("seed", range(5))
def test_nothing_starves_and_nothing_waits_for_what_is_due_later(seed: int) -> None:
    """Arrivals at random, more than can be done: what is ready is begun before all that is due later, but for batches
    that have begun already, and in the end everything is done."""
    dice = random.Random(seed)
    virtual = Virtual(lambda works: 0.01 + 0.002 * sum(map(size_of, works)))
    scheduler = Scheduler(dict.fromkeys(ModelPart, virtual), ByDeadline(), clock=lambda: virtual.now)
    due_of: dict[Work, float] = {}
    done: list[int] = []

    def task(works: Sequence[Work]) -> Generator[Any, Any, None]:
        for work in works:
            virtual.log.append((virtual.now, "ready", [work]))
            yield work

    def fixed(due: float, _: float) -> float:
        return due

    def ended(number: int, error: Exception | None) -> None:
        assert error is None
        done.append(number)

    arrivals = sorted(dice.uniform(0, 3) for _ in range(300))
    for number, at in enumerate(arrivals):
        virtual.run(scheduler, at)
        works = [dice.choice(MAKES)() for _ in range(dice.randint(1, 3))]
        due = at + dice.choice([0.0, 0.3, 1.0, 5.0])
        due_of |= dict.fromkeys(works, due)
        job = Job(partial(task, works), print, partial(ended, number), partial(fixed, due))
        scheduler.submit(scheduler.open(), job)
    virtual.run(scheduler, 1e9)

    assert sorted(done) == list(range(300))
    waiting: set[Work] = set()
    longest = 0
    for _, what, works in virtual.log:
        if what == "ready":
            waiting.update(works)
        else:
            assert min(due_of[work] for work in works) == min(due_of[work] for work in waiting)
            waiting.difference_update(works)
            longest = max(longest, len(waiting))
    assert not waiting
    assert longest > 50, "there was never more to do than could be done"


def test_parts_share_no_storage() -> None:
    parts = [make().part.value for make in MAKES]
    assert parts == ["language"] * 4 + ["speech"] * 2 + ["senses", "wave"]


def test_an_answer_is_due_when_its_caller_would_hear_nothing() -> None:
    """At once before its first sound; then a margin before what was taken, one after the other, and what waits to be
    taken have been played."""
    answer = ServedAnswer(1, 1, asked=10.0)
    assert answer.due(10.3) == 10.0
    for second in range(2):
        answer.spoken += 24_000
        answer.untaken.append(24_000)
        assert answer.due(10.5) == pytest.approx(10.5 + 1.0 + second - MARGIN_S)
    answer.take(10.5)
    answer.take(10.6)
    assert answer.due(10.7) == answer.due(11.0) == pytest.approx(12.5 - MARGIN_S)
    assert answer.due(13.0) == pytest.approx(13.0 - MARGIN_S)
    answer.take(14.0)  # the last chunk, which ends the answer
    assert answer.taken == 3


def test_a_chunk_counts_as_waiting_until_it_is_taken() -> None:
    answer = ServedAnswer(1, 1, asked=0.0)
    chunk = answer.chunk(SpeechChunk("hello", torch.zeros(2400)))
    assert isinstance(chunk, Chunk)
    assert len(chunk.pcm) == sum(answer.untaken) == 2400
