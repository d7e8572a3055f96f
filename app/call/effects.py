"""What follows from the turn machine's actions: in the feeder, the answer's delivery, the engine and the events."""

from __future__ import annotations

from app.call import turn
from app.call.config import CallConfig
from app.call.delivery import AnswerDelivery
from app.call.drafts import DraftCosts
from app.call.ears import CallEars
from app.call.engine_link import EngineLink
from app.call.feeder import UnitFeeder
from app.call.outbox import Outbox
from app.call.turn_state import TurnState
from app.call.unit_results import UnitResults


class TurnEffects:
    """Carries out one action after the other, in the parts of one call."""

    def __init__(
        self,
        feeder: UnitFeeder,
        unit_results: UnitResults,
        ears: CallEars,
        delivery: AnswerDelivery,
        drafts: DraftCosts,
        link: EngineLink,
        outbox: Outbox,
    ) -> None:
        self._feeder, self._unit_results, self._ears = feeder, unit_results, ears
        self._delivery, self._drafts, self._link, self._outbox = delivery, drafts, link, outbox

    def carry_out(self, action: turn.Action, now: int, state: TurnState, config: CallConfig) -> None:
        """Do what ``action`` says, at media time ``now`` (samples), with the state that it came with."""
        match action:
            case turn.OpenTurn(onset):
                self._feeder.open(onset)
            case turn.CloseTurn(end):
                held = config.turn.detection == "push_to_talk"
                self._feeder.close(end if end is not None or held else self._ears.speech.last_voiced)
            case turn.DropTurn(reason):
                self._feeder.drop()
                if reason == "discarded":
                    self._feeder.warn_discarded()
            case turn.PrefillText(text):
                self._feeder.feed_text(text)
            case turn.Judge(end):
                assert state.opened is not None
                self._ears.ask(end, now - state.opened)
            case turn.Understand(onset, end):
                self._ears.understand(end, now - onset)
            case turn.Prepare(epoch, end):
                self._feeder.try_end(end)
                self._draft(epoch, now)
            case turn.PrepareWord(epoch):
                self._feeder.try_text(config.silence.prompt_text)
                self._draft(epoch, now)
            case turn.Retract(epoch, finished):
                self._unit_results.forget()
                self._link.take_back(epoch, self._feeder.take_back(), running=not finished)
                self._drafts.drop(now, finished=finished)
            case turn.EndSpeech():
                self._ears.speech.end()
            case turn.Generate():
                self._generate(action, now)
            case turn.Play(chunk):
                self._delivery.play(chunk, now)
            case turn.Pause():
                self._delivery.pause()
            case turn.Resume():
                self._delivery.resume()
            case turn.Flush():
                self._delivery.flush()
            case turn.CancelGeneration(epoch):
                self._link.cancel(epoch)
            case turn.Done(_, epoch, status):
                heard = self._delivery.end(action)
                self._link.heard(epoch, heard.samples, None if status == "completed" else heard.characters)
                self._link.room_made()
            case turn.Show(phase, reason):
                self._outbox.event("turn.state", {"state": phase, "reason": reason})
            case turn.AnnounceEnd(in_s):
                self._outbox.event("session.ending", {"in_s": in_s, "reason": "idle"})
            case turn.WithdrawEnd():
                self._outbox.event("session.ending_withdrawn", {"reason": "idle"})

    def _draft(self, epoch: int, now: int) -> None:
        self._drafts.begin(now)
        self._link.generate(epoch)

    def _generate(self, action: turn.Generate, now: int) -> None:
        if action.prepared and action.speech_end is not None:
            self._feeder.close(action.speech_end)
        elif action.prepared:
            self._feeder.keep_text()
        self._delivery.begin(action, self._feeder.awaited, now)
        self._unit_results.commit()
        self._unit_results.transcript.end(action.turn, action.epoch, self._feeder.awaited)
        self._outbox.event("response.started", {"reason": action.reason}, turn=action.turn, epoch=action.epoch)
        if action.prepared:
            self._drafts.keep()
        else:
            self._link.generate(action.epoch)
