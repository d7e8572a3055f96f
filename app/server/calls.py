"""The calls of a server: how they begin, how a call outlives its connection, and how it ends.

It ends by hanging up, by its own decision (``bye``, silence, a fatal error), by a flood of messages, when it was
without a peer for the grace period, when its time is over, or with the server. Ending is a task of its own, which
nobody cancels; that the engine has a session for each call and for nothing else is looked at from time to time.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from app.call.call import Call
from app.call.config import CallConfig, OptionError
from app.call.ending import notices_s
from app.call.stop_words import StopWords, words_of
from app.errors import RequestError
from app.replay.record import Recordings
from app.server.addresses import local_addresses
from app.server.open_call import OpenCall
from app.server.places import CallPlace, PlaceInLine, Places
from app.webrtc.candidates import Reachable, parse_candidate
from app.webrtc.offer import Offer, read_offer
from app.webrtc.peer import Peer, PeerSettings
from engine.client import Engine, EngineError, EngineSession

log = logging.getLogger(__name__)

RETRY_NOT_READY_S = 2.0
MAX_CANDIDATES = 64
HANG_UP_WAITS_S = 3.0
COMPARE_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class AnsweredOffer:
    """What a caller gets for an offer."""

    call_id: str
    sdp: str
    resume_token: str


class CallRegistry:
    """All calls of one server. Every method belongs on the event loop."""

    def __init__(
        self,
        engine: Engine,
        peers: PeerSettings,
        *,
        max_calls: int,
        grace_s: float,
        max_call_s: float = 0.0,
        defaults: CallConfig,
        recordings: Recordings | None,
    ) -> None:
        """``defaults`` holds for what a caller's options leave open. With ``recordings`` every call is recorded. A call
        ends after ``max_call_s``; 0 is no limit. There are ``max_calls`` at once, or as many of them as
        the engine has room for; 0: as many as that."""
        self._engine = engine
        self._peers = peers
        self._max_calls = max_calls
        self._grace_s = grace_s
        self._max_call_s = max_call_s
        self._defaults = defaults
        self._recordings = recordings
        self._stop_words = StopWords(engine)
        self._calls: dict[str, OpenCall] = {}
        self._places = Places(lambda: self.most)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    def __len__(self) -> int:
        """Places that are taken."""
        return len(self._places)

    @property
    def most(self) -> int:
        """Calls at the same time: as many as the engine has room for, or fewer where it was told so."""
        info = self._engine.info
        room = info.max_sessions if info is not None else self._max_calls
        return max(1, min(self._max_calls or room, room))

    def ask(self, ticket: str | None = None) -> PlaceInLine | None:
        """None if the holder of ``ticket`` could begin a call now, else where they wait. Asking keeps a ticket alive,
        also while its holder opens the microphone. Raises RequestError ``not_ready``, ``full`` or ``shutting_down``."""
        self._require_running()
        self._require_engine()
        return self._places.ask(ticket)

    def leave(self, ticket: str) -> None:
        """The holder of this ticket waits no longer."""
        self._places.leave_line(ticket)

    async def open(
        self,
        offer: str,
        options: Mapping[str, Any],
        ticket: str | None = None,
        address: str = "",
        *,
        page: str | None = None,
    ) -> AnsweredOffer:
        """Begin a call for a caller whose requests come from ``address`` and from this ``page``. Raises RequestError
        ``bad_sdp``, ``bad_candidate``, ``no_audio``, ``bad_options``, ``not_ready``, ``full``, ``rate_limited``,
        ``engine_failed`` or ``shutting_down``; the place is then free again."""
        self._require_running()
        checked = self._check(offer, address)
        config = self._config(options)
        self._require_engine()
        place = self._places.take(ticket, address)
        try:
            place.entry = entry = await self._new_call(config, place)
        except BaseException:
            self._places.give_back(place)
            raise
        entry.page = page
        self._calls[entry.call.call_id] = entry
        try:
            sdp = await self._connect(entry, checked)
            self._require_running()
        except BaseException:
            await self._ended(entry, "not_connected")
            raise
        log.info("call %s: begun, %d of %d places taken", entry.call.call_id, len(self), self._places.most)
        return AnsweredOffer(entry.call.call_id, sdp, entry.resume_token)

    async def restart(
        self,
        call_id: str,
        offer: str,
        resume_token: str | None,
        address: str = "",
        *,
        page: str | None = None,
        take: bool = False,
    ) -> AnsweredOffer:
        """Put a new peer in place of the old one; the call, and what the model remembers of it, goes on. What another
        page has is taken over only with ``take``; that page is then told.

        Raises RequestError ``unknown_call``, ``token_missing``, ``token_wrong``, ``taken_over``, ``bad_sdp`` or
        ``no_audio``; the old peer then stays.

        The token is the same for as long as the call is: a new one with each restart would lock a caller out whose
        network failed between the restart and its answer, which is when restarts happen.
        """
        entry = self._find(call_id)
        if resume_token is None:
            raise RequestError("token_missing", "Send the resume_token that came with the call's first answer.")
        if not hmac.compare_digest(resume_token.encode(), entry.resume_token.encode()):
            raise RequestError("token_wrong", "This is not the call's resume_token.")
        checked = self._check(offer, address)
        async with entry.moving:
            moved = page is None or page != entry.page
            if page is not None and entry.page is not None and moved and not take:
                message = 'This call goes on on another page. Send "take": true to bring it here.'
                raise RequestError("taken_over", message)
            sdp = await self._connect(entry, checked, moved=moved)
            entry.page = page
        log.info("call %s: has a new peer", call_id)
        return AnsweredOffer(call_id, sdp, entry.resume_token)

    async def add_candidates(self, call_id: str, candidates: list[str], address: str = "") -> None:
        """Trickled candidates, as ``candidate:`` lines, of a caller at ``address``; those that cannot be its own are
        passed over. Raises RequestError ``unknown_call`` or ``bad_candidate``."""
        entry = self._find(call_id)
        parsed = [candidate for text in candidates if (candidate := parse_candidate(text))]
        reachable = self._reachable(address)
        usable = [candidate for candidate in parsed if reachable.includes(candidate)]
        entry.ignored += len(candidates) - len(usable)
        if entry.candidates + entry.ignored + len(usable) > MAX_CANDIDATES:
            raise RequestError("bad_candidate", f"A call takes {MAX_CANDIDATES} candidates at most.")
        entry.candidates += len(usable)
        for candidate in usable:
            if entry.peer is not None:
                await entry.peer.add_candidate(candidate)

    async def hang_up(self, call_id: str, reason: str = "hung_up") -> None:
        """End a call and wait until its place is free (but not for long, if its end is held up). Raises RequestError
        ``unknown_call``."""
        await asyncio.wait([self._end(self._find(call_id), reason)], timeout=HANG_UP_WAITS_S)

    @property
    def closing(self) -> bool:
        """Whether no more calls begin, since the server is being stopped."""
        return self._closing

    async def drain(self, within_s: float) -> None:
        """Begin no more calls. Each that is open ends when nothing is being said in it, at once or within ``within_s``;
        one that has to wait for that is told."""
        self._closing = True
        entries = list(self._calls.values())
        log.info("no more calls begin; %d end within %.0f s", len(entries), within_s)
        await asyncio.gather(*(self._drain(entry, within_s) for entry in entries))

    async def _drain(self, entry: OpenCall, within_s: float) -> None:
        await entry.say_the_last_word(within_s, "shutdown")
        await self._ended(entry, "shutdown")

    async def close(self, reason: str = "shutdown") -> None:
        """End all calls and wait until they are closed; no more begin."""
        self._closing = True
        for entry in list(self._calls.values()):
            self._end(entry, reason)
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def keep_in_step(self) -> None:
        """Compare calls and engine sessions again and again, until this is cancelled."""
        suspects: frozenset[EngineSession] = frozenset()
        while True:
            await asyncio.sleep(COMPARE_EVERY_S)
            try:
                suspects = await self._compare(suspects)
            except EngineError as error:
                log.debug("the engine does not tell its sessions: %s", error)

    async def _compare(self, suspects: frozenset[EngineSession]) -> frozenset[EngineSession]:
        """Close sessions that no call has, and end calls whose session is gone, if they were among the suspects
        before: what begins or ends just now is for a moment on one side only. Returns the suspects of this time."""
        calls = {entry.session: entry for entry in self._places.calls()}
        sessions = frozenset(await self._engine.sessions())
        strays = sessions - calls.keys()
        widowed = {session for session, entry in calls.items() if session not in sessions and not entry.ending}
        for session in strays & suspects:
            log.warning("a session of the engine belongs to no call; it is closed")
            await session.close()
        for session in widowed & suspects:
            log.warning("call %s: the engine has lost its session", calls[session].call.call_id)
            self._end(calls[session], "engine_lost")
        return frozenset(strays | widowed)

    # Beginning

    def _check(self, offer: str, address: str) -> Offer:
        if self._behind_turn:
            offer = self._reachable(address).filter(offer)
        return read_offer(offer, keep_candidates=self._behind_turn)

    @property
    def _behind_turn(self) -> bool:
        return any("turn" in str(server.urls) for server in self._peers.ice_servers)

    def _reachable(self, address: str) -> Reachable:
        return Reachable(address, frozenset(local_addresses()), self._behind_turn)

    def _config(self, options: Mapping[str, Any]) -> CallConfig:
        try:
            return self._defaults.updated(options)
        except OptionError as error:
            raise RequestError("bad_options", str(error)) from None

    def _require_running(self) -> None:
        if self._closing:
            message = "The server is being stopped and takes no new calls; try again in a minute."
            raise RequestError("shutting_down", message, retry_after=60)

    def _require_engine(self) -> None:
        if self._engine.info is None:
            raise RequestError(
                "not_ready", "The model is not ready yet; GET /ready tells when.", retry_after=RETRY_NOT_READY_S
            )

    async def _new_call(self, config: CallConfig, place: CallPlace) -> OpenCall:
        try:
            session = await self._engine.open(config.session_options())
        except EngineError as error:
            if error.code == "full":
                raise self._places.refuse(place) from error
            code = error.code if error.code in ("bad_options", "prompt_too_long") else "engine_failed"
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
            stop_words=self._understood(config) if engine is not None and engine.hears else None,
            resume_token=resume_token,
            resume_s=self._grace_s,
            recorded=tap is not None,
            on_end=lambda reason: self._end_by_id(call_id, reason),
        )
        entry = OpenCall(call, session, resume_token)
        if self._max_call_s:
            self._limit_time(entry)
        return entry

    def _understood(self, config: CallConfig) -> StopWords:
        self._stop_words.begin(words_of(config.turn.barge_in_words))
        return self._stop_words

    def _limit_time(self, entry: OpenCall) -> None:
        loop, limit_s = asyncio.get_running_loop(), self._max_call_s
        entry.timers = [
            loop.call_later(limit_s - notice_s, entry.call.announce_end, notice_s, "time_limit")
            for notice_s in notices_s(limit_s)
        ]
        entry.timers.append(loop.call_later(limit_s, self._end, entry, "time_limit"))

    async def _connect(self, entry: OpenCall, offer: Offer, *, moved: bool = False) -> str:
        """Answer the offer with a new peer and put it in place of the old one, which is told if the call has moved to
        another client."""
        peer = Peer(
            entry.call,
            entry.timeline,
            self._peers,
            lambda peer, why: self._peer_lost(entry, peer, why),
            lambda: self._end_by_id(entry.call.call_id, "message_flood"),
        )
        sdp = await peer.answer(offer)
        if entry.ending is not None:
            await peer.close()
            raise RequestError("unknown_call", "The call has ended while its offer was being answered.")
        entry.reached = entry.connected
        old, entry.peer = entry.peer, peer
        entry.candidates = entry.ignored = 0
        entry.stop_grace()
        if old is not None:
            entry.call.detach(moved=moved)
            self._soon(old.close(flush=moved))
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
        entry.grace = loop.call_later(grace_s, self._end, entry, "peer_lost")

    def _end_by_id(self, call_id: str, reason: str) -> None:
        if (entry := self._calls.get(call_id)) is not None:
            self._end(entry, reason)

    def _end(self, entry: OpenCall, reason: str) -> asyncio.Task[None]:
        """Begin to end a call, once. The task frees its place, and always ends."""
        if entry.ending is None:
            self._calls.pop(entry.call.call_id, None)
            entry.ending = self._soon(self._close(entry, reason))
        return entry.ending

    async def _ended(self, entry: OpenCall, reason: str) -> None:
        """End a call and wait for it; who waits may be cancelled, the end goes on."""
        await asyncio.shield(self._end(entry, reason))

    async def _close(self, entry: OpenCall, reason: str) -> None:
        try:
            await entry.close(reason)
        finally:
            length = time.monotonic() - entry.since
            self._places.ended(entry, length)
        ignored = f"; {entry.ignored} of its candidates were not tried" if entry.ignored else ""
        log.info("call %s: ended (%s) after %.0f s%s", entry.call.call_id, reason, length, ignored)

    def _soon(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a call could not be ended cleanly", exc_info=error)
