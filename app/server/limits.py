"""Fair use: how often something may happen, how much of it at once, and who is next when the server is full.

What is timed takes the time from a clock that a test can replace. It is the wall's, not the media's: nothing here is
part of a call's course, and none of it is recorded.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from app.errors import RequestError
from app.token_bucket import Clock, TokenBucket

MAX_ADDRESSES = 10_000


def ip_of(text: str) -> IPv4Address | IPv6Address | None:
    """The IP address in ``text``, without an interface, and IPv4 where it is mapped into IPv6; None where there is
    none."""
    try:
        ip = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


def client_of(address: str) -> str:
    """Whom an IP address stands for where clients are counted: itself, or the /64 network of an IPv6 address, in which
    one machine has as many addresses as it likes (RFC 8981)."""
    ip = ip_of(address)
    if ip is None:
        return address
    return str(ip_network((ip, 64), strict=False) if isinstance(ip, IPv6Address) else ip)


class RateLimiter:
    """A token bucket for each client: half a minute's worth at once, ``per_minute`` in the long run."""

    def __init__(self, per_minute: int, clock: Clock = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, address: str) -> float:
        """Count one request of ``address``. 0 if it is allowed, else the seconds after which one is."""
        if not self._per_minute:
            return 0.0
        address = client_of(address)
        if address not in self._buckets:
            self._make_room()
            self._buckets[address] = TokenBucket(self._per_minute / 60, max(1, self._per_minute / 2), self._clock)
        bucket = self._buckets[address]
        return 0.0 if bucket.take() else bucket.wait_s

    def wait_s(self, address: str) -> float:
        """What :meth:`take` would say, without a count."""
        bucket = self._buckets.get(client_of(address))
        return 0.0 if bucket is None else bucket.wait_s

    def _make_room(self) -> None:
        if len(self._buckets) >= MAX_ADDRESSES:
            busy = [(address, bucket) for address, bucket in self._buckets.items() if not bucket.full]
            self._buckets = dict(busy[-(MAX_ADDRESSES * 9 // 10) :])  # if need be, forget who was seen first


class Share:
    """How many of something each client may have under way at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: Counter[str] = Counter()

    @contextmanager
    def of(self, address: str) -> Iterator[None]:
        """One of them, as long as the block lasts. Raises RequestError ``rate_limited`` where ``address`` has as many
        as it may."""
        client = client_of(address)
        if self._taken[client] >= self._most:
            raise RequestError(
                "rate_limited", f"{self._most} of your requests are under way; wait until one of them is answered.",
                retry_after=2,
            )  # fmt: skip
        self._taken[client] += 1
        try:
            yield
        finally:
            self._taken[client] -= 1
            if not self._taken[client]:
                del self._taken[client]


@dataclass(slots=True)
class Ticket:
    """A place in the waiting line. It is lost when its holder does not ask for ``patience_s``."""

    number: str
    asked_at: float


class WaitingLine:
    """Who is next when a place becomes free: callers in the order in which they first asked."""

    PATIENCE_S = 15.0
    MAX_LENGTH = 100

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._line: deque[Ticket] = deque()

    def position(self, number: str | None) -> int:
        """How many callers are before the holder of this ticket (before a newcomer, with None or an unknown one)."""
        self._leave_out_the_gone()
        for position, ticket in enumerate(self._line):
            if ticket.number == number:
                return position
        return len(self._line)

    def wait(self, number: str | None) -> tuple[str, int] | None:
        """Keep the ticket's place, or give a new one. (ticket, place from 1), or None if the line is too long."""
        position = self.position(number)
        if position == len(self._line):
            if position >= self.MAX_LENGTH:
                return None
            self._line.append(Ticket(secrets.token_urlsafe(12), 0.0))
        ticket = self._line[position]
        ticket.asked_at = self._clock()
        return ticket.number, position + 1

    def first(self, number: str | None) -> str:
        """Put the holder of this ticket, or of a new one, before all others -> the ticket."""
        self.leave(number)
        ticket = Ticket(number or secrets.token_urlsafe(12), self._clock())
        self._line.appendleft(ticket)
        return ticket.number

    def keep(self, number: str | None) -> None:
        """The holder of this ticket is still there."""
        for ticket in self._line:
            if ticket.number == number:
                ticket.asked_at = self._clock()

    def leave(self, number: str | None) -> None:
        """The holder of this ticket was served, or gave up."""
        self._line = deque(ticket for ticket in self._line if ticket.number != number)

    def _leave_out_the_gone(self) -> None:
        oldest = self._clock() - self.PATIENCE_S
        self._line = deque(ticket for ticket in self._line if ticket.asked_at >= oldest)
