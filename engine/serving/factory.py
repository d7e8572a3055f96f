"""Choose an engine from a few plain options. Imports no torch: the call's process calls this."""

from __future__ import annotations

from engine.client import Engine
from engine.serving.scripted import Script, ScriptedEngine
from engine.spec import MOST_CALLS_ON_CPU, EngineSpec


def create_engine(spec: EngineSpec) -> Engine:
    """The engine that ``spec`` describes, not started yet. Raises EngineError ``bad_options`` or ``load_failed``."""
    local = spec.kind == "scripted" if spec.in_process is None else spec.in_process
    if not local:
        from engine.serving.process import ProcessEngine

        return ProcessEngine(spec)
    if spec.kind == "scripted":
        return ScriptedEngine(Script.load(spec.script) if spec.script else None, spec.max_sessions or MOST_CALLS_ON_CPU)
    from engine.serving.live_engine import LiveEngine

    return LiveEngine(spec)
