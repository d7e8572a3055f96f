"""The calls of a server: who gets a place, how a call outlives its connection, and how it ends.

A call takes its place before anything is built for it and gives it back whatever goes wrong on the way. Its model
session is freed exactly when it ends: by hanging up, by its own decision (``bye``, a fatal error), by a flood of
messages, or when it was without a peer for the grace period.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.call.call import Call
from app.call.config import CallConfig, OptionError
from app.errors import RequestError
from app.replay.record import Recordings
from app.server.limits import WaitingLine
from app.webrtc.peer import Peer, PeerSettings
from app.webrtc.sdp import check_offer, parse_candidate
from app.webrtc.tracks import MicrophoneTimeline
from engine.client import Engine, EngineError

log = logging.getLogger(__name__)

RETRY_FULL_S = 3.0
RETRY_NOT_READY_S = 2.0
TYPICAL_CALL_S = 120.0
MAX_CANDIDATES = 64
CLOSE_CALL_S = 0.5


@dataclass(frozen=True, slots=True)
class AnsweredOffer:
    """What a caller gets for an offer."""

    call_id: str
    sdp: str
    resume_token: str


@dataclass(eq=False, slots=True)
class OpenCall:
    """A call and what belongs to it while it lasts."""

    call: Call
    resume_token: str
    timeline: MicrophoneTimeline = field(default_factory=MicrophoneTimeline)
    since: float = field(default_factory=time.monotonic)
    peer: Peer | None = None
    grace: asyncio.TimerHandle | None = None
    reached: bool = False
    """Whether any of its peers was connected before the present one."""
    candidates: int = 0
    moving: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a peer takes the place of another."""


