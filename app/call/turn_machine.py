"""Whose turn it is: a pure function ``(state, event, now) → (state, actions)``.

No clock, no I/O, no audio: time comes with the events, and what is to be done is returned as a list, to be carried out
in order.

The rules that hold whatever happens: there is at most one answer; every answer that was started is done exactly once;
what arrives for another epoch is dropped; every epoch is used once; nothing of a draft leaves before its turn is over.

When a turn ends. Silence alone ends it where nothing else is asked, or nobody has answered yet. Otherwise the silence
that it takes follows from how probable it is that the person is done (:mod:`app.call.end_of_turn.patience`). An answer
is prepared as soon as there is a lull, and is there when the turn ends, or was never asked for.

What interrupts. The first voice during an answer pauses it. If enough is surely said, in one go or by who insists, it
was an interruption; of less the model is asked what it means, and "stop" is one, too. If not, it was a cough or an
"mhm", and the answer goes on where it was. Only who begins to speak when the answer is all but over waits for its last
words, and has the turn then.

Silence. It is counted while nobody has the turn, and any sign of life begins it anew (:mod:`app.call.silence`). A word
of the model's own is on trial like an answer in a pause: who speaks before it is there has never been spoken to.
"""

from __future__ import annotations

from app.call.config import CallConfig
from app.call.end_of_turn.patience import done_probability, patience_ms
from app.call.ending import notices_s
from app.call.silence import Silence
from app.call.turn import (
    Action,
    AnnounceEnd,
    AnswerChunk,
    AnswerFailed,
    AnswerStopped,
    CancelAnswer,
    Close,
    CloseTurn,
    Commit,
    Discard,
    Drained,
    DropTurn,
    EndCall,
    EndSpeech,
    Event,
    Judge,
    Judged,
    Lull,
    LullOver,
    Meant,
    MicrophoneLost,
    Muted,
    PrefillText,
    Prepare,
    PrepareWord,
    Present,
    Show,
    SpeechEnded,
    SpeechStarted,
    Tick,
    Typed,
    Understand,
    WithdrawEnd,
)
from app.call.turn_answer import AnswerStep
from app.call.turn_state import Draft, Ignored, TurnState
from engine.client import INPUT_RATE

SIGNS_OF_LIFE = (SpeechStarted, SpeechEnded, Typed, Commit, Discard, CancelAnswer, Present)
"""What shows that the person is there, beside a change of the microphone's switch."""


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


