"""The events of one call on their way to its client, through one connection after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from app.call.protocol import encode, make_event
from engine.client import INPUT_RATE

KEPT_EVENTS = 4_096
"""Events that a client which was away can still get: some minutes of a call."""

HELLO_WAIT_SAMPLES = INPUT_RATE
"""How long, in media time, a new connection is given to say which event it saw last."""

Observer = Callable[[Mapping[str, Any]], None]


class Outbox:
    """Numbers events, sends them or keeps them for the next connection, and shows them to an observer.

    Two counts run side by side: ``seq`` on the wire, and ``seq`` for the observer, which does not count what depends on
    the network. So a replay, which has no network, shows the same events.
    """

    def __init__(self, welcome: Callable[[bool], dict[str, Any]], observer: Observer | None) -> None:
        """``welcome(resumed)`` gives the data of the welcome for a connection that takes the call over."""
        self._welcome = welcome
        self._observer = observer
        self._observed = 0
        self._next = 0
        self._kept: deque[tuple[int, str]] = deque(maxlen=KEPT_EVENTS)
        self._send: Callable[[str], None] | None = None
        self._attached_before = False
        self._hold_until: int | None = None
        self._place = (0, 0, 0)

    def event(
        self,
        kind: str,
        data: Mapping[str, Any],
        *,
        t_samples: int,
        turn: int,
        epoch: int,
        observed: bool = True,
        secret: tuple[str, ...] = (),
    ) -> None:
        """Send one event. ``observed`` is False for what a replay does not repeat; members of ``data`` that are named
        in ``secret`` go to the client alone."""
        self._place = (t_samples, turn, epoch)
        if self._hold_until is not None and t_samples >= self._hold_until:
            self._take_over(None)
        envelope = make_event(kind, data, seq=self._next, t_samples=t_samples, turn=turn, epoch=epoch)
        self._next += 1
        text = encode(envelope)
        self._kept.append((envelope["seq"], text))
        if self._send is not None and self._hold_until is None:
            self._send(text)
        if observed and self._observer is not None:
            shown = {name: value for name, value in data.items() if name not in secret}
            self._observer(make_event(kind, shown, seq=self._observed, t_samples=t_samples, turn=turn, epoch=epoch))
        self._observed += observed

    def attach(self, send: Callable[[str], None]) -> None:
        """Send events through ``send`` from now on. The first connection gets all events there are; a later one waits
        for :meth:`hello`."""
        self._send = send
        if self._attached_before:
            self._hold_until = self._place[0] + HELLO_WAIT_SAMPLES
            return
        self._attached_before = True
        for _, text in self._kept:
            send(text)

    def detach(self) -> None:
        """Keep events until the next connection."""
        self._send = None
        self._hold_until = None

    def hello(self, last_seq: int | None) -> None:
        """The client of a new connection has spoken, and saw the event ``last_seq`` last."""
        if self._hold_until is not None:
            self._take_over(last_seq)

    def _take_over(self, last_seq: int | None) -> None:
        self._hold_until = None
        assert self._send is not None
        if last_seq is not None:
            for seq, text in list(self._kept):
                if seq > last_seq:
                    self._send(text)
        t_samples, turn, epoch = self._place
        self.event("welcome", self._welcome(True), t_samples=t_samples, turn=turn, epoch=epoch, observed=False)
