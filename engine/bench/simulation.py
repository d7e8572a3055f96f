"""Many calls on one card, simulated: ``python -m engine.bench --simulate``.

The scheduler and the policy are those that serve calls, driven turn by turn with a clock of their own
(:mod:`engine.bench.machine`); batches take the time that :mod:`engine.bench.costs` says and compute nothing. What calls
do is in :mod:`engine.bench.callers`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from engine.bench.callers import SAMPLES_PER_CODE, WARM_UP_S, Caller, CallOutcomes, SimulatedSession
from engine.bench.costs import CARDS, COUNTED, FUSED, Card, Costs
from engine.bench.machine import Machine
from engine.client import OUTPUT_RATE
from engine.conversation.work import Decode, ModelPart, Speak, Work, batch_key
from engine.serving.admission import CallCosts
from engine.serving.policy import ByDeadline
from engine.serving.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Way:
    """A way to share a card."""

    name: str
    captured: bool
    """Blocks of steps are captured graphs."""
    deadlines: bool
    """By deadlines, with parts of the model side by side, and blocks of different length in one batch; else by four
    kinds of urgency, one batch after the other, as it was before."""
    admits: bool = False
    """By measured cost: calls for which there is no time are refused. As calls are served."""


WAYS = (
    Way("before", False, False),
    Way("graphs", True, False),
    Way("deadlines", True, True),
    Way("admission", True, True, admits=True),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result."""

    card: str
    calls: int
    policy: str
    p50_ms: float
    """From the request for an answer to its first sound."""
    p95_ms: float
    underruns_per_answer: float
    turn_p50_ms: float
    """From a turn's last unit, which comes with the request."""
    turn_p95_ms: float
    backlog_p95: int
    """Units of all calls that wait."""
    answers: int
    refused: int
    """Calls that were not let in."""


def by_steps(work: Work) -> object:
    """Shares a batch only with as many steps, as it was before."""
    return batch_key(work), work.steps if isinstance(work, (Decode, Speak)) else 0


def simulate(card: Card, calls: int, way: Way, *, seconds: float, aligned: bool = False, seed: int = 0) -> Row:
    """So many calls on a card for a while. ``aligned``: every call's second begins at the same moment."""
    machine = Machine(Costs(card, FUSED if way.captured else COUNTED, captured=way.captured))
    tracks = (
        {part: machine.track() for part in ModelPart} if way.deadlines else dict.fromkeys(ModelPart, machine.track())
    )
    policy = ByDeadline() if way.deadlines else ByDeadline(key=by_steps)
    costs = CallCosts(tracks, OUTPUT_RATE / SAMPLES_PER_CODE, lambda: machine.now)
    scheduler = Scheduler(tracks, policy, clock=lambda: machine.now, measure=costs)
    outcome = CallOutcomes(WARM_UP_S)
    begun = 0

    def admit() -> bool:
        nonlocal begun
        if way.admits and not costs.admits(begun):
            return False
        begun += 1
        return True

    for number in range(calls):
        session, ranked = SimulatedSession(machine, number), not way.deadlines
        Caller(machine, scheduler, session, outcome, seed + number, aligned=aligned, ranked=ranked, admit=admit)
    machine.run(scheduler, WARM_UP_S + seconds)
    asked, turns = outcome.first_sounds, outcome.turn_sounds
    underruns = round(outcome.underruns / max(1, outcome.answers), 3)
    backlog = int(percentile(outcome.backlog, 95))
    sounds = (_ms(asked, 50), _ms(asked, 95), underruns, _ms(turns, 50), _ms(turns, 95))
    return Row(card.name, calls, way.name, *sounds, backlog, outcome.answers, outcome.refused)


def percentile(values: Sequence[float], percent: int) -> float:
    """0 without any."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _ms(seconds: Sequence[float], percent: int) -> float:
    return round(1e3 * percentile(seconds, percent), 1)


def line(row: Row) -> str:
    """A row of the table under :data:`HEADER`."""
    return (
        f"{row.card:<5} {row.calls:>5}  {row.policy:<10} {row.p50_ms:>8.1f} {row.p95_ms:>8.1f} {row.turn_p50_ms:>9.1f}"
        f" {row.turn_p95_ms:>9.1f} {row.underruns_per_answer:>10.3f} {row.backlog_p95:>8} {row.answers:>8}"
        f" {row.refused:>8}"
    )


HEADER = (
    "             request to first sound   with a last unit   underruns    units              calls\n"
    "card  calls  policy       p50 ms   p95 ms    p50 ms    p95 ms  an answer  waiting  answers  refused"
)


def main(options: argparse.Namespace) -> int:
    """``--calls``, ``--cards``, ``--seconds``, ``--aligned``, and ``--json`` for one object a line."""
    if not options.json:
        print(HEADER)
    for card in (card for card in CARDS if card.name in options.cards):
        for way in WAYS:
            for calls in options.calls:
                # Few calls are watched for longer, so that there are answers to count.
                seconds = options.seconds * max(1.0, 16 / calls)
                row = simulate(card, calls, way, seconds=seconds, aligned=options.aligned)
                print(json.dumps(asdict(row)) if options.json else line(row), flush=True)
    return 0
