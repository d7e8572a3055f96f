"""What the calls of a simulation or a measurement do, told by chance, the same whatever shares the card.

A person shows and says something for 6 to 14 seconds, a unit a second, and is answered with 10 to 30 tokens of text,
spoken at 11.7 codes a token: about 30 % of the time is the model's. Every other answer is asked for together with the
turn's last, shorter unit, the others half a second after it. It is played as soon as there is sound, and the playout
takes chunks while it has less than two seconds.

The pieces that a simulation carries out are those of :class:`engine.conversation.streaming.LiveAnswer`: a test compares
them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from engine.client import OUTPUT_RATE
from engine.conversation.sampling import Noise, SpeechSampling, TextSampling
from engine.conversation.session import SessionState
from engine.conversation.speech import OVERLAP, SpeechChunk
from engine.conversation.work import Decode, Feed, Hear, LookBack, Read, Render, See, Speak, Voice
from engine.processing.image import ImageSlices
from engine.serving.admission import CODES_PER_TOKEN
from engine.serving.live_answer import ServedAnswer
from engine.serving.live_session import PACE
from engine.serving.policy import UNIT_DUE_S
from engine.serving.scheduler import Cancelled, Job, Scheduler

WARM_UP_S = 15.0
UNIT_TOKENS, PROMPT_TOKENS = 95, 14
TEXT_TOKENS = (10, 30)
TURN_S = (6, 14)
CONTEXT = (4_000, 8_000)
BUFFERED_S = 2.0
"""Sound that a playout takes ahead."""

PREPARE_S = 0.006
"""A picture and a second of sound are decoded, resized and turned into a spectrum, on another thread."""

SAMPLES_PER_CODE, WAVE_CONTEXT = 512, 52
PATIENCE_S = 1.0
NOTHING = torch.empty(0)
PICTURE = ImageSlices((NOTHING,), ((32, 32),), None)
TEXT, SPEECH = TextSampling(), SpeechSampling()


@dataclass(slots=True)
class CallOutcomes:
    """What became of the calls. Times in seconds."""

    warm_up_s: float
    """What happens before is not counted."""
    first_sounds: list[float] = field(default_factory=list)
    """From the request for an answer, all before it fed, to its first sound."""
    turn_sounds: list[float] = field(default_factory=list)
    """The same where the turn's last unit comes with the request."""
    underruns: int = 0
    refused: int = 0
    """Calls for which there was no time."""
    waiting: int = 0
    """Units of all calls that wait now."""
    backlog: list[int] = field(default_factory=list)
    """As many waited whenever one came."""

    @property
    def answers(self) -> int:
        return len(self.first_sounds) + len(self.turn_sounds)


class Timeline(Protocol):
    """A clock, and what will happen when."""

    @property
    def now(self) -> float:
        """Seconds since it began."""
        ...

    def at(self, time: float, event: Callable[[], Any]) -> None:
        """Let something happen."""
        ...


class Session(Protocol):
    """What a call's requests are made of."""

    def fed(self) -> Generator[Any, Any, None]:
        """The task of a unit with a picture and a second of sound."""
        ...

    def said(self, tokens: int) -> Generator[Any, Any, None]:
        """The task of an answer with so many tokens of text."""
        ...


