"""Where the conversation stands.

Times are samples at 16 kHz. The name that a user sees is derived from the state, never stored in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from app.call.silence import Silence
from app.call.turn import Judged, Phase
from engine.client import Chunk


@dataclass(frozen=True, slots=True)
class TurnAnswer:
    """The answer that is being given."""

    turn: int
    epoch: int
    begun: bool = False
    """Its first chunk has come."""
    finished: bool = False
    """Its last chunk has come; it may still be playing."""
    paused: bool = False
    """Somebody makes a sound, and it is not yet known whether that is an interruption."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer that is being prepared in a pause of the person, in case it is the end of the turn, or a word of the
    model after long silence, in case the person says nothing until it is there. Before that is known nothing of it is
    shown, played or told."""

    epoch: int
    chunks: tuple[Chunk, ...] = ()
    """What has come of it so far."""
    own_word: bool = False
    """It is a word after long silence."""

    @property
    def finished(self) -> bool:
        return bool(self.chunks) and self.chunks[-1].finish is not None

    @property
    def samples(self) -> int:
        """Its speech so far, samples at 24 kHz."""
        return sum(len(chunk.pcm) for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class Ignored:
    """What was said last under this answer without interrupting it: from when to when, and how much was surely said."""

    onset: int = 0
    end: int = 0
    spoken_ms: int = 0


@dataclass(frozen=True, slots=True)
class TurnState:
    """Where the conversation stands."""

    turn: int = 0
    """Number of the turn that is open, or of the last one. A turn that is dropped gives its number back."""
    epoch: int = 0
    used: int = 0
    """The highest epoch that was given to any answer, drafts among them."""
    opened: int | None = None
    """Media time at which the open turn of the person began; None when none is open."""
    said_ms: int = 0
    """Spoken time of the stretches of speech in the open turn that are over."""
    lull: int | None = None
    """Media time at which the last voiced frame ended, while the silence after it lasts."""
    judged: tuple[Judged, ...] = ()
    """What those who were asked in this lull have said."""
    draft: Draft | None = None
    answer: TurnAnswer | None = None
    stopping: int | None = None
    """Epoch of a cancelled answer that the engine has not left yet."""
    speech: int | None = None
    """Media time since which someone speaks; None in silence."""
    voiced_ms: int = 0
    """How much of that was voiced …"""
    spoken_ms: int = 0
    """… and how much surely said. The rest may be a cough."""
    passed_ms: int = 0
    """How much of what was voiced the answer has waited for before it went on."""
    asked: int | None = None
    """Where that ended of which it was last asked what it means."""
    ignored: Ignored = field(default_factory=Ignored)
    deaf: bool = False
    """The speech that goes on belongs to a turn that is over: it is ignored until it ends."""
    polite: bool = False
    """The speech that goes on began when the answer was all but over: it does not interrupt."""
    live: bool = False
    """Microphone audio comes in."""
    lost: bool = False
    """It came in, and stopped."""
    muted: bool = False
    silence: Silence = field(default_factory=Silence)
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
        if self.silence.away:
            return "away"
        return "listening" if self.live and not push_to_talk else "idle"
