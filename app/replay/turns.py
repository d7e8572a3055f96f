"""How well turns are found: ``python -m app.replay.turns BUNDLE [BUNDLE …] --policy silence --policy smart_turn``.

A bundle for it also holds ``turns.jsonl``: what there is to be heard, an object a line with ``kind``, ``begin_s`` and
``end_s`` (media time):

================  ======================================================================================
``turn``          what a person means to say before they are answered, pauses included
``interruption``  speech during an answer that is meant to stop it; it is a turn as well
``sound``         a cough, an "mhm", a knock: neither is to be answered nor to stop an answer
================  ======================================================================================

For each policy (a name of :data:`POLICIES` or options as JSON) the calls are replayed and a table is printed. The gap
is media time from the end of a turn to the decision to answer it, and the time that the engine then still takes to its
first sample: measured here, less what it could do in the pause.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from tqdm import tqdm

from app.call.config import OptionError
from app.replay.bundle import Bundle, read_bundle
from app.replay.bundle_lines import read_lines
from app.replay.bundle_media import BundleError
from app.replay.replay_call import replay_call
from engine.client import Chunk, Engine, EngineError, EngineSession, Prefilled, SessionOptions, Unit
from engine.serving.factory import create_engine
from engine.spec import EngineSpec

Kind = Literal["turn", "interruption", "sound"]

POLICIES: Mapping[str, Mapping[str, Any]] = {
    "before": {
        "vad": {"kind": "webrtc", "lull_ms": 160, "end_silence_ms": 560},
        "turn": {
            "end_of_turn": "silence",
            "prepare": False,
            "hangover_ms": 200,
            "barge_in_pause_ms": 260,
            "barge_in_ms": 260,
            "barge_in_insist_ms": 0,
        },
    },
    "silence": {"turn": {"end_of_turn": "silence"}},
    "smart_turn": {"turn": {"end_of_turn": "smart_turn"}},
}
"""``before``: as it was when silence alone ended turns and every sound of 260 ms an answer."""

SLACK_S = 0.1
"""How far a decision may lie before the end of what was said: an end is where the last frame was loud."""
FOLLOWS_S = 1.5
"""What an answer begins or ends within this after a sound is put down to the sound."""


@dataclass(frozen=True, slots=True)
class ToBeHeard:
    """Something that there is to be heard in a bundle, seconds of media time."""

    kind: Kind
    begin_s: float
    end_s: float


@dataclass(slots=True)
class Tally:
    """What became of all that was to be heard. Times are seconds."""

    turns: int = 0
    cut_off: int = 0
    unanswered: int = 0
    gaps: list[float] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)
    interruptions: int = 0
    obeyed: int = 0
    stops: list[float] = field(default_factory=list)
    sounds: int = 0
    survived: int = 0
    false_answers: int = 0
    minutes: float = 0.0


class TimedEngine:
    """An engine that notes how long each answer took to its first sound, and each prefill before it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.first_sound: dict[int, float] = {}
        """Seconds by epoch, of the newest session."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def open(self, options: SessionOptions) -> EngineSession:
        self.first_sound = {}
        return _TimedSession(await self._engine.open(options), self.first_sound)


class _TimedSession:
    def __init__(self, session: EngineSession, first_sound: dict[int, float]) -> None:
        self._session, self._first_sound = session, first_sound
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
        begin = time.perf_counter() - self._prefill_s
        async for chunk in self._session.generate(epoch):
            if len(chunk.pcm):
                self._first_sound.setdefault(epoch, time.perf_counter() - begin)
            yield chunk


def read_turns(folder: Path) -> tuple[ToBeHeard, ...]:
    """What ``turns.jsonl`` of a bundle says is to be heard, in order. Raises BundleError."""
    path = folder / "turns.jsonl"
    if not path.is_file():
        raise BundleError(path, "is missing", "say in it what there is to be heard")
    heard = []
    for number, line in read_lines(path):
        try:
            one = ToBeHeard(line["kind"], float(line["begin_s"]), float(line["end_s"]))
        except (KeyError, TypeError, ValueError):
            raise BundleError(path, f"line {number} lacks kind, begin_s or end_s", "correct that line") from None
        if one.kind not in get_args(Kind) or not 0 <= one.begin_s < one.end_s:
            raise BundleError(path, f"line {number} is no sound that can be heard", "correct that line")
        heard.append(one)
    return tuple(sorted(heard, key=lambda one: one.begin_s))


def count(heard: Sequence[ToBeHeard], events: Sequence[Mapping[str, Any]], engine: Mapping[int, float], tally: Tally,
          wait_s: float) -> None:  # fmt: skip
    """Add one call to ``tally``. ``engine`` has the seconds to the first sound by epoch; ``wait_s`` of them a prepared
    answer has had when the turn ends at its earliest."""
    begun = [event for event in events if event["type"] == "response.started"]
    ended = [event for event in events if event["type"] == "response.done"]
    paused = [event for event in events if event["type"] == "response.paused"]
    answers = list(begun)
    for one in heard:
        if one.kind == "sound":
            tally.sounds += 1
            window = [e for e in [*begun, *ended] if one.begin_s < e["t"] < one.end_s + FOLLOWS_S]
            caused = [e for e in window if e["type"] == "response.started" or e["data"]["status"] == "cancelled"]
            tally.survived += not caused
            continue
        if one.kind == "interruption":
            tally.interruptions += 1
            stopped = [e for e in ended if one.begin_s < e["t"] < one.end_s + SLACK_S]
            tally.obeyed += any(e["data"]["reason"] == "barge_in" for e in stopped)
            quiet = [e["t"] for e in [*paused, *stopped] if one.begin_s < e["t"] < one.end_s + SLACK_S]
            tally.stops += [min(quiet) - one.begin_s] if quiet else []
        tally.turns += 1
        early = [e for e in answers if one.begin_s < e["t"] < one.end_s - SLACK_S]
        after = [e for e in answers if e["t"] >= one.end_s - SLACK_S]
        tally.cut_off += bool(early)
        tally.unanswered += not after and not early
        if after and not early:
            gap, epoch = after[0]["t"] - one.end_s, after[0]["epoch"]
            took = engine.get(epoch, 0.0)
            tally.gaps.append(gap + max(0.0, took - max(0.0, gap - wait_s)))
            tally.engine.append(took)
        answers = [e for e in answers if e not in early and e not in after[:1]]
    tally.false_answers += len(answers)


async def measure(bundles: Iterable[Bundle], engine: TimedEngine, policy: Mapping[str, Any]) -> Tally:
    """Replay every bundle under ``policy``. Raises BundleError, EngineError or OptionError."""
    tally = Tally()
    for bundle in tqdm(list(bundles), leave=False, file=sys.stderr):
        config = bundle.config.updated(policy)
        replayed = await replay_call(replace(bundle, config=config, timing=None), cast(Engine, engine))
        prepares = config.turn.prepare
        wait_s = config.vad.lull_ms / 1000 if prepares else 1e9
        count(read_turns(bundle.path), replayed.events, engine.first_sound, tally, wait_s)
        tally.minutes += replayed.seconds / 60
    return tally


def row(name: str, tally: Tally) -> str:
    """A line of the table."""

    def share(part: int, whole: int) -> str:
        return f"{100 * part / whole:.0f} % of {whole}" if whole else "–"

    def quantiles(values: Sequence[float], *at: int) -> str:
        return " / ".join(f"{1000 * np.percentile(values, q):.0f}" for q in at) if values else "–"

    return " | ".join([
        f"| {name}", quantiles(tally.gaps, 50, 90, 95), share(tally.cut_off, tally.turns),
        share(tally.unanswered, tally.turns), share(tally.obeyed, tally.interruptions), quantiles(tally.stops, 50, 95),
        share(tally.survived, tally.sounds), f"{tally.false_answers / max(tally.minutes, 1e-9):.1f} |",
    ])  # fmt: skip


HEADER = (
    "| policy | gap p50 / p90 / p95, ms | cut off | not answered | interruptions obeyed | pause p50 / p95, ms "
    "| sounds survived | false answers a minute |\n|---|---|---|---|---|---|---|---|"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 if a bundle is broken, an option wrong or the engine does not run."""
    options = _parser().parse_args(arguments)
    try:
        bundles = [read_bundle(path) for path in options.bundles]
        policies = {
            text: POLICIES[text] if text in POLICIES else json.loads(text) for text in options.policy or list(POLICIES)
        }
        print(HEADER)
        asyncio.run(_table(bundles, policies, options))
    except (BundleError, EngineError, OptionError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


async def _table(bundles: Sequence[Bundle], policies: Mapping[str, Mapping[str, Any]], options: Any) -> None:
    kind: Literal["model", "scripted"] = "scripted" if options.engine == "scripted" else "model"
    spec = EngineSpec(kind=kind, script=options.script, in_process=True)
    engine = TimedEngine(create_engine(spec))
    await engine.start()
    try:
        for name, policy in policies.items():
            print(row(name, await measure(bundles, engine, policy)), flush=True)
    finally:
        await engine.stop()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.replay.turns", description=__doc__.split("\n")[0])
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="folder of a call bundle with turns.jsonl")
    parser.add_argument("--policy", action="append", help="a name or options as JSON [all that have a name]")
    parser.add_argument("--engine", choices=("mini", "scripted"), default="mini", help="what answers [mini]")
    parser.add_argument("--script", metavar="FILE", help="JSON file with the answers of the scripted engine")
    return parser


if __name__ == "__main__":
    sys.exit(main())
