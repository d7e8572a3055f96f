"""What the engine reads of what the person says, told to the client: ``user.transcript``."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from app.call.engine_link import UnitPrefilled, UnitRefused
from app.call.outbox import Outbox

MAX_TRANSCRIPT_CHARS = 2_000
"""Of a longer turn the end is told: an event must fit into one message in any script."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """A turn that is over while the engine has still to read its units up to number ``last``."""

    turn: int
    epoch: int
    last: int


class CallTranscript:
    """Joins the words that were read in the units of a turn. An engine that does not read gives none, and nothing is
    told. Like the engine, it keeps what was said in a turn that was dropped for the next one."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._certain = self._rest = ""
        self._told = False
        self._ended: deque[_Ended] = deque()

    def unit(self, result: UnitPrefilled | UnitRefused) -> None:
        """The engine holds one more unit, or has refused it."""
        ended = self._ended[0] if self._ended else None
        if isinstance(result, UnitPrefilled):
            read = result.prefilled
            if read.words or read.rest != self._rest:
                self._certain, self._rest = self._certain + read.words, read.rest
                self._tell(read.words, ended)
        if ended is not None and result.index >= ended.last:
            self._finish(self._ended.popleft())

    def end(self, turn: int, epoch: int, awaited: int) -> None:
        """The turn is answered; ``awaited`` is the number of its last unit if the engine has still to read that, else
        0."""
        ended = _Ended(turn, epoch, awaited)
        if awaited:
            self._ended.append(ended)
        else:
            self._finish(ended)

    def _finish(self, ended: _Ended) -> None:
        """All that was read counts now."""
        if self._told:
            rest, self._certain, self._rest = self._rest, self._certain + self._rest, ""
            self._tell(rest, ended, final=True)
        self._certain, self._told = "", False

    def _tell(self, delta: str, ended: _Ended | None, *, final: bool = False) -> None:
        self._told = True
        text = (self._certain + self._rest)[-MAX_TRANSCRIPT_CHARS:]
        data = {"text": text, "delta": delta[-MAX_TRANSCRIPT_CHARS:], "final": final}
        turn, epoch = (None, None) if ended is None else (ended.turn, ended.epoch)
        self._outbox.event("user.transcript", data, turn=turn, epoch=epoch)
