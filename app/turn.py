"""Whose turn it is: a pure function ``(state, event, now) → (state, actions)``.

No clock, no I/O, no audio: time comes with the events (samples at 16 kHz), and what is to be done is returned as a
list, to be carried out in order. The name that a user sees is derived from the state, never stored in it.

The rules that hold whatever happens: there is at most one answer; every answer that was started is done exactly once;
what arrives for another epoch is dropped; every epoch is used once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from app.config import CallConfig
from engine.client import INPUT_RATE, Chunk

Phase = Literal["idle", "listening", "hearing", "thinking", "speaking", "interrupted", "paused"]
Status = Literal["completed", "cancelled", "failed"]


# ------------------------------------------------------------------------------------------------------------ state
@dataclass(frozen=True, slots=True)
class Answer:
    """The answer that is being given."""

    turn: int
    epoch: int
    begun: bool = False
    """Its first chunk has come."""
    finished: bool = False
    """Its last chunk has come; it may still be playing."""


@dataclass(frozen=True, slots=True)
class TurnState:
    """Where the conversation stands."""

    turn: int = 0
    """Number of the turn that is open, or of the last one. A turn that is dropped gives its number back."""
    epoch: int = 0
    opened: int | None = None
    """Media time at which the open turn of the person began; None when none is open."""
    answer: Answer | None = None
    stopping: int | None = None
    """Epoch of a cancelled answer that the engine has not left yet."""
    speech: int | None = None
    """Media time since which someone speaks; None in silence."""
    voiced_ms: int = 0
    deaf: bool = False
    """The speech that goes on belongs to a turn that is over: it is ignored until it ends."""
    live: bool = False
    """Microphone audio comes in."""
    lost: bool = False
    """It came in, and stopped."""
    muted: bool = False
    closed: bool = False

    def phase(self, push_to_talk: bool) -> Phase:
        """The state's name for people."""
        if self.closed:
            return "idle"
        if self.answer is not None:
            return "speaking" if self.answer.begun else "thinking"
        if self.opened is not None:
            return "hearing" if self.live else "paused"
        if self.stopping is not None:
            return "interrupted"
        if self.lost or (self.muted and not push_to_talk):
            return "paused"
        return "listening" if self.live and not push_to_talk else "idle"


# ----------------------------------------------------------------------------------------------------------- events
@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The VAD is sure: someone speaks since ``onset``."""

    onset: int


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """The VAD is sure: the speech ended at ``end`` and had ``voiced_ms``."""

    end: int
    voiced_ms: int


@dataclass(frozen=True, slots=True)
class Tick:
    """20 ms of microphone audio went by; the speech that goes on has ``voiced_ms`` so far (0 in silence)."""

    voiced_ms: int


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
    SpeechStarted | SpeechEnded | Tick | MicrophoneLost | Muted | Typed | Commit | Discard | CancelAnswer
    | AnswerChunk | AnswerFailed | AnswerStopped | Drained | Close
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
class Generate:
    """Start the answer of ``epoch``. ``speech_end`` is where the person's speech ended, None for typed text."""

    turn: int
    epoch: int
    reason: str
    speak: bool
    speech_end: int | None


@dataclass(frozen=True, slots=True)
class Play:
    """Hand the chunk to the listener."""

    chunk: Chunk


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


