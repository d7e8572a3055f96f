"""One call: microphone, camera and client events in; speech and server events out.

The deterministic core. All inputs are synchronous, do not block, belong on the event loop and are totally ordered;
everything that a call does follows from that order, so that replaying the inputs gives the identical events. Media
time, the number of 16 kHz microphone samples processed in whole 20 ms frames, is its only clock.

Units go to the engine while the person speaks: a turn begins with its pre-roll, every second of it is prefilled as soon
as it is complete, with the newest picture, and what is left goes at its end. Silence between turns is not prefilled.
"""

from __future__ import annotations

import base64
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.call import turn, turn_machine
from app.call.commands import (
    Bye,
    Command,
    Hello,
    Ping,
    Remark,
    ReportPlayback,
    SwitchCamera,
    Unknown,
    UpdateOptions,
    command_of,
)
from app.call.config import FIXED_AT_START, CallConfig, OptionError
from app.call.ears import CallEars
from app.call.engine_link import (
    FATAL_CODES,
    ChunkArrived,
    EngineLink,
    GenerationFailed,
    GenerationStopped,
    Result,
    UnitPrefilled,
    UnitRefused,
)
from app.call.feeder import UnitFeeder
from app.call.greeting import SECRETS, Greeting
from app.call.inbox import Inbox
from app.call.media_time import FRAME_SAMPLES
from app.call.microphone import Microphone
from app.call.outbox import Outbox
from app.call.playout import SpeechQueue
from app.call.protocol import MAX_DELTA_CHARS, VERSION, ProtocolError, parse_message
from app.call.response import Response
from app.call.tap import CallTap
from engine.client import OUTPUT_RATE, Chunk, EngineError, EngineInfo, EngineSession

log = logging.getLogger(__name__)

