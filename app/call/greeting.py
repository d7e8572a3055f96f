"""The ``welcome`` of a call: what the client has to know about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.call.config import CallConfig
from app.call.protocol import MAX_MESSAGE_BYTES, MAX_TEXT_CHARS, VERSION
from engine.client import EngineInfo

CAPS = ("text", "push_to_talk", "barge_in", "resume", "hd_video")
SECRETS = ("resume_token", "recorded", "limits")
"""Members that belong to the connection, not to what a recording repeats."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What stays the same while a call lasts. ``resume_s`` is how long a lost client may take to come back, seconds."""

    call_id: str
    engine: EngineInfo | None = None
    resume_token: str | None = None
    resume_s: float | None = None
    recorded: bool = False

    def data(self, config: CallConfig, resumed: bool, answer: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Data of the event, with the options as they are now and how far the ``answer`` under way was played."""
        limits: dict[str, Any] = {
            "message_bytes": MAX_MESSAGE_BYTES,
            "text_chars": MAX_TEXT_CHARS,
            "turn_s": config.turn.max_turn_s,
        }
        if self.resume_s is not None:
            limits["resume_s"] = self.resume_s
        engine = self.engine
        data: dict[str, Any] = {
            "session": self.call_id,
            "protocol": VERSION,
            "resumed": resumed,
            "config": config.as_mapping(),
            "engine": {
                "name": engine.name if engine else "",
                "trained": engine.trained if engine else False,
                "hears": engine.hears if engine else False,
                "sees": engine.sees if engine else False,
                "note": engine.note if engine else "",
                "examples": list(engine.examples) if engine else [],
            },
            "caps": list(CAPS),
            "limits": limits,
            "recorded": self.recorded,
        }
        if answer is not None:
            data["answer"] = dict(answer)
        return data if self.resume_token is None else data | {"resume_token": self.resume_token}