class Caller:
    """One call."""

    def __init__(
        self,
        machine: Timeline,
        scheduler: Scheduler,
        session: Session,
        outcome: CallOutcomes,
        seed: int,
        *,
        aligned: bool = False,
        ranked: bool = False,
        turn_s: tuple[int, int] = TURN_S,
        admit: Callable[[], bool] = lambda: True,
    ) -> None:
        """It begins within the first turn's length, and a turn has ``turn_s`` whole seconds. ``aligned``: its seconds
        begin when everybody's do. ``ranked``: its pieces are due by kinds of urgency.
        ``admit`` is asked whether the call may begin."""
        self._machine, self._scheduler, self._session, self._outcome = machine, scheduler, session, outcome
        self._aligned, self._ranked, self._turn_s = aligned, ranked, turn_s
        self._dice = random.Random(seed)
        self._lane = scheduler.open()
        self._answer: ServedAnswer | None = None
        self._sounds = False  # some of the answer was played
        self._admit = admit
        machine.at(self._dice.uniform(0, turn_s[1]), self._begin)

    @property
    def _counts(self) -> bool:
        return self._machine.now > self._outcome.warm_up_s

    # ------------------------------------------------------------------------------------------ what a person does
    def _begin(self) -> None:
        """The call begins, if it may."""
        if self._admit():
            self._listen()
        else:
            self._outcome.refused += 1

    def _listen(self) -> None:
        """A turn begins."""
        begin = float(-(-self._machine.now // 1)) if self._aligned else self._machine.now
        seconds = self._dice.randint(*self._turn_s)
        for second in range(seconds):
            self._machine.at(begin + second + 1, self._unit)
        end = begin + seconds + self._dice.uniform(0.1, 1.0)
        with_unit = self._dice.random() < 0.5
        self._machine.at(end, self._unit)
        self._machine.at(end if with_unit else end + 0.5, lambda: self._ask(with_unit))

    def _unit(self) -> None:
        """A second of a turn is complete."""
        came = self._machine.now
        self._outcome.waiting += 1
        if self._counts:
            self._outcome.backlog.append(self._outcome.waiting)

        def due(since: float) -> float:
            if self._ranked:
                return self._rank(3 if self._answer is None else 0, since)
            return min(came + UNIT_DUE_S, came + UNIT_DUE_S if self._answer is None else self._answer.asked)

        self._scheduler.submit(self._lane, Job(self._session.fed, lambda _: None, self._unit_done, due))

    def hang_up(self) -> None:
        """Cancel what is asked; :attr:`is_over` once that has ended."""
        self._scheduler.cancel(*self._lane.jobs)

    @property
    def is_over(self) -> bool:
        return not self._lane.jobs

    def _unit_done(self, error: Exception | None) -> None:
        self._check(error)
        self._outcome.waiting -= 1

    def _ask(self, with_unit: bool) -> None:
        """The turn is over."""
        answer = self._answer = ServedAnswer(1, 1, self._machine.now)
        self._sounds = False

        def due(since: float) -> float:
            if self._ranked:
                urgency = 0 if not answer.spoken else 2 if answer.pushed > answer.taken else 1
                return self._rank(urgency, since)
            return answer.due(self._machine.now)

        def output(piece: SpeechChunk) -> None:
            first = not answer.spoken and len(piece.wave) > 0
            if first and self._counts:
                sounds = self._outcome.turn_sounds if with_unit else self._outcome.first_sounds
                sounds.append(self._machine.now - answer.asked)
            answer.chunk(piece)
            self._take(answer)

        tokens = self._dice.randint(*TEXT_TOKENS)
        job = Job(lambda: self._session.said(tokens), output, self._answered, due, paused=lambda: answer.is_ahead)
        self._scheduler.submit(self._lane, job)

    def _take(self, answer: ServedAnswer) -> None:
        """The playout takes chunks while it has room, and looks again when it has."""
        now = self._machine.now
        while answer.untaken and answer.dry - now < BUFFERED_S:
            if answer.untaken[0]:
                self._outcome.underruns += self._sounds and answer.dry < now and self._counts
                self._sounds = True
            answer.take(now)
            self._scheduler.wake()
        if answer.untaken:
            self._machine.at(answer.dry - BUFFERED_S + 1e-6, lambda: self._take(answer))

    def _check(self, error: Exception | None) -> None:
        """What fails here is a fault of the program."""
        if error is not None and not isinstance(error, Cancelled):
            raise error

    def _answered(self, error: Exception | None) -> None:
        self._check(error)
        assert self._answer is not None
        left = sum(self._answer.untaken) / OUTPUT_RATE
        self._machine.at(max(self._answer.dry, self._machine.now) + left + self._dice.uniform(0.3, 1.5), self._listen)
        self._answer = None

    def _rank(self, urgency: int, since: float) -> float:
        """As pieces were ordered before: by kinds of urgency, one that waits too long with the second, then by age."""
        late = self._machine.now - since > PATIENCE_S
        return 1e6 * (min(urgency, 1) if late else urgency) + since


class SimulatedSession:
    """Pieces of work without numbers."""

    def __init__(self, machine: Timeline, seed: int) -> None:
        self._machine = machine
        self._state = SessionState(seed, seed, Noise(seed), length=random.Random(seed).randint(*CONTEXT))

    def fed(self) -> Generator[Any, Any, None]:
        prepared: Future[None] = Future()
        self._machine.at(self._machine.now + PREPARE_S, lambda: prepared.set_result(None))
        yield prepared
        yield See(PICTURE)
        yield Hear(self._state, NOTHING)
        yield Feed(self._state, torch.empty(UNIT_TOKENS, 0))
        self._state.length += UNIT_TOKENS
        if self._state.length > CONTEXT[1]:
            self._state.length = CONTEXT[1] * 3 // 4

    def said(self, tokens: int) -> Generator[Any, Any, None]:
        return answer_pieces(self._state, tokens)


def answer_pieces(state: SessionState, tokens: int, context: int = WAVE_CONTEXT) -> Generator[Any, Any, None]:
    """The pieces of an answer of ``tokens``, and its chunks. The last word written may go on, and waits. A wave is made
    of ``context`` codes more."""
    written = read = sent = 0
    codes, last = 0, round(tokens * CODES_PER_TOKEN)
    voice = Voice(state.slot, NOTHING, NOTHING)

    def pull(most: int = tokens) -> Generator[Any, Any, None]:
        nonlocal written
        steps = min(PACE.text if written else PACE.first_text, tokens - written, most)
        ids = (0,) if written else (0,) * PROMPT_TOKENS
        yield Decode(state, ids, steps, TEXT, NOTHING, Noise(0))
        state.length += len(ids) + steps - 1
        written += steps
        yield SpeechChunk("words", NOTHING)

    yield from pull()
    while codes < last:
        steps = min(PACE.codes, PACE.first_codes + int(PACE.growth * codes))
        window = 10 * -(-(codes + steps + 1) // 50)
        while written < tokens and written - 1 < window:
            yield from pull(window - written + 1)
        known = written if written == tokens else written - 1
        if known > read:
            yield Read(voice, read, (0,) * (known - read))
            read = known
        steps = min(steps, last - codes) or 1
        yield Speak(voice, steps, read, 0, SPEECH, Noise(0))
        codes += steps
        yield LookBack(voice, steps, read)
        start = max(0, sent // SAMPLES_PER_CODE - context)
        yield Render(torch.empty(codes - start, 0))
        overlap = 0 if codes >= last else OVERLAP if sent else PACE.first_overlap
        ready = codes * SAMPLES_PER_CODE - overlap
        yield SpeechChunk("", torch.zeros(ready - sent))
        sent = ready
        if written < tokens:
            yield from pull()