MAX_THUMBNAIL_BYTES = 8 * 1024
ASKS_THE_MODEL = ("model", "both")
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
        resume_token: str | None = None,
        resume_s: float | None = None,
        recorded: bool = False,
        held: bool = False,
        on_end: Callable[[str], None] | None = None,
    ) -> None:
        """``on_end(reason)`` is called once when the call ends by itself (``bye``, the engine is lost); the owner then
        closes it. ``held`` keeps the engine's results back until ``link.release()`` lets them take effect (replay of
        recorded times). ``resume_token``, ``resume_s`` and ``recorded`` are told to the client only, never to the tap.
        """
        self.call_id = call_id
        self.config = config
        self._tap = tap
        self._greeting = Greeting(call_id, engine, resume_token, resume_s, recorded)
        self._on_end = on_end
        self._closed = self._ended = False
        self._withheld: list[UnitPrefilled | UnitRefused] = []  # of units on trial: told when they count
        self._t = 0
        push_to_talk = config.turn.detection == "push_to_talk"
        self._state = turn.TurnState(muted=push_to_talk)
        self._events: deque[turn.Event] = deque()
        self._stepping = False
        self._response: Response | None = None
        self._drafts_kept = self._drafts_dropped = 0
        self._end_probability: float | None = None  # the model's word after the newest unit
        self._outbox = Outbox(self._welcome, tap.event if tap else None)
        self._ears = CallEars(config, self.judged, held=held)
        self.microphone = Microphone(self._on_frame, config.media.max_gap_s)
        self.output = SpeechQueue(self._on_played, tap.speech if tap else None, config.media.fade_out_ms)
        self.link = EngineLink(session, self._on_result, self._has_room, engine_changed=self._engine_changed, held=held)
        self._inbox = Inbox(self.link, engine.context_limit if engine else None, self._take)
        self._feeder = UnitFeeder(config, self.link, self._warn_behind, tap.unit_frame if tap else None)
        self.event("welcome", self._welcome(False), secret=SECRETS)

    # ---------------------------------------------------------------------------------------------------- inputs
    @property
    def t_samples(self) -> int:
        """Media time, samples at 16 kHz."""
        return self._t

    @property
    def phase(self) -> turn.Phase:
        """The turn state's name for people."""
        return self._state.phase(self.config.turn.detection == "push_to_talk")

    def push_frame(self, jpeg: bytes) -> None:
        """The newest camera picture; it goes with the next unit. Ignored while the camera is off."""
        if not self._closed:
            self._feeder.camera.push(self._t, jpeg)

    def receive(self, raw: str) -> None:
        """One message of the client. The peer limits their rate. One that cannot be understood gets an ``error`` that
        names it, one of an unknown type a ``warning``; neither changes anything else.

        A long typed text takes effect, or is refused, when the engine has measured it; what comes behind it waits.
        """
        if not self._closed:
            self._inbox.push(raw)

    def _take(self, raw: str, refusal: EngineError | None) -> None:
        """Let a message take effect, or answer it with the engine's ``refusal`` of its text."""
        if self._closed:
            return
        if self._tap:
            self._tap.command(self._t, raw)
        seq: int | None = None
        try:
            message = parse_message(raw)
            seq = message.seq
            if refusal is not None:
                raise ProtocolError(refusal.code, refusal.message)
            self._apply(command_of(message), seq)
        except ProtocolError as error:
            self._refuse(error.code, error.message, seq if error.ref_seq is None else error.ref_seq)
        except OptionError as error:
            self._refuse("bad_options", str(error), seq)

    def microphone_paused(self) -> None:
        """No audio packet for more than a second; the next one ends the pause."""
        if self._closed or not self._state.live:
            return
        if self._tap:
            self._tap.paused(self._t)
        self.step(turn.MicrophoneLost())

    def judged(self, end: int, probability: float) -> None:
        """Somebody who was asked says how probable it is that the person was done at media time ``end`` (samples)."""
        if self._closed:
            return
        if self._tap:
            self._tap.judged(self._t, end, probability)
        self.step(turn.Judged(end, probability))

    def _ask(self, end: int) -> None:
        assert self._state.opened is not None
        self._ears.ask(end, self._t - self._state.opened)
        self._ask_the_model(end)

    def _ask_the_model(self, end: int) -> None:
        """The model has said whether the person was done at ``end`` once it holds all that was said."""
        asked = self.config.turn.end_of_turn in ASKS_THE_MODEL and self._state.draft is not None
        if asked and not self._feeder.awaited and self._end_probability is not None:
            self.step(turn.Judged(end, self._end_probability))

    async def idle(self) -> None:
        """Return when nothing can happen without a new input: for replays, in which nobody takes any time."""
        await self._ears.idle()
        await self.link.idle()

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
                self.step(replace(lull, ready=self._feeder.is_idle))
            case turn.SpeechStarted() | turn.SpeechEnded() | turn.LullOver() as change:
                self.step(change)
        self.step(turn.Tick(self._ears.speech.voiced_ms))
        self._cut_units()
        if (shown := self._ears.shown(self._t)) is not None:
            self.event("vad", shown)

    def _on_played(self, epoch: int, samples: int) -> None:
        if self._closed:
            return
        if self._tap:
            self._tap.played(self._t, epoch, samples)
        response = self._response
        if response is not None and response.epoch == epoch and response.first_audio is None:
            response.first_audio = self._t
        self._check_drained()
        self.link.room_made()

    def _on_result(self, n: int, result: Result) -> None:
        if self._closed:
            return
        if self._tap:
            self._tap.result(self._t, n)
        match result:
            case UnitPrefilled() | UnitRefused():
                counts = self._feeder.settled(result.index)
                if isinstance(result, UnitPrefilled):
                    self._end_probability = result.prefilled.end_probability
                if counts and self._feeder.is_on_trial(result.index):
                    self._withheld.append(result)
                elif counts:
                    self._unit_settled(result)
                if counts and self._state.lull is not None:
                    self._ask_the_model(self._state.lull)
            case ChunkArrived(chunk):
                self.step(turn.AnswerChunk(chunk))
            case GenerationFailed(epoch, error):
                draft = self._state.draft
                if draft is None or draft.epoch != epoch or error.code in FATAL_CODES:
                    self._engine_error(error)
                self.step(turn.AnswerFailed(epoch))
            case GenerationStopped(epoch):
                self.step(turn.AnswerStopped(epoch))

    # ------------------------------------------------------------------------------------------- the connection
    def attach(self, send: Callable[[str], None]) -> None:
        """Send events here from now on; ``send`` must not raise. See :mod:`app.call.protocol` for what a second one
        gets."""
        self._outbox.attach(send)

    def detach(self) -> None:
        """There is no connection; events are kept for the next one."""
        self._outbox.detach()

    def metrics(self, figures: Mapping[str, Any]) -> None:
        """Send the connection's figures to the client (not recorded), and how often an answer's speech ran dry."""
        drafts = {"drafts_kept": self._drafts_kept, "drafts_dropped": self._drafts_dropped}
        self.event("metrics", {**figures, "underruns": self.output.underruns, **drafts}, observed=False)

    def warn(self, code: str, message: str) -> None:
        """Send a warning about the connection to the client (not recorded)."""
        self.event("warning", {"code": code, "message": message}, observed=False)

    def announce_end(self, in_s: float, reason: str) -> None:
        """Tell the client that the server is going to end the call (not recorded)."""
        self.event("session.ending", {"in_s": in_s, "reason": reason}, observed=False)

    def event(
        self,
        kind: str,
        data: Mapping[str, Any],
        *,
        turn: int | None = None,
        epoch: int | None = None,
        observed: bool = True,
        secret: tuple[str, ...] = (),
    ) -> None:
        """Send an event, about the current turn and epoch when none are given."""
        if not self._closed:
            self._outbox.event(
                kind,
                data,
                t_samples=self._t,
                turn=self._state.turn if turn is None else turn,
                epoch=self._state.epoch if epoch is None else epoch,
                observed=observed,
                secret=secret,
            )

    # ---------------------------------------------------------------------------------------- what the client asks
    def _apply(self, command: Command, seq: int | None) -> None:
        match command:
            case Hello(last_seq, version):
                self._outbox.hello(last_seq)
                if version != VERSION:
                    message = f"This server speaks version {VERSION} of the protocol."
                    raise ProtocolError("unsupported_version", message)
            case UpdateOptions(values):
                self._update_options(values)
            case SwitchCamera(off):
                self._feeder.camera.switch(off)
            case ReportPlayback(epoch, buffered_ms):
                if self._response is not None and self._response.epoch == epoch:
                    self._response.reported_buffer_ms = buffered_ms
            case Ping(nonce):
                self.event("pong", {"nonce": nonce})
            case Bye():
                self.end("bye")
            case Remark():
                pass
            case Unknown(kind):
                message = f"Messages of type {kind!r} are unknown to this server and were ignored."
                self.event("warning", {"code": "unknown_type", "message": message} | _about(seq))
            case _:
                self.step(command)

    def _refuse(self, code: str, message: str, seq: int | None) -> None:
        data = {"code": code, "message": message, "retryable": False, "fatal": False}
        self.event("error", data | _about(seq))

    def _update_options(self, values: Mapping[str, Any]) -> None:
        """Raises OptionError. What is fixed at the start stays as it is, and the client is told."""
        config = self.config.updated(values)
        fixed = {name: getattr(self.config, name) for name in FIXED_AT_START}
        refused = [name for name, value in fixed.items() if value != getattr(config, name)]
        self._set_config(config.updated(fixed))
        self.event("session.updated", {"config": self.config.as_mapping()})
        if refused:
            message = f"{', '.join(refused)} cannot change during a call; choose before the next one."
            self.event("warning", {"code": "fixed_at_start", "message": message})

    def _set_config(self, config: CallConfig) -> None:
        """New options take effect at once."""
        if (ended := self._ears.configure(config)) is not None:
            self.step(ended)
        detection = config.turn.detection
        if detection != self.config.turn.detection:
            self.step(turn.Discard())
            shown, self.config = self.phase, config
            self._state = replace(self._state, muted=detection == "push_to_talk")
            if self.phase != shown:
                self.event("turn.state", {"state": self.phase, "reason": "detection"})
        self.config = config
        self._feeder.configure(config)

    def end(self, reason: str) -> None:
        """End the call by itself: say so and tell the owner."""
        if self._ended:
            return
        self._ended = True
        self.step(turn.Close(reason))
        self.event("session.ending", {"in_s": 0, "reason": reason})
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
        self._ears.close()
        await self.link.close()

    # ------------------------------------------------------------------------------------------ the turn machine
    def step(self, event: turn.Event) -> None:
        """Let the turn machine see an event and do what follows, one event after the other."""
        self._events.append(event)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._events:
                self._state, actions = turn_machine.step(self._state, self._events.popleft(), self._t, self.config)
                for action in actions:
                    self._do(action)
        finally:
            self._stepping = False

    def _do(self, action: turn.Action) -> None:
        match action:
            case turn.OpenTurn(onset):
                self._feeder.open(onset)
            case turn.CloseTurn(end):
                push_to_talk = self.config.turn.detection == "push_to_talk"
                last_voiced = end if end is not None or push_to_talk else self._ears.speech.last_voiced
                self._feeder.close(last_voiced)
            case turn.DropTurn(reason):
                self._feeder.drop()
                if reason == "discarded" and self._feeder.units_of_turn:
                    self._warn_discarded()
            case turn.PrefillText(text):
                self._feeder.feed_text(text)
            case turn.Judge(end):
                self._ask(end)
            case turn.Prepare(epoch, end):
                self._feeder.try_end(end)
                self.link.generate(epoch)
            case turn.Retract(epoch, finished):
                self._withheld.clear()
                self.link.take_back(epoch, self._feeder.take_back(), running=not finished)
                self._drafts_dropped += 1
            case turn.EndSpeech():
                self._ears.speech.end()
            case turn.Generate():
                self._generate(action)
            case turn.Play(chunk):
                self._play(chunk)
            case turn.Pause():
                self.output.pause()
                self.event("response.paused", {"reason": "voice"})
            case turn.Resume():
                self.output.resume()
                self.event("response.resumed", {"reason": "voice_ended"})
            case turn.Flush():
                self.output.flush()
            case turn.CancelGeneration(epoch):
                self.link.cancel(epoch)
            case turn.Done():
                self._done(action)
            case turn.Show(phase, reason):
                self.event("turn.state", {"state": phase, "reason": reason})

    # ------------------------------------------------------------------------------------------ towards the engine
    def _cut_units(self) -> None:
        """Prefill the seconds of the turn that are complete, once it is sure that it is one."""
        if self._state.opened is None:
            return
        if self.config.turn.detection == "push_to_talk":
            self._feeder.cut(self._t)
        elif self._state.said_ms + self._ears.speech.voiced_ms >= self.config.turn.min_speech_ms:
            self._feeder.cut(self._ears.speech.last_voiced)

    def _generate(self, action: turn.Generate) -> None:
        if action.prepared:
            self._feeder.close(action.speech_end)
        waits = self._feeder.awaited
        speak = action.speak and self.config.speak
        self._response = Response(action.turn, action.epoch, speak, self._t, action.speech_end, waits)
        if not waits:
            self._response.prefilled = self._t
        self.output.push(action.epoch, np.zeros(0, np.int16))
        withheld, self._withheld = self._withheld, []
        for result in withheld:
            self._unit_settled(result)
        self.event("response.started", {"reason": action.reason}, turn=action.turn, epoch=action.epoch)
        if action.prepared:
            self._drafts_kept += 1
        else:
            self.link.generate(action.epoch)

    def _has_room(self) -> bool:
        draft = self._state.draft
        waiting = self.output.buffered + (draft.samples if draft is not None else 0)
        return waiting < self.config.media.max_buffered_s * OUTPUT_RATE

    # ---------------------------------------------------------------------------------------- towards the client
    def _play(self, chunk: Chunk) -> None:
        response = self._response
        assert response is not None
        before = len(response.spoken.text)
        response.add(chunk, self._t)
        for begin in range(0, len(chunk.text), MAX_DELTA_CHARS):
            delta = chunk.text[begin : begin + MAX_DELTA_CHARS]
            spoken = response.timing(before + begin, before + begin + len(delta))
            self.event("assistant.text", {"delta": delta} | spoken, turn=response.turn, epoch=response.epoch)
        mended = response.mended(chunk, before)
        for begin in range(0, len(mended), MAX_DELTA_CHARS):
            starts = {"starts": mended[begin : begin + MAX_DELTA_CHARS]}
            self.event("assistant.timing", starts, turn=response.turn, epoch=response.epoch)
        if response.speak:
            self.output.push(chunk.epoch, chunk.pcm)
        self._check_drained()

    def _check_drained(self) -> None:
        answer = self._state.answer
        if answer is not None and answer.finished and not self.output.buffered:
            self.step(turn.Drained(answer.epoch))

    def _done(self, action: turn.Done) -> None:
        response, self._response = self._response, None
        assert response is not None
        complete = action.status == "completed"
        heard = response.heard(self.output.played, complete=complete)
        data = {"status": action.status, "reason": action.reason} | response.summary(heard)
        self.event("response.done", data, turn=action.turn, epoch=action.epoch)
        self.link.heard(action.epoch, heard.samples, None if complete else heard.characters)
        self.link.room_made()

    def _unit_settled(self, result: UnitPrefilled | UnitRefused) -> None:
        if self._response is not None:
            self._response.unit_prefilled(result.index, self._t)
        if isinstance(result, UnitRefused):
            self._engine_error(result.error)
            return
        unit, prefilled = result.unit, result.prefilled
        if result.frame_error is not None:
            self.event("warning", {"code": "bad_frame", "message": result.frame_error.message})
        if unit.frame is not None:
            used: dict[str, Any] = {"unit": result.index, "hd": unit.hd}
            if self.config.media.thumbnails and len(unit.frame) <= MAX_THUMBNAIL_BYTES:
                used["thumbnail"] = base64.b64encode(unit.frame).decode()
            self.event("frame.used", used)
        action = "dropped" if prefilled.dropped_tokens else "none"
        context = {"used": prefilled.context_used, "limit": prefilled.context_limit, "action": action}
        self.event("context", context | {"dropped": prefilled.dropped_tokens})

    def _engine_changed(self, error: EngineError | None) -> None:
        """What the engine does unasked. It depends on the machine, so that it is not recorded."""
        if self._closed:
            return
        if error is None:
            self.warn("engine_answers", "The model answers again.")
        elif error.code in FATAL_CODES:
            self._engine_error(error, observed=False)
        else:
            self.warn(error.code, error.message)

    def _engine_error(self, error: EngineError, *, observed: bool = True) -> None:
        fatal = error.code in FATAL_CODES
        if fatal and self._state.answer is not None:
            self.step(turn.AnswerFailed(self._state.answer.epoch))
        if not self._ended:
            data = {"code": error.code, "message": error.message, "retryable": error.retryable, "fatal": fatal}
            self.event("error", data, observed=observed)
            if fatal:
                self.end("engine_lost")

    def _warn_behind(self, units: int) -> None:
        message = (
            f"The model is {units} units behind and does not hear what is said now. "
            "Wait for its answer, or run it on a faster machine."
        )
        self.event("warning", {"code": "engine_behind", "message": message})

    def _warn_discarded(self) -> None:
        message = f"The model had already heard {self._feeder.units_of_turn} seconds of what was discarded."
        self.event("warning", {"code": "discarded_late", "message": message})

    def _welcome(self, resumed: bool) -> dict[str, Any]:
        return self._greeting.data(self.config, resumed)


def _about(seq: int | None) -> dict[str, Any]:
    """The member that names the message which an error or a warning is about."""
    return {} if seq is None else {"ref_seq": seq}