class _Step(AnswerStep):
    """One step under way: what follows from what the person does."""

    def take(self, event: Event) -> None:
        if isinstance(event, SIGNS_OF_LIFE) or (isinstance(event, Muted) and event.muted != self.state.muted):
            self._break_silence()
        match event:
            case SpeechStarted(onset, ending):
                self._set(speech=onset, passed_ms=0, deaf=False, polite=ending)
                if self._is_listening():
                    self._go_on()
                elif not self.push_to_talk and self._is_free():
                    self._open(onset, "speech")
            case SpeechEnded(end, spoken_ms):
                self._speech_ended(end, spoken_ms)
            case Lull(end, spoken_ms, ready):
                self._lull(end, spoken_ms, ready)
            case LullOver():
                if self._is_listening():
                    self._go_on()
                else:
                    self._set(lull=None)
            case Judged():
                if self._is_listening() and self.state.lull == event.end:
                    self._judged(event)
            case Meant(end, stop):
                if stop:
                    self._obey(end)
            case Tick(voiced_ms, spoken_ms, stirring):
                self._tick(voiced_ms, spoken_ms)
                self._count_silence(stirring)
            case MicrophoneLost():
                self.reason = "microphone_lost"
                self._set(live=False, lost=True)
                self._resume()
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
    def _tick(self, voiced_ms: int, spoken_ms: int) -> None:
        state = self.state
        if not state.live:
            self.reason = "microphone"
        self._set(live=True, lost=False, voiced_ms=voiced_ms, spoken_ms=spoken_ms)
        if state.opened is not None:
            if self.now - state.opened < self.config.turn.max_turn_s * INPUT_RATE:
                self._end_if_done()
            elif self.config.turn.on_max_turn == "answer":
                self._close_turn("max_turn")
            else:
                self._drop_turn("max_turn")
        elif self._may_barge_in():
            self._barge_in()

    # ----------------------------------------------------------------------------------------------------- silence
    def _break_silence(self) -> None:
        self.reason = "back"
        if self.state.silence.announced:
            self._do(WithdrawEnd())
        self._set(silence=Silence())
        if self.state.draft is not None and self.state.draft.own_word:
            self._retract()

    def _count_silence(self, stirring: bool) -> None:
        state = self.state
        if state.answer is not None or state.opened is not None or state.speech is not None:
            return
        before, limits = state.silence, self.config.silence
        silence = before.longer(limits, stirring=stirring)
        self._set(silence=silence)
        if silence.away and not before.away:
            self.reason = "silence"
        if silence.announced > before.announced:
            self._do(AnnounceEnd(notices_s(limits.idle_end_s)[silence.announced - 1]))
        if silence.over:
            self._end_idle_call()
        elif silence.word_due and not before.word_due and (self.push_to_talk or not state.muted):
            epoch = self._next_epoch()
            self._set(draft=Draft(epoch, own_word=True))
            self._do(PrepareWord(epoch))
        elif state.draft is not None and not stirring:
            self._say_word(state.draft)

    def _say_word(self, draft: Draft) -> None:
        """Let the model's own word be heard, if there is something of it."""
        if any(chunk.text or len(chunk.pcm) for chunk in draft.chunks):
            self._set(turn=self.state.turn + 1)
            self._generate("silence", None, True)
        elif draft.finished:
            self._retract()

    # ------------------------------------------------------------------------------------------- the end of a turn
    def _is_listening(self) -> bool:
        """Whether the open turn is one that the detector ends."""
        return self.state.opened is not None and not self.push_to_talk

    def _speech_ended(self, end: int, spoken_ms: int) -> None:
        onset = end if self.state.speech is None else self.state.speech
        self._set(speech=None, voiced_ms=0, spoken_ms=0, deaf=False)
        if not self._is_listening():
            self._set(lull=None, ignored=Ignored(onset, end, spoken_ms))
            self._resume()
        elif self._done() is None and not self._awaits_word():
            self._close_turn("end_of_speech", end=end, spoken_ms=self.state.said_ms + spoken_ms)
        else:  # the silence goes on, and how long it may is known, or will be
            self._set(said_ms=self.state.said_ms + spoken_ms)

    def _lull(self, end: int, spoken_ms: int, ready: bool) -> None:
        self._set(lull=end, judged=())
        if not self._is_listening() or self.state.said_ms + spoken_ms < self.config.turn.min_speech_ms:
            return
        if self.config.turn.prepare and ready and self.state.draft is None:
            epoch = self._next_epoch()
            self._set(draft=Draft(epoch))
            self._do(Prepare(epoch, end))
        if judges := self.config.turn.judges:
            self._do(Judge(end, "model" if "model" in judges else "smart_turn"))

    def _judged(self, event: Judged) -> None:
        """Somebody has said whether the person is done. The melody is asked for where the model is not sure."""
        self._set(judged=(*self.state.judged, event))
        word, turn = event.probability, self.config.turn
        unsure = event.by == "model" and word is not None and word < turn.end_of_turn_likely
        if unsure and "smart_turn" in turn.judges and len(self.state.judged) == 1:
            self._do(Judge(event.end, "smart_turn"))
        self._end_if_done()

    def _go_on(self) -> None:
        """The person was not done: whatever was prepared for that case was never asked for."""
        self._retract()
        self._set(lull=None, judged=())

    def _done(self) -> float | None:
        """How probable it is that the person is done; None as long as who was asked first has not said, and where
        nobody can tell."""
        judges = self.config.turn.judges
        said = {judged.by: judged.probability for judged in self.state.judged if judged.by in judges}
        return done_probability(said) if said.get("model") is not None or judges <= said.keys() else None

    def _awaits_word(self) -> bool:
        """Whether the model was asked and has not said. It says so when it holds all of the turn, without which it
        could not answer either, so that nothing is lost by waiting for it."""
        asked = "model" in self.config.turn.judges and self.state.draft is not None
        return asked and all(judged.by != "model" for judged in self.state.judged)

    def _end_if_done(self) -> None:
        state, done = self.state, self._done()
        if state.lull is None:
            return
        silence_ms, spoken_ms = 1000 * (self.now - state.lull) / INPUT_RATE, state.said_ms + state.spoken_ms
        if done is not None:
            if silence_ms >= patience_ms(done, self.config.turn):
                self._close_turn("end_of_turn", end=state.lull, spoken_ms=spoken_ms)
            return
        longest = silence_ms >= 1000 * self.config.turn.end_of_turn_max_s
        if state.speech is None and (longest or not self._awaits_word()):  # its end came while the word was awaited
            self._close_turn("end_of_speech", end=state.lull, spoken_ms=spoken_ms)

    # --------------------------------------------------------------------------------------------- what interrupts
    def _may_barge_in(self) -> bool:
        state = self.state
        heard = state.speech is not None and not state.deaf and not state.polite and not self.push_to_talk
        return heard and state.answer is not None and self.config.barge_in

    def _barge_in(self) -> None:
        """Somebody makes a sound during the answer: pause it, stop it, or let it go on."""
        state, config = self.state, self.config.turn
        assert state.speech is not None
        before = state.ignored
        again = before.spoken_ms > 0 and 1000 * (state.speech - before.end) <= config.barge_in_insist_ms * INPUT_RATE
        insists = again and before.spoken_ms + state.spoken_ms >= config.barge_in_insisting_ms
        if state.spoken_ms >= config.barge_in_ms or (insists and state.spoken_ms >= config.min_speech_ms):
            self._give_way(state.speech)
        elif state.lull is None:
            if state.voiced_ms - state.passed_ms >= config.barge_in_pause_ms:
                self._pause()
        else:
            silent_ms = 1000 * (self.now - state.lull) // INPUT_RATE
            new = state.asked != state.lull and state.spoken_ms >= config.min_speech_ms
            if new and config.barge_in_words and silent_ms >= config.hangover_ms:
                self._set(asked=state.lull)
                self._do(Understand(state.speech, state.lull))
            if silent_ms >= config.barge_in_resume_ms:
                self._set(passed_ms=state.voiced_ms)
                self._resume()

    def _obey(self, end: int) -> None:
        """What was said until ``end`` means that the answer is to stop. Who has spoken since said more than that."""
        state, said = self.state, self.state.ignored
        if end != state.asked or state.answer is None or not self.config.barge_in:
            return
        if state.speech is not None and state.lull == end and self._may_barge_in():
            self._give_way(state.speech)
        elif state.speech is None and said.end == end:  # it was understood late
            self._give_way(said.onset)
            self._close_turn("end_of_speech", end=end, spoken_ms=said.spoken_ms)

    def _give_way(self, onset: int) -> None:
        self._interrupt("barge_in")
        self._open(onset, "speech")

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
        self._retract()
        if self.state.opened is not None:
            self._set(opened=None, lull=None, judged=(), deaf=self.state.speech is not None)
            self._do(CloseTurn(None))
        else:
            self._set(turn=self.state.turn + 1, deaf=self.state.speech is not None)
        self._do(PrefillText(text))
        self._generate("typed", None, speak)

    def _close_turn(self, reason: str, *, end: int | None = None, spoken_ms: int | None = None) -> None:
        """End the person's turn and have it answered, unless nearly nothing was said."""
        spoken = self.state.said_ms + self.state.spoken_ms if spoken_ms is None else spoken_ms
        opened = self.state.opened
        assert opened is not None
        length = 1000 * (self.now - opened) // INPUT_RATE if self.push_to_talk else spoken
        if length < self.config.turn.min_speech_ms:
            self._drop_turn("too_short" if self.push_to_talk else "sound")
            return
        if self.state.lull is None:
            self._retract()
        elif self.state.speech is not None:  # who falls silent and is answered may speak at once: that is new
            self._set(speech=None, voiced_ms=0, spoken_ms=0)
            self._do(EndSpeech())
        self._set(opened=None, lull=None, judged=(), deaf=self.state.speech is not None)
        if self.state.draft is None:
            self._do(CloseTurn(end))
        self._generate(reason, self.now if end is None else end, True)

    def _drop_turn(self, reason: str) -> None:
        self._retract()
        self._set(turn=self.state.turn - 1, opened=None, lull=None, judged=(), deaf=self.state.speech is not None)
        self.reason = reason
        self._do(DropTurn(reason))

    # ------------------------------------------------------------------------------------------ the call's end
    def _end_call(self, reason: str) -> None:
        if self.state.answer is not None:
            self._interrupt(reason)
        if self.state.opened is not None:
            self._drop_turn(reason)
        self._retract()
        self.reason = reason
        self._set(closed=True)

    def _end_idle_call(self) -> None:
        shown = self.state.phase(self.push_to_talk)
        self._end_call("idle")
        if shown != "idle":
            self._do(Show("idle", "idle"))
            self.shown = "idle"
        self._do(EndCall())
