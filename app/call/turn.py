"""The words in which turns are spoken of: what may happen, and what is to be done.

Times are samples at 16 kHz. Where the conversation stands is said in :mod:`app.call.turn_state`, and what follows from
what is decided in :mod:`app.call.turn_machine`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.call.config import Judging
from engine.client import Chunk

Phase = Literal["idle", "listening", "hearing", "thinking", "speaking", "interrupted", "paused", "away"]
Status = Literal["completed", "cancelled", "failed"]


# ----------------------------------------------------------------------------------------------------------- events
@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The VAD is sure: someone speaks since ``onset``. ``ending``: all of the answer but its last words was said."""

    onset: int
    ending: bool = False


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """The VAD is sure: the speech ended at ``end``, and ``spoken_ms`` of it were surely said."""

    end: int
    spoken_ms: int


@dataclass(frozen=True, slots=True)
class Lull:
    """Nothing has been voiced since ``end``, for long enough to ask whether the person is done, too briefly to know.
    ``spoken_ms`` were surely said since the speech began. ``ready``: the engine has nothing left to do, and could
    begin."""

    end: int
    spoken_ms: int
    ready: bool = True


@dataclass(frozen=True, slots=True)
class LullOver:
    """The speech goes on: it had not ended."""


@dataclass(frozen=True, slots=True)
class Judged:
    """``by`` somebody who listens: how probable it is that the person was done at ``end``; None: who is asked cannot
    tell."""

    end: int
    by: Judging
    probability: float | None


@dataclass(frozen=True, slots=True)
class Meant:
    """What somebody said during an answer, until ``end``, is understood: it means ``stop``, or anything else."""

    end: int
    stop: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """20 ms of microphone audio went by; of the speech that goes on ``voiced_ms`` were voiced so far, and ``spoken_ms``
    surely said (0 in silence). ``stirring``: there is none yet, but what was heard last may become it."""

    voiced_ms: int
    spoken_ms: int
    stirring: bool = False


@dataclass(frozen=True, slots=True)
class MicrophoneLost:
    """No audio comes in any more. The next Tick ends that."""


@dataclass(frozen=True, slots=True)
class Muted:
    muted: bool


@dataclass(frozen=True, slots=True)
class Typed:
    text: str
    speak: bool = True


@dataclass(frozen=True, slots=True)
class Commit:
    """The person says that the turn is over."""


@dataclass(frozen=True, slots=True)
class Discard:
    """The person does not want the turn to be answered."""


@dataclass(frozen=True, slots=True)
class Present:
    """The person says nothing but is there."""


@dataclass(frozen=True, slots=True)
class CancelAnswer:
    """The stop button."""

    reason: str = "stopped"


@dataclass(frozen=True, slots=True)
class AnswerChunk:
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class AnswerFailed:
    epoch: int


@dataclass(frozen=True, slots=True)
class AnswerStopped:
    """The engine has left the answer that was cancelled."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Drained:
    """All that the finished answer of ``epoch`` said was played."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Close:
    reason: str = "closed"


Event = (
    SpeechStarted | SpeechEnded | Lull | LullOver | Judged | Meant | Tick | MicrophoneLost | Muted | Typed | Commit
    | Discard | Present | CancelAnswer | AnswerChunk | AnswerFailed | AnswerStopped | Drained | Close
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- actions
@dataclass(frozen=True, slots=True)
class OpenTurn:
    """Collect units from ``onset`` (and its pre-roll) on."""

    onset: int


@dataclass(frozen=True, slots=True)
class CloseTurn:
    """Flush the turn's last, partial unit. ``end`` is where speech ended, None where the turn was ended otherwise."""

    end: int | None


@dataclass(frozen=True, slots=True)
class DropTurn:
    """Forget what was collected and not yet prefilled."""

    reason: str


@dataclass(frozen=True, slots=True)
class PrefillText:
    text: str


@dataclass(frozen=True, slots=True)
class Judge:
    """Ask ``by`` whether the person was done at ``end``."""

    end: int
    by: Judging


@dataclass(frozen=True, slots=True)
class Understand:
    """Ask whether what was said from ``onset`` to ``end`` means that the answer is to stop."""

    onset: int
    end: int


@dataclass(frozen=True, slots=True)
class Prepare:
    """Prefill the tail of the turn up to ``end`` and start the answer of ``epoch``, both on trial."""

    epoch: int
    end: int


@dataclass(frozen=True, slots=True)
class PrepareWord:
    """Ask the model for a word of its own, the answer of ``epoch``, on trial."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Retract:
    """The person goes on: what was fed and the answer of ``epoch``, both on trial, were never fed or asked for.
    ``finished``: the engine has come to its end."""

    epoch: int
    finished: bool


@dataclass(frozen=True, slots=True)
class EndSpeech:
    """The detector's speech is over, too: what is voiced from now on is new."""


@dataclass(frozen=True, slots=True)
class Generate:
    """Start the answer of ``epoch``, or, ``prepared``, let the one on trial be it. ``speech_end`` is where the person's
    speech ended, None where they did not speak."""

    turn: int
    epoch: int
    reason: str
    speak: bool
    speech_end: int | None
    prepared: bool = False


@dataclass(frozen=True, slots=True)
class Play:
    """Hand the chunk to the listener."""

    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Pause:
    """Hold the speech back, without losing any of it."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on with the speech that was held back."""


@dataclass(frozen=True, slots=True)
class Flush:
    """Drop the speech that waits to be played."""


@dataclass(frozen=True, slots=True)
class CancelGeneration:
    """Have the engine stop the answer of ``epoch`` at its next chunk boundary."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Done:
    """The answer of ``epoch`` is over."""

    turn: int
    epoch: int
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class Show:
    """Tell the person the new phase."""

    phase: Phase
    reason: str


@dataclass(frozen=True, slots=True)
class AnnounceEnd:
    """Tell the person that the call ends in ``in_s`` seconds unless they give a sign of life."""

    in_s: float


@dataclass(frozen=True, slots=True)
class WithdrawEnd:
    """They have: it does not."""


@dataclass(frozen=True, slots=True)
class EndCall:
    """Nobody has been there for long enough."""


Action = (
    OpenTurn | CloseTurn | DropTurn | PrefillText | Judge | Understand | Prepare | PrepareWord | Retract | EndSpeech
    | Generate | Play | Pause | Resume | Flush | CancelGeneration | Done | Show | AnnounceEnd | WithdrawEnd | EndCall
)  # fmt: skip
