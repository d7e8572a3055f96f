"""A whole call against the scripted engine, driven frame by frame in media time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import numpy as np

from app.call.call import Call
from app.call.config import CallConfig
from app.call.protocol import check_event
from engine.client import Chunk, EngineError, EngineSession, Prefilled, Unit
from engine.serving.scripted import Script, ScriptedEngine
from engine.spoken import Starts

QUIET = 1.0


class Log:
    """A tap that keeps everything, and checks every event against the schema."""

    def __init__(self) -> None:
        self.events: list[Mapping[str, Any]] = []
        self.inputs: list[tuple[Any, ...]] = []
        self.pcm: list[np.ndarray] = []

    def audio(self, pcm: np.ndarray) -> None:
        self.inputs.append(("audio", pcm))

    def unit_frame(self, t_samples: int, jpeg: bytes) -> None:
        self.inputs.append(("frame", t_samples, jpeg))

    def command(self, t_samples: int, raw: str) -> None:
        self.inputs.append(("command", raw))

    def result(self, t_samples: int, n: int) -> None:
        self.inputs.append(("result", n))

    def fault(self, t_samples: int, epoch: int | None, error: EngineError) -> None:
        self.inputs.append(("fault", epoch, error.code))

    def judged(self, t_samples: int, end: int, probability: float) -> None:
        self.inputs.append(("judged", end, probability))

    def meant(self, t_samples: int, end: int, stop: bool) -> None:
        self.inputs.append(("meant", end, stop))

    def played(self, t_samples: int, epoch: int, samples: int) -> None:
        self.inputs.append(("played", samples))

    def paused(self, t_samples: int) -> None:
        self.inputs.append(("paused",))

    def event(self, envelope: Mapping[str, Any]) -> None:
        if "resume_token" not in envelope["data"]:
            check_event(envelope)
        self.events.append(envelope)

    def speech(self, pcm: np.ndarray) -> None:
        self.pcm.append(pcm)

    def closed(self, reason: str) -> None:
        self.inputs.append(("closed",))


class Talk:
    """A call that is driven frame by frame."""

    def __init__(self, session: EngineSession, config: CallConfig, **more: Any) -> None:
        self.log = Log()
        self.ended: list[str] = []
        self.call = Call("test", config, session, self.log, on_end=self.ended.append, **more)
        self.wire: list[dict[str, Any]] = []
        self.call.attach(self._receive)

    def _receive(self, raw: str) -> None:
        self.wire.append(json.loads(raw))
        check_event(self.wire[-1])

    async def hear(self, sound: np.ndarray | float) -> None:
        pcm = np.zeros(round(sound * 16_000), np.int16) if isinstance(sound, float) else sound
        for begin in range(0, len(pcm) - 319, 320):
            self.call.microphone.push(pcm[begin : begin + 320], 16_000, self.call.t_samples)
            await self.call.idle()
            self.call.output.pull(480)

    async def send(self, kind: str, **data: Any) -> None:
        self.call.receive(json.dumps({"v": 1, "type": kind, "data": data}))
        await self.call.idle()

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [event for event in self.log.events if event["type"] == kind]

    @property
    def states(self) -> list[str]:
        return [event["data"]["state"] for event in self.of("turn.state")]

    @property
    def text(self) -> str:
        return "".join(event["data"]["delta"] for event in self.of("assistant.text"))


async def start(script: Script | None = None, options: dict[str, Any] | None = None, **more: Any) -> Talk:
    engine = ScriptedEngine(script)
    info = await engine.start()
    config = CallConfig.from_mapping(options or {})
    return Talk(await engine.open(config.session_options()), config, engine=info, **more)


class FailingSession:
    """A session whose requests go wrong in a given way."""

    def __init__(self, code: str, fault: Exception | None = None) -> None:
        self.fault = fault or EngineError(code, "It went wrong; try again.")
        self.is_closed = False

    async def prefill(self, unit: Unit) -> Prefilled:
        return Prefilled(1, 1, 100)

    async def generate(self, epoch: int) -> AsyncIterator[Chunk]:
        yield Chunk(epoch, 0, "one", np.ones(48_000, np.int16))
        raise self.fault

    async def check_text(self, text: str) -> None: ...

    async def cancel(self, epoch: int) -> None: ...

    async def heard(self, epoch: int, samples: int, read: int | None = None) -> None: ...

    async def rewind(self, units: int) -> None: ...

    async def remember(self, text: str, samples: int = 0, starts: Starts = ()) -> None: ...

    def watch(self, listener: Callable[[EngineError | None], None]) -> None:
        self.change = listener

    async def close(self) -> None:
        self.is_closed = True
