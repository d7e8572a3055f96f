"""The places of a server: who gets one, and who waits for one.

A call takes its place before anything is built for it and gives it back when all of it is closed, whatever goes wrong
on the way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from app.errors import RequestError
from app.server.limits import WaitingLine, client_of
from app.server.open_call import OpenCall
from app.token_bucket import Clock

RETRY_FULL_S = 3.0
TYPICAL_CALL_S = 120.0
MAX_UNCONNECTED = 2
"""Offers of one address that may wait for their connection at the same time, so that nobody takes all places."""

RETRY_UNCONNECTED_S = 2.0
HELD_S = 15.0
"""After the engine refused a call for want of time: so long, or until a call ends, nobody else is let in."""


@dataclass(frozen=True, slots=True)
class PlaceInLine:
    """Where somebody waits: a ticket to ask again with, the place from 1, and about how long it will take."""

    ticket: str
    position: int
    eta_s: int


@dataclass(eq=False, slots=True)
class CallPlace:
    """Taken from the beginning of an offer until all of its call is closed."""

    client: str
    ticket: str | None = None
    """With which it was waited for."""
    entry: OpenCall | None = None

    @property
    def waits(self) -> bool:
        """Whether its caller has not connected yet."""
        return self.entry is None or not (self.entry.connected or self.entry.ending)


class Places:
    """``most()`` places, and the line of those who wait for one."""

    def __init__(self, most: Callable[[], int], clock: Clock = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._held_at, self._held_until = 0, 0.0
        self._taken: set[CallPlace] = set()
        self._line = WaitingLine()
        self._mean_call_s = TYPICAL_CALL_S

    def __len__(self) -> int:
        """Places that are taken."""
        return len(self._taken)

    @property
    def most(self) -> int:
        """All places, taken or not: fewer for a while after the engine had no time for more."""
        return min(self._most(), self._held_at) if self._clock() < self._held_until else self._most()

    def calls(self) -> Iterator[OpenCall]:
        """The calls that have a place, those that are ending among them."""
        return (place.entry for place in self._taken if place.entry)

    def ask(self, ticket: str | None) -> PlaceInLine | None:
        """None if the holder of ``ticket`` could have a place now, else where they wait. Asking keeps a ticket alive.
        Raises RequestError ``full``."""
        if not self._is_next(ticket):
            return self._wait(ticket)
        self._line.keep(ticket)
        return None

    def leave_line(self, ticket: str) -> None:
        """The holder of this ticket waits no longer."""
        self._line.leave(ticket)

    def take(self, ticket: str | None, address: str) -> CallPlace:
        """A place for a caller at ``address``. Raises RequestError ``full`` or ``rate_limited``."""
        if not self._is_next(ticket):
            raise self.full(ticket)
        place = CallPlace(client_of(address), ticket)
        if sum(other.client == place.client and other.waits for other in self._taken) >= MAX_UNCONNECTED:
            raise RequestError(
                "rate_limited",
                f"{MAX_UNCONNECTED} offers from this address wait for their connection; connect or hang up first.",
                retry_after=RETRY_UNCONNECTED_S,
            )
        self._line.leave(ticket)
        self._taken.add(place)
        return place

    def give_back(self, place: CallPlace) -> None:
        """Its call never began."""
        self._taken.discard(place)

    def refuse(self, place: CallPlace) -> RequestError:
        """The engine has no time for this call beside those that have a place. Its caller is the first in line, and the
        refusal says so."""
        self._taken.discard(place)
        self._held_at, self._held_until = max(1, len(self)), self._clock() + HELD_S
        return self.full(self._line.first(place.ticket))

    def ended(self, entry: OpenCall, length_s: float) -> None:
        """This call is over, and its place is free."""
        self._taken = {place for place in self._taken if place.entry is not entry}
        self._held_until = 0.0
        self._mean_call_s += (length_s - self._mean_call_s) / 8

    def full(self, ticket: str | None = None) -> RequestError:
        """The refusal of a caller for whom there is no place, with the ticket to wait with."""
        place = self._wait(ticket)
        return RequestError(
            "full",
            f"All {self.most} places are taken; you are number {place.position} in line. Ask again with your ticket.",
            retry_after=RETRY_FULL_S,
            more=asdict(place),
        )

    def _is_next(self, ticket: str | None) -> bool:
        """Whether there is a place for the holder of this ticket, after all who came before."""
        return self._line.position(ticket) < self.most - len(self)

    def _wait(self, ticket: str | None) -> PlaceInLine:
        """Keep the holder's place in line, or give them one. Raises RequestError ``full`` if the line is too long."""
        place = self._line.wait(ticket)
        if place is None:
            raise RequestError("full", "All places are taken, and the line is too long; try later.", retry_after=60)
        number, position = place
        return PlaceInLine(number, position, round(self._mean_call_s * position / self.most))
