"""A conversation with the turn machine alone, in virtual time."""

from __future__ import annotations

from app.call import turn, turn_machine
from app.call.config import CallConfig, Judging
from app.call.turn_state import TurnState
from engine.client import Chunk

CONFIG = CallConfig.from_mapping({"turn": {"prepare": False}})
PUSH_TO_TALK = CallConfig.from_mapping({"turn": {"detection": "push_to_talk"}})


class Conversation:
    """A conversation in virtual time. Every method is one thing that happens; ``log`` tells what followed."""

    def __init__(self, config: CallConfig = CONFIG) -> None:
        self.config = config
        self.state = TurnState(muted=config.turn.detection == "push_to_talk")
        self.now = self.lull = 0
        self.log: list[str] = []
        self.wait(20)
        self.log.clear()

    @property
    def phase(self) -> str:
        return self.state.phase(self.config.turn.detection == "push_to_talk")

    def tell(self, event: turn.Event) -> Conversation:
        self.state, actions = turn_machine.step(self.state, event, self.now, self.config)
        self.log += [word for action in actions if (word := describe(action))]
        return self

    def wait(self, ms: int, voiced_ms: int | None = None, *, spoken: bool = True) -> Conversation:
        for i in range(ms // 20):
            self.now += 320
            voiced = 0 if voiced_ms is None else voiced_ms + 20 * i
            self.tell(turn.Tick(voiced, voiced * spoken))
        return self

    def speak(self, ms: int, *, spoken: bool = True, ending: bool = False) -> Conversation:
        """Speech that goes on for ``ms`` after the VAD has noticed it, 100 ms into it. What is not ``spoken`` is voice
        that may be a cough."""
        self.now += 320
        self.tell(turn.SpeechStarted(self.now - 1_600, ending)).wait(ms, 100, spoken=spoken)
        return self

    def hush(self, ms: int, voiced_ms: int = 1_000, *, spoken: bool = True) -> Conversation:
        """Silence, of at most 540 ms: the VAD tells of a lull after 160."""
        for i in range(1, ms // 20 + 1):
            self.now += 320
            if i == 8:
                self.lull = self.now - 160 * 16
                self.tell(turn.Lull(self.lull, voiced_ms * spoken))
            self.tell(turn.Tick(voiced_ms, voiced_ms * spoken))
        return self

    def judge(self, probability: float | None, by: Judging = "model") -> Conversation:
        return self.tell(turn.Judged(self.lull, by, probability))

    def mean(self, stop: bool) -> Conversation:
        return self.tell(turn.Meant(self.lull, stop))

    def fall_silent(self, voiced_ms: int = 1_000, *, spoken: bool = True) -> Conversation:
        self.hush(540, voiced_ms, spoken=spoken)
        self.now += 320
        return self.tell(turn.SpeechEnded(self.now - 560 * 16, voiced_ms * spoken))

    def say(self, ms: int = 1_000) -> Conversation:
        return self.speak(ms).fall_silent(ms)

    def answer(self, text: str = "yes", epoch: int | None = None, finish: bool = False) -> Conversation:
        epoch = self.state.epoch if epoch is None else epoch
        return self.tell(turn.AnswerChunk(Chunk(epoch, 0, text, finish="stop" if finish else None)))

    def drain(self) -> Conversation:
        return self.tell(turn.Drained(self.state.epoch))

    def take(self) -> list[str]:
        log, self.log = self.log, []
        return log


def describe(action: turn.Action) -> str:
    match action:
        case turn.Show(phase, _):
            return phase
        case turn.Generate(number, epoch, prepared=prepared):
            return f"{'commit' if prepared else 'generate'} {number}/{epoch}"
        case turn.Prepare(epoch):
            return f"prepare {epoch}"
        case turn.Retract(epoch):
            return f"retract {epoch}"
        case turn.Done(number, epoch, status, reason):
            return f"{status} {number}/{epoch} {reason}"
        case turn.Play(chunk):
            return f"play {chunk.text}"
        case turn.CancelGeneration(epoch):
            return f"cancel {epoch}"
        case turn.DropTurn(reason):
            return f"drop {reason}"
        case turn.EndSpeech():
            return ""
        case turn.AnnounceEnd(in_s):
            return f"ends in {in_s:g}"
        case turn.WithdrawEnd():
            return "stay"
        case _:
            return type(action).__name__.removesuffix("Turn").lower()