Action = (
    OpenTurn | CloseTurn | DropTurn | PrefillText | Generate | Play | Flush | CancelGeneration | Done | Show
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- machine
def step(state: TurnState, event: Event, now: int, config: CallConfig) -> tuple[TurnState, list[Action]]:
    """What ``event`` at media time ``now`` (samples at 16 kHz) makes of ``state``, and what is to be done, in order."""
    if state.closed:
        return state, []
    machine = _Step(state, now, config)
    machine.take(event)
    before = machine.shown or state.phase(machine.push_to_talk)
    after = machine.state.phase(machine.push_to_talk)
    if after != before:
        machine.actions.append(Show(after, machine.reason))
    return machine.state, machine.actions


class _Step:
    """One step under way: the state so far and the actions so far."""

    def __init__(self, state: TurnState, now: int, config: CallConfig) -> None:
        self.state = state
        self.now = now
        self.config = config
        self.push_to_talk = config.turn.detection == "push_to_talk"
        self.actions: list[Action] = []
        self.reason = ""
        self.shown: Phase | None = None
        """A phase that was shown in the middle of this step."""

    def take(self, event: Event) -> None:
        match event:
            case SpeechStarted(onset):
                self._set(speech=onset, deaf=False)
                if not self.push_to_talk and self._is_free():
                    self._open(onset, "speech")
            case SpeechEnded(end, voiced_ms):
                self._set(speech=None, voiced_ms=0, deaf=False)
                if not self.push_to_talk and self.state.opened is not None:
                    self._close_turn("end_of_speech", end=end, voiced_ms=voiced_ms)
            case Tick(voiced_ms):
                self._tick(voiced_ms)
            case MicrophoneLost():
                self.reason = "microphone_lost"
                self._set(live=False, lost=True)
            case Muted(muted):
                self._mute(muted)
            case Typed(text, speak):
                self._typed(text, speak)
            case Commit():
                if self.state.opened is not None:
                    self._close_turn("commit")
            case Discard():
                if self.state.opened is not None:
                    self._drop_turn("discarded")
            case CancelAnswer(reason):
                if self.state.answer is not None:
                    self._interrupt(reason)
            case AnswerChunk(chunk):
                self._chunk(chunk)
            case AnswerFailed(epoch):
                self._failed(epoch)
            case AnswerStopped(epoch):
                if self.state.stopping == epoch:
                    self.reason = "stopped"
                    self._set(stopping=None)
            case Drained(epoch):
                answer = self.state.answer
                if answer is not None and answer.epoch == epoch and answer.finished:
                    self._finish("completed", "completed")
            case Close(reason):
                self._end_call(reason)

    # ------------------------------------------------------------------------------------------- the person's side
    def _tick(self, voiced_ms: int) -> None:
        state = self.state
        if not state.live:
            self.reason = "microphone"
        self._set(live=True, lost=False, voiced_ms=voiced_ms)
        if state.opened is not None:
            if self.now - state.opened >= self.config.turn.max_turn_s * INPUT_RATE:
                if self.config.turn.on_max_turn == "answer":
                    self._close_turn("max_turn")
                else:
                    self._drop_turn("max_turn")
        elif self._may_barge_in() and voiced_ms >= self.config.turn.barge_in_ms:
            assert state.speech is not None
            self._interrupt("barge_in")
            self._open(state.speech, "speech")

    def _may_barge_in(self) -> bool:
        state = self.state
        heard = state.speech is not None and not state.deaf and not self.push_to_talk
        return heard and state.answer is not None and self.config.barge_in

    def _is_free(self) -> bool:
        """Whether speech begins a turn: nobody else has one."""
        return self.state.answer is None and self.state.opened is None

    def _mute(self, muted: bool) -> None:
        state = self.state
        self.reason = "muted" if muted else "unmuted"
        self._set(muted=muted)
        if self.push_to_talk:
            if not muted and state.opened is None:
                if state.answer is not None:
                    self._interrupt("push_to_talk")
                self._open(self.now, "push_to_talk")
        elif muted and state.opened is not None:
            self._close_turn("muted")

    def _typed(self, text: str, speak: bool) -> None:
        if self.state.answer is not None:
            self._interrupt("typed")
        if self.state.opened is not None:
            self._set(opened=None, deaf=self.state.speech is not None)
            self._do(CloseTurn(None))
        else:
            self._set(turn=self.state.turn + 1, deaf=self.state.speech is not None)
        self._do(PrefillText(text))
        self._generate("typed", None, speak)

    def _open(self, onset: int, reason: str) -> None:
        self._set(turn=self.state.turn + 1, opened=onset)
        self.reason = reason
        self._do(OpenTurn(onset))

    def _close_turn(self, reason: str, *, end: int | None = None, voiced_ms: int | None = None) -> None:
        """End the person's turn and have it answered, unless nearly nothing was said."""
        voiced = self.state.voiced_ms if voiced_ms is None else voiced_ms
        opened = self.state.opened
        assert opened is not None
        length = 1000 * (self.now - opened) // INPUT_RATE if self.push_to_talk else voiced
        if length < self.config.turn.min_speech_ms:
            self._drop_turn("too_short")
            return
        self._set(opened=None, deaf=self.state.speech is not None)
        self._do(CloseTurn(end))
        self._generate(reason, self.now if end is None else end, True)

    def _drop_turn(self, reason: str) -> None:
        self._set(turn=self.state.turn - 1, opened=None, deaf=self.state.speech is not None)
        self.reason = reason
        self._do(DropTurn(reason))

    # ------------------------------------------------------------------------------------------------- the answer
    def _generate(self, reason: str, speech_end: int | None, speak: bool) -> None:
        epoch = self.state.epoch + 1
        self._set(epoch=epoch, answer=Answer(self.state.turn, epoch))
        self.reason = reason
        self._do(Generate(self.state.turn, epoch, reason, speak, speech_end))

    def _chunk(self, chunk: Chunk) -> None:
        answer = self.state.answer
        if answer is None or answer.epoch != chunk.epoch or answer.finished:
            return
        begun = answer.begun or bool(chunk.text) or len(chunk.pcm) > 0
        self._set(answer=replace(answer, begun=begun, finished=chunk.finish is not None))
        self.reason = "answer"
        self._do(Play(chunk))

    def _failed(self, epoch: int) -> None:
        answer = self.state.answer
        if answer is not None and answer.epoch == epoch:
            self._do(Flush())
            self._finish("failed", "engine_error")

    def _interrupt(self, reason: str) -> None:
        """Cut the answer: silence first, then the new epoch, then the engine, then the word to the client."""
        answer = self.state.answer
        assert answer is not None
        self._set(answer=None, epoch=self.state.epoch + 1)
        self._do(Flush())
        if not answer.finished:
            self._set(stopping=answer.epoch)
            self._do(CancelGeneration(answer.epoch))
        self._do(Done(answer.turn, answer.epoch, "cancelled", reason))
        self._do(Show("interrupted", reason))
        self.shown = "interrupted"
        self.reason = reason

    def _finish(self, status: Status, reason: str) -> None:
        """The answer is over by itself. Who was already speaking has the turn now."""
        answer = self.state.answer
        assert answer is not None
        self._set(answer=None)
        self.reason = reason
        self._do(Done(answer.turn, answer.epoch, status, reason))
        state = self.state
        if state.speech is not None and not state.deaf and not self.push_to_talk:
            # Without barge-in what was said during the answer does not count: it may be the answer's own echo.
            self._open(state.speech if self.config.barge_in else self.now, "speech")

    def _end_call(self, reason: str) -> None:
        if self.state.answer is not None:
            self._interrupt(reason)
        if self.state.opened is not None:
            self._drop_turn(reason)
        self.reason = reason
        self._set(closed=True)

    # ------------------------------------------------------------------------------------------------------ helpers
    def _set(self, **changes: object) -> None:
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]

    def _do(self, action: Action) -> None:
        self.actions.append(action)
