"""One step of the turn machine under way, and what can become of an answer in it: begun, paused, cut, finished.

What is decided on the person's side stands in :mod:`app.call.turn_machine`.
"""

from __future__ import annotations

from dataclasses import replace

from app.call.config import CallConfig
from app.call.turn import (
    Action,
    CancelGeneration,
    Done,
    Flush,
    Generate,
    OpenTurn,
    Pause,
    Phase,
    Play,
    Resume,
    Retract,
    Show,
    Status,
)
from app.call.turn_state import Ignored, TurnAnswer, TurnState
from engine.client import Chunk


class AnswerStep:
    """The state so far and the actions so far."""

    def __init__(self, state: TurnState, now: int, config: CallConfig) -> None:
        self.state = state
        self.now = now
        self.config = config
        self.push_to_talk = config.turn.detection == "push_to_talk"
        self.actions: list[Action] = []
        self.reason = ""
        self.shown: Phase | None = None
        """A phase that was shown in the middle of this step."""

    def _open(self, onset: int, reason: str) -> None:
        self._set(turn=self.state.turn + 1, opened=onset, said_ms=0, lull=None, judged=())
        self.reason = reason
        self._do(OpenTurn(onset))

    def _retract(self) -> None:
        if (draft := self.state.draft) is not None:
            self._set(draft=None)
            self._do(Retract(draft.epoch, draft.finished))

    def _generate(self, reason: str, speech_end: int | None, speak: bool) -> None:
        draft = self.state.draft
        epoch = self._next_epoch() if draft is None else draft.epoch
        self._set(epoch=epoch, answer=TurnAnswer(self.state.turn, epoch), draft=None, ignored=Ignored())
        self.reason = reason
        self._do(Generate(self.state.turn, epoch, reason, speak, speech_end, draft is not None))
        if draft is not None and draft.chunks:
            self._do(Show("thinking", reason))  # phases come in their order, however short one is
            self.shown = "thinking"
            for chunk in draft.chunks:
                self._chunk(chunk)

    def _next_epoch(self) -> int:
        self._set(used=self.state.used + 1)
        return self.state.used

    def _chunk(self, chunk: Chunk) -> None:
        draft = self.state.draft
        if draft is not None and draft.epoch == chunk.epoch:
            self._set(draft=replace(draft, chunks=(*draft.chunks, chunk)))
            return
        answer = self.state.answer
        if answer is None or answer.epoch != chunk.epoch or answer.finished:
            return
        begun = answer.begun or bool(chunk.text) or len(chunk.pcm) > 0
        self._set(answer=replace(answer, begun=begun, finished=chunk.finish is not None))
        self.reason = "answer"
        self._do(Play(chunk))

    def _failed(self, epoch: int) -> None:
        if self.state.draft is not None and self.state.draft.epoch == epoch:
            self._retract()  # asked again in earnest, it may go well, or fail where the person can be told
            return
        answer = self.state.answer
        if answer is not None and answer.epoch == epoch:
            self._do(Flush())
            self._finish("failed", "engine_error")

    def _interrupt(self, reason: str) -> None:
        """Cut the answer: silence first, then the new epoch, then the engine, then the word to the client."""
        answer = self.state.answer
        assert answer is not None
        self._set(answer=None, epoch=self._next_epoch())
        self._do(Flush())
        if not answer.finished:
            self._set(stopping=answer.epoch)
            self._do(CancelGeneration(answer.epoch))
        self._do(Done(answer.turn, answer.epoch, "cancelled", reason))
        self._do(Show("interrupted", reason))
        self.shown = "interrupted"
        self.reason = reason

    def _pause(self) -> None:
        answer = self.state.answer
        if answer is not None and answer.begun and not answer.paused:
            self._set(answer=replace(answer, paused=True))
            self._do(Pause())

    def _resume(self) -> None:
        answer = self.state.answer
        if answer is not None and answer.paused:
            self._set(answer=replace(answer, paused=False))
            self._do(Resume())

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

    # ------------------------------------------------------------------------------------------------------ helpers
    def _set(self, **changes: object) -> None:
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]

    def _do(self, action: Action) -> None:
        self.actions.append(action)
