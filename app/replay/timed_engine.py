"""An engine that is watched while a call is replayed: what was asked of it, and how long it took."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from engine.client import (
    ChatRequest,
    ChatStream,
    Chunk,
    Engine,
    EngineInfo,
    EngineSession,
    Prefilled,
    SessionOptions,
    Unit,
)


class TimedEngine:
    """Passes everything on, and notes for its newest session, by epoch, what it was asked for."""

    def __init__(self, engine: Engine, listener: Engine | None = None) -> None:
        """``listener`` is asked what somebody means, in place of an engine that has no ears."""
        self._engine = engine
        self._listener = listener or engine
        self.asked: set[int] = set()
        """Answers that it was asked for."""
        self.first_sound: dict[int, float] = {}
        """Seconds that each took to its first sound, the prefill before it included."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @property
    def info(self) -> EngineInfo | None:
        info = self._engine.info
        return info and replace(info, hears=self._listener.info is not None and self._listener.info.hears)

    def chat(self, request: ChatRequest) -> ChatStream:
        return self._listener.chat(request)

    async def open(self, options: SessionOptions) -> EngineSession:
        self.asked, self.first_sound = set(), {}
        return _TimedSession(await self._engine.open(options), self)


class _TimedSession:
    def __init__(self, session: EngineSession, notes: TimedEngine) -> None:
        self._session, self._notes = session, notes
        self._prefill_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def prefill(self, unit: Unit) -> Prefilled:
        begin = time.perf_counter()
        try:
            return await self._session.prefill(unit)
        finally:
            self._prefill_s = time.perf_counter() - begin

    async def generate(self, epoch: int) -> AsyncIterator[Chunk]:
        self._notes.asked.add(epoch)
        begin = time.perf_counter() - self._prefill_s
        async for chunk in self._session.generate(epoch):
            if len(chunk.pcm):
                self._notes.first_sound.setdefault(epoch, time.perf_counter() - begin)
            yield chunk