class CallRegistry:
    """All calls of one server. Every method belongs on the event loop."""

    def __init__(
        self,
        engine: Engine,
        peers: PeerSettings,
        *,
        max_calls: int,
        grace_s: float,
        defaults: CallConfig,
        recordings: Recordings | None,
    ) -> None:
        """``defaults`` holds for what a caller's options leave open. With ``recordings`` every call is recorded."""
        self._engine = engine
        self._peers = peers
        self._max_calls = max_calls
        self._grace_s = grace_s
        self._defaults = defaults
        self._recordings = recordings
        self._calls: dict[str, OpenCall] = {}
        self._taken = 0
        self._line = WaitingLine()
        self._mean_call_s = TYPICAL_CALL_S
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    def __len__(self) -> int:
        """Places that are taken."""
        return self._taken

    def ask(self, ticket: str | None = None) -> None:
        """Whether a call could begin now, for the holder of ``ticket``. Raises RequestError ``not_ready``, ``full`` or
        ``shutting_down``. Asking keeps a ticket alive, also while its holder opens the microphone."""
        self._require_running()
        self._require_engine()
        if not self._is_next(ticket):
            raise self._full(ticket)
        self._line.keep(ticket)

    def leave(self, ticket: str) -> None:
        """The holder of this ticket waits no longer."""
        self._line.leave(ticket)

    async def open(self, offer: str, options: Mapping[str, Any], ticket: str | None = None) -> AnsweredOffer:
        """Begin a call. Raises RequestError ``bad_sdp``, ``no_audio``, ``bad_options``, ``not_ready``, ``full``,
        ``engine_failed`` or ``shutting_down``; the place is then free again."""
        offer = self._check(offer)
        config = self._config(options)
        self._require_engine()
        self._take_place(ticket)
        try:
            entry = await self._new_call(config)
            try:
                sdp = await self._connect(entry, offer)
                self._require_running()
            except BaseException:
                await entry.call.close("not_connected")
                if entry.peer is not None:
                    await entry.peer.close()
                raise
        except BaseException:
            self._taken -= 1
            raise
        self._calls[entry.call.call_id] = entry
        log.info("call %s: begun, %d of %d places taken", entry.call.call_id, self._taken, self._max_calls)
        return AnsweredOffer(entry.call.call_id, sdp, entry.resume_token)

    async def restart(self, call_id: str, offer: str, resume_token: str | None) -> AnsweredOffer:
        """Put a new peer in place of the old one; the call, and what the model remembers of it, goes on.

        Raises RequestError ``unknown_call``, ``token_missing``, ``token_wrong``, ``bad_sdp`` or ``no_audio``; the
        old peer then stays.
        """
        entry = self._find(call_id)
        if resume_token is None:
            raise RequestError("token_missing", "Send the resume_token that came with the call's first answer.")
        if not hmac.compare_digest(resume_token.encode(), entry.resume_token.encode()):
            raise RequestError("token_wrong", "This is not the call's resume_token.")
        offer = self._check(offer)
        async with entry.moving:
            sdp = await self._connect(entry, offer)
        if call_id not in self._calls and entry.peer is not None:  # it ended meanwhile
            await entry.peer.close()
        self._find(call_id)
        log.info("call %s: has a new peer", call_id)
        return AnsweredOffer(call_id, sdp, entry.resume_token)

    async def add_candidates(self, call_id: str, candidates: list[str]) -> None:
        """Trickled candidates, as ``candidate:`` lines. Raises RequestError ``unknown_call`` or ``bad_candidate``."""
        entry = self._find(call_id)
        parsed = [candidate for text in candidates if (candidate := parse_candidate(text))]
        entry.candidates += len(parsed)
        if entry.candidates > MAX_CANDIDATES:
            raise RequestError("bad_candidate", f"A call takes {MAX_CANDIDATES} candidates at most.")
        for candidate in parsed:
            if entry.peer is not None:
                await entry.peer.add_candidate(candidate)

    async def hang_up(self, call_id: str, reason: str = "hung_up") -> None:
        """End a call and wait until its place is free. Raises RequestError ``unknown_call``."""
        await self._end(self._find(call_id), reason)

    async def close(self, reason: str = "shutdown") -> None:
        """End all calls; no more begin."""
        self._closing = True
        await asyncio.gather(*(self._end(entry, reason) for entry in list(self._calls.values())))
        if self._tasks:
            await asyncio.wait(self._tasks)

    # Beginning

    def _check(self, offer: str) -> str:
        self._require_running()
        behind_turn = any("turn" in str(server.urls) for server in self._peers.ice_servers)
        return check_offer(offer, keep_candidates=behind_turn)

    def _config(self, options: Mapping[str, Any]) -> CallConfig:
        try:
            return self._defaults.updated(options)
        except OptionError as error:
            raise RequestError("bad_options", str(error)) from None

    def _require_running(self) -> None:
        if self._closing:
            raise RequestError("shutting_down", "The server is being stopped.", retry_after=10)

    def _require_engine(self) -> None:
        if self._engine.info is None:
            raise RequestError(
                "not_ready", "The model is not ready yet; GET /ready tells when.", retry_after=RETRY_NOT_READY_S
            )

    def _take_place(self, ticket: str | None) -> None:
        if not self._is_next(ticket):
            raise self._full(ticket)
        self._line.leave(ticket)
        self._taken += 1

    def _is_next(self, ticket: str | None) -> bool:
        """Whether there is a place for the holder of this ticket, after all who came before."""
        return self._line.position(ticket) < self._max_calls - self._taken

    def _full(self, ticket: str | None) -> RequestError:
        place = self._line.wait(ticket)
        if place is None:
            return RequestError("full", "All places are taken, and the line is too long; try later.", retry_after=60)
        number, position = place
        return RequestError(
            "full",
            f"All {self._max_calls} places are taken; you are number {position} in line. Ask again with your ticket.",
            retry_after=RETRY_FULL_S,
            more={
                "ticket": number,
                "position": position,
                "eta_s": round(self._mean_call_s * position / self._max_calls),
            },
        )

    async def _new_call(self, config: CallConfig) -> OpenCall:
        try:
            session = await self._engine.open(config.session_options())
        except EngineError as error:
            if error.code == "full":
                raise self._full(None) from error
            code = "bad_options" if error.code == "bad_options" else "engine_failed"
            raise RequestError(code, error.message, retry_after=5 if error.retryable else None) from error
        call_id, resume_token = secrets.token_urlsafe(16), secrets.token_urlsafe(32)
        engine, tap = self._engine.info, None
        if self._recordings is not None:
            tap = self._recordings.begin(call_id, config, engine, lambda code, message: call.warn(code, message))
        call = Call(
            call_id,
            config,
            session,
            tap,
            engine=engine,
            resume_token=resume_token,
            resume_s=self._grace_s,
            recorded=tap is not None,
            on_end=lambda reason: self._soon(self._end_by_id(call_id, reason)),
        )
        return OpenCall(call, resume_token)

    async def _connect(self, entry: OpenCall, offer: str) -> str:
        """Answer the offer with a new peer and put it in place of the old one."""
        peer = Peer(
            entry.call,
            entry.timeline,
            self._peers,
            lambda peer, why: self._peer_lost(entry, peer, why),
            lambda: self._soon(self._end(entry, "message_flood")),
        )
        sdp = await peer.answer(offer)
        old, entry.peer = entry.peer, peer
        if entry.grace is not None:
            entry.grace.cancel()
            entry.grace = None
        if old is not None:
            entry.call.detach()
            await old.close()
        return sdp

    # Ending

    def _find(self, call_id: str) -> OpenCall:
        entry = self._calls.get(call_id)
        if entry is None:
            raise RequestError("unknown_call", "There is no such call; it has ended, or never began.")
        return entry

    def _peer_lost(self, entry: OpenCall, peer: Peer, why: str) -> None:
        self._soon(peer.close())
        if entry.peer is not peer:
            return
        log.info("call %s: peer lost (%s)", entry.call.call_id, why)
        entry.peer = None
        entry.call.detach()
        entry.call.microphone_paused()
        entry.reached = entry.reached or peer.reached
        grace_s = self._grace_s if entry.reached else 0.0  # nobody comes back who was never there
        loop = asyncio.get_running_loop()
        entry.grace = loop.call_later(grace_s, lambda: self._soon(self._end(entry, "peer_lost")))

    async def _end_by_id(self, call_id: str, reason: str) -> None:
        if (entry := self._calls.get(call_id)) is not None:
            await self._end(entry, reason)

    async def _end(self, entry: OpenCall, reason: str) -> None:
        if self._calls.pop(entry.call.call_id, None) is None:
            return
        if entry.grace is not None:
            entry.grace.cancel()
        try:
            async with asyncio.timeout(CLOSE_CALL_S):
                await entry.call.close(reason)
        except Exception:  # the place and the peer are freed whatever is wrong with the call
            log.exception("call %s: did not close cleanly", entry.call.call_id)
        finally:
            self._taken -= 1
            if entry.peer is not None:
                await entry.peer.close(flush=True)
        length = time.monotonic() - entry.since
        self._mean_call_s += (length - self._mean_call_s) / 8
        log.info("call %s: ended (%s) after %.0f s", entry.call.call_id, reason, length)

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a call could not be ended cleanly", exc_info=error)
