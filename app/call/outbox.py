"""The events of one call on their way to its client, through one connection after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.call.protocol import encode, make_event
from engine.client import INPUT_RATE

KEPT_EVENTS = 4_096
"""Events that a client which was away can still get: some minutes of a call."""

HELLO_WAIT_SAMPLES = 5 * INPUT_RATE
"""How long, in media time, a new connection is given to say which event it saw last. Every page says so at once; one
that is late, on a bad network, would miss events for good."""

Observer = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class CallMoment:
    """Where a call is: its media time (samples at 16 kHz), its turn and its epoch."""

    t_samples: int
    turn: int
    epoch: int


class Outbox:
    """Numbers events, sends them or keeps them for the next connection, and shows them to an observer.

    Two counts run side by side: ``seq`` on the wire, and ``seq`` for the observer, which does not count what depends on
    the network. So a replay, which has no network, shows the same events.
    """

    def __init__(
        self, moment: Callable[[], CallMoment], welcome: Callable[[bool], dict[str, Any]], observer: Observer | None
    ) -> None:
        """``moment()`` says where the call is, ``welcome(resumed)`` gives the data of the welcome for a connection that
        takes it over."""
        self._moment = moment
        self._welcome = welcome
        self._observer = observer
        self._observed = 0
        self._next = 0
        self._kept: deque[tuple[int, str]] = deque(maxlen=KEPT_EVENTS)
        self._send: Callable[[str], None] | None = None
        self._attached_before = False
        self._hold_until: int | None = None
        self._closed = False

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
        """Send one event, about the current turn and epoch when none are given. ``observed`` is False for what a replay
        does not repeat; members of ``data`` that are named in ``secret`` go to the client alone."""
        if self._closed:
            return
        place = self._place(turn, epoch)
        if self._hold_until is not None and place["t_samples"] >= self._hold_until:
            self._take_over(None)
        text = encode(make_event(kind, data, seq=self._next, **place))
        self._kept.append((self._next, text))
        self._next += 1
        if self._send is not None and self._hold_until is None:
            self._send(text)
        if observed and self._observer is not None:
            shown = {name: value for name, value in data.items() if name not in secret}
            self._observer(make_event(kind, shown, seq=self._observed, **place))
        self._observed += observed

    def warn(self, code: str, message: str, *, observed: bool = True, ref_seq: int | None = None) -> None:
        """Send a warning, about the client's message ``ref_seq`` if there is one."""
        self.event("warning", {"code": code, "message": message} | _about(ref_seq), observed=observed)

    def error(
        self,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        fatal: bool = False,
        observed: bool = True,
        ref_seq: int | None = None,
    ) -> None:
        """Send an error, about the client's message ``ref_seq`` if there is one."""
        data = {"code": code, "message": message, "retryable": retryable, "fatal": fatal}
        self.event("error", data | _about(ref_seq), observed=observed)

    def attach(self, send: Callable[[str], None]) -> None:
        """Send events through ``send`` from now on. The first connection gets all events there are; a later one waits
        for :meth:`hello`."""
        self._send = send
        if self._attached_before:
            self._hold_until = self._moment().t_samples + HELLO_WAIT_SAMPLES
            return
        self._attached_before = True
        for _, text in self._kept:
            send(text)

    def detach(self, *, moved: bool = False) -> None:
        """Keep events until the next connection. With ``moved`` the present one is told that another client has taken
        its place. That is about this connection alone: it is not kept, and its number is that of the next event."""
        if moved and self._send is not None and not self._closed:
            self._send(encode(make_event("session.moved", {}, seq=self._next, **self._place())))
        self._send = None
        self._hold_until = None

    def close(self) -> None:
        """No event follows."""
        self._closed = True

    def hello(self, last_seq: int | None) -> None:
        """The client of a new connection has spoken, and saw the event ``last_seq`` last."""
        if self._hold_until is not None:
            self._take_over(last_seq)

    def _place(self, turn: int | None = None, epoch: int | None = None) -> dict[str, int]:
        """Where in the call an event belongs: the present, and the turn and epoch that it is about."""
        now = self._moment()
        return {
            "t_samples": now.t_samples,
            "turn": now.turn if turn is None else turn,
            "epoch": now.epoch if epoch is None else epoch,
        }

    def _take_over(self, last_seq: int | None) -> None:
        self._hold_until = None
        assert self._send is not None
        if last_seq is not None:
            for seq, text in list(self._kept):
                if seq > last_seq:
                    self._send(text)
        self.event("welcome", self._welcome(True), observed=False)


def _about(ref_seq: int | None) -> dict[str, Any]:
    """The member that names the message which an error or a warning is about."""
    return {} if ref_seq is None else {"ref_seq": ref_seq}
