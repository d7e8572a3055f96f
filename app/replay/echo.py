"""Whether answers interrupt themselves: ``python -m app.replay.echo BUNDLE [BUNDLE …]``.

The bundles have a leak (:mod:`app.replay.leak`), and ``turns.jsonl`` says when a person talks into an answer
(:mod:`app.replay.turns`). They are replayed without and with the echo gate, and a table is printed, a row for each gain
of the leak. What cuts an answer off or pauses it while nobody talks is the answer's own echo.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from app.call.config import OptionError
from app.replay.bundle import Bundle, read_bundle
from app.replay.bundle_media import BundleError
from app.replay.replay_call import replay_call
from app.replay.turn_tally import ToBeHeard, read_turns
from engine.client import Engine, EngineError
from engine.serving.factory import create_engine
from engine.spec import EngineSpec

LATE_S = 0.6
"""What happens within this after a person has fallen silent is still put down to the person."""

HEADER = (
    "| leak, dB | gate | answers | cut off by themselves | paused by themselves | interruptions obeyed "
    "| pause p50 / p95, ms |\n|---|---|---|---|---|---|---|"
)


@dataclass(slots=True)
class EchoTally:
    """What became of the answers of calls with the same leak. Times are seconds."""

    answers: int = 0
    cut: int = 0
    paused: int = 0
    interruptions: int = 0
    obeyed: int = 0
    stops: list[float] = field(default_factory=list)

    def add(self, heard: Sequence[ToBeHeard], events: Sequence[Mapping[str, Any]]) -> None:
        """Count one call."""

        def by_person(t: float) -> bool:
            return any(one.begin_s < t < one.end_s + LATE_S for one in heard)

        self.answers += sum(event["type"] == "response.started" for event in events)
        pauses = [event for event in events if event["type"] == "response.paused"]
        cuts = [event for event in events if event["type"] == "response.done" and event["data"]["reason"] == "barge_in"]
        self.cut += len({event["epoch"] for event in cuts if not by_person(event["t"])})
        self.paused += len({event["epoch"] for event in pauses if not by_person(event["t"])})
        for one in heard:
            own = [event["t"] for event in cuts if one.begin_s < event["t"] < one.end_s + LATE_S]
            quiet = [event["t"] for event in pauses if one.begin_s < event["t"] < one.end_s + LATE_S]
            self.interruptions += 1
            self.obeyed += bool(own)
            self.stops += [min([*quiet, *own]) - one.begin_s] if own else []

    def row(self, gain_db: float, gate: str) -> str:
        """A line of the table."""
        stops = " / ".join(f"{1000 * np.percentile(self.stops, q):.0f}" for q in (50, 95)) if self.stops else "–"
        return " | ".join([
            f"| {gain_db:g}", gate, str(self.answers), _share(self.cut, self.answers),
            _share(self.paused, self.answers), _share(self.obeyed, self.interruptions), f"{stops} |",
        ])  # fmt: skip


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} % of {whole}" if whole else "–"


async def measure(bundles: Sequence[Bundle], engine: Engine, policy: Mapping[str, Any]) -> dict[float, EchoTally]:
    """Replay every bundle under ``policy``; tallies by the gain of the leak. Raises BundleError or EngineError."""
    tallies: dict[float, EchoTally] = {}
    for bundle in tqdm(bundles, leave=False, file=sys.stderr):
        if bundle.leak is None:
            raise BundleError(bundle.path, "has no leak", "say in call.json how the microphone hears the answers")
        config = bundle.config.updated(policy)
        replayed = await replay_call(replace(bundle, config=config, timing=None), engine)
        tallies.setdefault(bundle.leak.gain_db, EchoTally()).add(read_turns(bundle.path), replayed.events)
    return tallies


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 if a bundle is broken, an option wrong or the engine does not run."""
    options = _parser().parse_args(arguments)
    try:
        bundles = [read_bundle(path) for path in options.bundles]
        asyncio.run(_table(bundles, json.loads(options.policy), options))
    except (BundleError, EngineError, OptionError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


async def _table(bundles: Sequence[Bundle], policy: Mapping[str, Any], options: Any) -> None:
    kind: Literal["model", "scripted"] = "scripted" if options.engine == "scripted" else "model"
    engine = create_engine(EngineSpec(kind=kind, script=options.script, in_process=True))
    await engine.start()
    try:
        print(HEADER)
        for gate in (False, True):
            echo = {**policy.get("echo", {}), "gate": gate}
            for gain_db, tally in sorted((await measure(bundles, engine, {**policy, "echo": echo})).items()):
                print(tally.row(gain_db, "on" if gate else "off"), flush=True)
    finally:
        await engine.stop()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.replay.echo", description=__doc__.split("\n")[0])
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="folder of a call bundle with a leak")
    parser.add_argument("--policy", default="{}", help="options as JSON, the same in both")
    parser.add_argument("--engine", choices=("mini", "scripted"), default="mini", help="what answers [mini]")
    parser.add_argument("--script", metavar="FILE", help="JSON file with the answers of the scripted engine")
    return parser


if __name__ == "__main__":
    sys.exit(main())
