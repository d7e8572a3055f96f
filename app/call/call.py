"""One call: microphone, camera and client events in; speech and server events out.

The deterministic core. All inputs are synchronous, do not block, belong on the event loop and are totally ordered;
everything that a call does follows from that order, so that replaying the inputs gives the identical events. Media
time, the number of 16 kHz microphone samples processed in whole 20 ms frames, is its only clock.

Units go to the engine while the person speaks: a turn begins with its pre-roll, every second of it is prefilled as soon
as it is complete, with the newest picture, and what is left goes at its end. Silence between turns is not prefilled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.call import turn, turn_machine
from app.call.commands import Bye, CallCommand, ReportPlayback, SwitchCamera, TestSound, UpdateOptions
from app.call.config import CallConfig
from app.call.delivery import AnswerDelivery
from app.call.drafts import DraftCosts
from app.call.ears import CallEars
from app.call.echo.self_test import EchoTest
from app.call.effects import TurnEffects
from app.call.engine_link import ChunkArrived, EngineLink, GenerationStopped, Result, UnitPrefilled, UnitRefused
from app.call.feeder import UnitFeeder
from app.call.greeting import SECRETS, Greeting
from app.call.inbox import Inbox
from app.call.media_time import FRAME_SAMPLES
from app.call.microphone import Microphone
from app.call.outbox import CallMoment, Outbox
from app.call.playout import SpeechQueue
from app.call.stop_words import StopWords
from app.call.tap import CallTap
from app.call.turn_state import TurnState
from app.call.unit_results import UnitResult, UnitResults
from engine.client import EngineError, EngineInfo, EngineSession

SILENT_FRAME = np.zeros(FRAME_SAMPLES, np.int16)


class Call:
    """Create it on a running event loop; end it with :meth:`close`."""

    def __init__(
        self,
        call_id: str,
        config: CallConfig,
        session: EngineSession,
        tap: CallTap | None = None,
        *,
        engine: EngineInfo | None = None,
        stop_words: StopWords | None = None,
        resume_token: str | None = None,
        resume_s: float | None = None,
        recorded: bool = False,
        held: bool = False,
        on_end: Callable[[str], None] | None = None,
    ) -> None:
        """``stop_words`` understands what is said during an answer. ``on_end(reason)`` is called once when the call
        ends by itself (``bye``, silence, the engine is lost); the owner then closes it. ``held`` keeps the engine's
        results back until ``link.release()`` lets them take effect (replay of recorded times). ``resume_token``,
        ``resume_s`` and ``recorded`` are told to the client only, never to the tap.
        """
        self.call_id = call_id
        self.config = config
        self._tap = tap
        self._on_end = on_end
        self._closed = self._ended = False
        self._t = 0
        self._state = TurnState(muted=config.turn.detection == "push_to_talk")
        self._turn_events: deque[turn.Event] = deque()
        self._stepping = False
        self._drafts = DraftCosts()
        greeting = Greeting(call_id, engine, resume_token, resume_s, recorded)
        self._outbox = Outbox(
            lambda: CallMoment(self._t, self._state.turn, self._state.epoch),
            lambda resumed: greeting.data(self.config, resumed, self._delivery.position),
            tap.event if tap else None,
        )
        self.output = SpeechQueue(self._on_played, self._on_pulled, config.media.fade_out_ms)
        self._sound_test = EchoTest(self.output, self._outbox)
        self._ears = CallEars(config, self._sound_test, stop_words, self.judged, self.meant, held=held)
        self.microphone = Microphone(self._on_frame, config.media.max_gap_s)
        self._delivery = AnswerDelivery(config, self.output, self._outbox)
        self.link = EngineLink(
            session, self._on_result, self._has_room, fault=self.fault, engine_changed=self._engine_changed, held=held
        )
        self._feeder = UnitFeeder(config, self.link, self._outbox, tap.unit_frame if tap else None)
        self._unit_results = UnitResults(config, self._feeder, self._outbox, self._unit_settled)
        self._effects = TurnEffects(
            self._feeder, self._unit_results, self._ears, self._delivery, self._drafts, self.link, self._outbox
        )
        context_limit = engine.context_limit if engine else None
        self._inbox = Inbox(self.link, self._outbox, context_limit, arrived=self._on_message, apply=self._apply)
        self._outbox.event("welcome", greeting.data(config, False), secret=SECRETS)

    @property
    def t_samples(self) -> int:
        """Media time, samples at 16 kHz."""
        return self._t

    @property
    def phase(self) -> turn.Phase:
        """The turn state's name for people."""
        return self._state.phase(self._push_to_talk)

    @property
    def _push_to_talk(self) -> bool:
        return self.config.turn.detection == "push_to_talk"

    # ---------------------------------------------------------------------------------------------------- inputs
    def push_frame(self, jpeg: bytes) -> None:
        """The newest camera picture; it goes with the next unit. Ignored while the camera is off."""
        if not self._closed:
            self._feeder.camera.push(self._t, jpeg)

    def receive(self, raw: str) -> None:
        """One message of the client; see :class:`Inbox`. The peer limits their rate."""
        if not self._closed:
            self._inbox.push(raw)

    def microphone_paused(self) -> None:
        """No audio packet for more than a second; the next one ends the pause."""
        if self._closed or not self._state.live:
            return
        if self._tap:
            self._tap.paused(self._t)
        self._step(turn.MicrophoneLost())

    def judged(self, end: int, probability: float) -> None:
        """Smart Turn, which was asked, says how probable it is that the person was done at media time ``end``
        (samples)."""
        if self._closed:
            return
        if self._tap:
            self._tap.judged(self._t, end, probability)
        self._step(turn.Judged(end, "smart_turn", probability))

    def meant(self, end: int, stop: bool) -> None:
        """The model, which was asked what was said until media time ``end`` (samples), says whether to ``stop``."""
        if self._closed:
            return
        if self._tap:
            self._tap.meant(self._t, end, stop)
        self._step(turn.Meant(end, stop))

    def fault(self, epoch: int | None, error: EngineError) -> None:
        """The engine has failed at the answer of ``epoch``, or for good, where that is None."""
        if self._closed or self._ended:
            return
        if self._tap:
            self._tap.fault(self._t, epoch, error)
        if epoch is not None:
            self.link.cancel(epoch)
            if self._state.draft is None or self._state.draft.epoch != epoch:
                self._outbox.error(error.code, error.message, retryable=error.retryable)
            self._step(turn.AnswerFailed(epoch))
            return
        if self._state.answer is not None:
            self._step(turn.AnswerFailed(self._state.answer.epoch))
        self._outbox.error(error.code, error.message, retryable=error.retryable, fatal=True)
        self.end("engine_lost")

    def _on_message(self, raw: str) -> None:
        if self._tap:
            self._tap.command(self._t, raw)

    def _on_frame(self, frame: NDArray[np.int16]) -> None:
        """20 ms of microphone audio: media time goes on."""
        if self._closed:
            return
        if self._state.muted:
            frame = SILENT_FRAME
        self._t += FRAME_SAMPLES
        if self._tap:
            self._tap.audio(frame)
        self._feeder.push(frame)
        match self._ears.push(frame):
            case turn.Lull() as lull:
                self._step(replace(lull, ready=self._feeder.is_idle))
            case turn.SpeechStarted() as started:
                self._step(replace(started, ending=self._is_ending()))
            case turn.SpeechEnded() | turn.LullOver() as change:
                self._step(change)
        speech = self._ears.speech
        self._step(turn.Tick(speech.voiced_ms, speech.spoken_ms, speech.stirring))
        self._cut_units()
        if (shown := self._ears.shown(self._t)) is not None:
            self._outbox.event("vad", shown)

    def _on_pulled(self, pcm: NDArray[np.int16]) -> None:
        self._ears.played(pcm)
        if self._tap:
            self._tap.speech(pcm)

    def _on_played(self, epoch: int, samples: int) -> None:
        if self._closed:
            return
        if self._tap:
            self._tap.played(self._t, epoch, samples)
        self._delivery.played(epoch, self._t)
        self._check_drained()
        self.link.room_made()

    def _on_result(self, n: int, result: Result) -> None:
        if self._closed:
            return
        if self._tap:
            self._tap.result(self._t, n)
        match result:
            case UnitPrefilled() | UnitRefused():
                if self._unit_results.take(result) and self._state.lull is not None:
                    self._ask_the_model(self._state.lull)
            case ChunkArrived(chunk):
                if self._state.draft is not None:
                    self._drafts.chunk(chunk, self._t)
                self._step(turn.AnswerChunk(chunk))
            case GenerationStopped(epoch):
                self._step(turn.AnswerStopped(epoch))

    async def idle(self) -> None:
        """Return when nothing can happen without a new input: for replays, in which nobody takes any time."""
        await self._ears.idle()
        await self.link.idle()

    # ------------------------------------------------------------------------------------------- the connection
    def attach(self, send: Callable[[str], None]) -> None:
        """Send events here from now on; ``send`` must not raise. See :mod:`app.call.protocol` for what a second one
        gets."""
        self._outbox.attach(send)

    def detach(self, *, moved: bool = False) -> None:
        """There is no connection; events are kept for the next one. With ``moved`` another client has the call now."""
        self._outbox.detach(moved=moved)

    def metrics(self, figures: Mapping[str, Any]) -> None:
        """Send the connection's figures to the client (not recorded), and how often an answer's speech ran dry."""
        figures = {**figures, "underruns": self.output.underruns, **self._drafts.figures(self._t)}
        self._outbox.event("metrics", figures, observed=False)

    def warn(self, code: str, message: str) -> None:
        """Send a warning about the connection to the client (not recorded)."""
        self._outbox.warn(code, message, observed=False)

    def announce_end(self, in_s: float, reason: str) -> None:
        """Tell the client that the server is going to end the call (not recorded)."""
        self._outbox.event("session.ending", {"in_s": in_s, "reason": reason}, observed=False)

    # ---------------------------------------------------------------------------------------- what the client asks
    def _apply(self, command: CallCommand) -> None:
        match command:
            case UpdateOptions(values):
                self._update_options(values)
            case SwitchCamera(off):
                self._feeder.camera.switch(off)
            case ReportPlayback(epoch, buffered_ms):
                self._delivery.report_buffer(epoch, buffered_ms)
            case TestSound():
                self._step(turn.Present())
                self._sound_test.start(self._state, self._ears.speech.speaking, self.config.echo)
            case Bye():
                self.end("bye")
            case _:
                self._step(command)

    def _update_options(self, values: Mapping[str, Any]) -> None:
        """Raises OptionError."""
        config, refused = self.config.updated_in_call(values)
        self._step(turn.Present())  # also, no limit of silence may shrink under one that goes on
        self._set_config(config)
        self._outbox.event("session.updated", {"config": self.config.as_mapping()})
        if refused:
            message = f"{', '.join(refused)} cannot change during a call; choose before the next one."
            self._outbox.warn("fixed_at_start", message)

    def _set_config(self, config: CallConfig) -> None:
        """New options take effect at once."""
        if (ended := self._ears.configure(config)) is not None:
            self._step(ended)
        detection = config.turn.detection
        if detection != self.config.turn.detection:
            self._step(turn.Discard())
            shown, self.config = self.phase, config
            self._state = replace(self._state, muted=detection == "push_to_talk")
            if self.phase != shown:
                self._outbox.event("turn.state", {"state": self.phase, "reason": "detection"})
        self.config = config
        for part in (self._feeder, self._unit_results, self._delivery):
            part.configure(config)

    # --------------------------------------------------------------------------------------------------- its end
    def end(self, reason: str) -> None:
        """End the call by itself: say so and tell the owner."""
        if self._ended:
            return
        self._ended = True
        self._step(turn.Close(reason))
        self._outbox.event("session.ending", {"in_s": 0, "reason": reason})
        if self._on_end is not None:
            self._on_end(reason)

    async def close(self, reason: str) -> None:
        """End the call and the engine's session. Twice is no error."""
        if self._closed:
            return
        if not self._ended:
            self._on_end = None
            self.end(reason)
        self._closed = True
        if self._tap:
            self._tap.closed(reason)  # the end's place among the inputs: while the link closes, the track pulls on
        self._inbox.close()
        self._outbox.close()
        self._ears.close()
        await self.link.close()

    # ------------------------------------------------------------------------------------------ the turn machine
    def _step(self, event: turn.Event) -> None:
        """Let the turn machine see an event and do what follows, one event after the other."""
        self._turn_events.append(event)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._turn_events:
                self._state, actions = turn_machine.step(self._state, self._turn_events.popleft(), self._t, self.config)
                for action in actions:
                    self._do(action)
                self._sound_test.watch(self._state)
                self._check_drained()  # after all chunks of an answer that was prepared, the first of which may be mute
        finally:
            self._stepping = False

    def _do(self, action: turn.Action) -> None:
        match action:
            case turn.Judge(end, "model"):
                self._ask_the_model(end)
            case turn.EndCall():
                self.end("idle")
            case _:
                self._effects.carry_out(action, self._t, self._state, self.config)

    def _check_drained(self) -> None:
        answer = self._state.answer
        if answer is not None and answer.finished and not self.output.buffered:
            self._step(turn.Drained(answer.epoch))

    def _is_ending(self) -> bool:
        answer = self._state.answer
        return answer is not None and answer.finished and self._delivery.has_last_words

    # ------------------------------------------------------------------------------------------ towards the engine
    def _cut_units(self) -> None:
        """Prefill the seconds of the turn that are complete, once it is sure that it is one."""
        if self._state.opened is None:
            return
        if self._push_to_talk:
            self._feeder.cut(self._t)
        elif self._state.said_ms + self._ears.speech.spoken_ms >= self.config.turn.min_speech_ms:
            self._feeder.cut(self._ears.speech.last_voiced)

    def _ask_the_model(self, end: int) -> None:
        """The model has said whether the person was done at ``end`` once it holds all that was said."""
        said = self._unit_results.end_probability
        asked = "model" in self.config.turn.judges and self._state.draft is not None
        if asked and not self._feeder.awaited:
            self._step(turn.Judged(end, "model", said))

    def _has_room(self) -> bool:
        draft = self._state.draft
        return self._delivery.has_room(draft.samples if draft is not None else 0)

    # ------------------------------------------------------------------------------------------ from the engine
    def _unit_settled(self, result: UnitResult) -> None:
        self._delivery.unit_prefilled(result.index, self._t)
        if isinstance(result, UnitRefused):
            self._outbox.error(result.error.code, result.error.message, retryable=result.error.retryable)

    def _engine_changed(self, error: EngineError | None) -> None:
        """What the engine does unasked, and what comes to nothing for the call."""
        if self._closed:
            return
        if error is None:
            self.warn("engine_answers", "The model is back; it remembers your conversation.")
        else:
            self.warn(error.code, error.message)
