"""Whose turn it is: a pure function ``(state, event, now) → (state, actions)``.

No clock, no I/O, no audio: time comes with the events, and what is to be done is returned as a list, to be carried out
in order.

The rules that hold whatever happens: there is at most one answer; every answer that was started is done exactly once;
what arrives for another epoch is dropped; every epoch is used once.
"""

from __future__ import annotations

from dataclasses import replace

from app.call.config import CallConfig
from app.call.turn import (
    Action,
    AnswerChunk,
    AnswerFailed,
    AnswerStopped,
    CancelAnswer,
    CancelGeneration,
    Close,
    CloseTurn,
    Commit,
    Discard,
    Done,
    Drained,
    DropTurn,
    Event,
    Flush,
    Generate,
    MicrophoneLost,
    Muted,
    OpenTurn,
    Phase,
    Play,
    PrefillText,
    Show,
    SpeechEnded,
    SpeechStarted,
    Status,
    Tick,
    TurnAnswer,
    TurnState,
    Typed,
)
from engine.client import INPUT_RATE, Chunk


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
        self._set(epoch=epoch, answer=TurnAnswer(self.state.turn, epoch))
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
