"""For every test that makes a live call and has the server record it: the recording replays to the same events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from app.replay.bundle import read_bundle
from app.replay.replay_call import replay_call
from engine.client import Engine
from engine.serving.scripted import ScriptedEngine
from tests.webrtc.caller import until


async def finished_recording(root: Path, call_id: str = "") -> Path:
    """The folder of the one recording below ``root`` (of this call), once it is complete."""

    def finished() -> list[Path]:
        return [path.parent for path in root.glob(f"*{call_id}/call.json") if path.parent.suffix != ".partial"]

    await until(finished, "the end of the recording")
    (folder,) = finished()
    return folder


def events_of(folder: Path) -> list[dict[str, Any]]:
    """The server's events that a recording holds."""
    return [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").split("\n") if line]


async def assert_replays_identically(folder: Path, engine: Engine | None = None) -> list[dict[str, Any]]:
    """Replay the finished recording in ``folder`` and return its events. ``engine`` is not started yet; the default
    is a scripted one without a script or delays."""
    engine = engine or ScriptedEngine()
    await engine.start()
    try:
        replayed = await replay_call(read_bundle(folder), engine)
    finally:
        await engine.stop()
    assert replayed.notes == []
    assert replayed.events == events_of(folder)
    return replayed.events
