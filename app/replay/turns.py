"""How well turns are found: ``python -m app.replay.turns BUNDLE [BUNDLE …] --policy silence --policy smart_turn``.

The bundles say in ``turns.jsonl`` what there is to be heard (:mod:`app.replay.turn_tally`). For each policy (a name of
:data:`POLICIES` or options as JSON) the calls are replayed, and tables are printed. The gap is media time from the end
of a turn to the decision to answer it, and the time that the engine then still takes to its first sample: measured
here, less what it could do in the pause.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from tqdm import tqdm

from app.call.config import OptionError
from app.call.stop_words import StopWords
from app.replay.bundle import Bundle, read_bundle
from app.replay.bundle_media import BundleError
from app.replay.replay_call import replay_call
from app.replay.timed_engine import TimedEngine
from app.replay.turn_tally import Count, Tally, count, read_turns
from engine.client import Engine, EngineError
from engine.serving.factory import create_engine
from engine.spec import EngineSpec

BEFORE = {
    "vad": {"kind": "webrtc", "onset_ms": 100, "lull_ms": 160, "end_silence_ms": 560},
    "turn": {
        "end_of_turn": "silence", "prepare": False, "hangover_ms": 200,
        "barge_in_pause_ms": 260, "barge_in_ms": 260, "barge_in_insist_ms": 0,
    },
}  # fmt: skip
"""As it was when silence alone ended turns and every sound of 260 ms an answer."""

POLICIES: Mapping[str, Mapping[str, Any]] = {
    "before": BEFORE,
    "silence": {"turn": {"end_of_turn": "silence"}},
    "smart_turn": {"turn": {"end_of_turn": "smart_turn"}},
    "model": {"turn": {"end_of_turn": "model"}},
    "both": {"turn": {"end_of_turn": "both"}},
}


async def measure(bundles: Iterable[Bundle], engine: TimedEngine, policy: Mapping[str, Any]) -> Tally:
    """Replay every bundle under ``policy``. Raises BundleError, EngineError or OptionError."""
    tally = Tally()
    stop_words = StopWords(cast(Engine, engine)) if engine.info is not None and engine.info.hears else None
    for bundle in tqdm(list(bundles), leave=False, file=sys.stderr):
        config = bundle.config.updated(policy)
        replayed = await replay_call(
            replace(bundle, config=config, timing=None), cast(Engine, engine), stop_words=stop_words
        )
        prepares = config.turn.prepare
        wait_s = config.vad.lull_ms / 1000 if prepares else 1e9
        count(read_turns(bundle.path), replayed.events, engine.first_sound, tally, wait_s)
        tally.minutes += replayed.seconds / 60
        shown = {event["epoch"] for event in replayed.events if event["type"] == "response.started"}
        tally.drafts_dropped += len(engine.asked - shown)
        tally.drafts_kept += len(engine.asked & shown) if prepares else 0
    return tally


def tables(tallies: Mapping[str, Tally]) -> str:
    """What there is to tell of each policy, in Markdown."""
    turns = ["policy | gap p50 / p90 / p95, ms | cut off | not answered | drafts kept, dropped"]
    interruptions = ["policy | pause p50 / p95, from the first voiced sample | from the first sound | decided after | "
                     "obeyed | overlaps"]  # fmt: skip
    sounds = ["policy | an answer survived | alone, not answered | false answers a minute"]
    for name, tally in tallies.items():
        drafts = f"{tally.drafts_kept}, {tally.drafts_dropped}" if tally.drafts_kept + tally.drafts_dropped else "–"
        turns.append(" | ".join([
            name, _quantiles(tally.gaps, 50, 90, 95), _share(tally.cut_off), _share(tally.unanswered), drafts,
        ]))  # fmt: skip
        interruptions.append(" | ".join([
            name, _quantiles(tally.voiced_pauses, 50, 95), _quantiles(tally.pauses, 50, 95),
            _quantiles(tally.stops, 50, 95), _shares(tally.obeyed), _share(tally.overlaps),
        ]))  # fmt: skip
        false = f"{tally.false_answers / max(tally.minutes, 1e-9):.1f}"
        sounds.append(" | ".join([name, _shares(tally.survived), _shares(tally.alone), false]))
    return "\n\n".join(_table(rows) for rows in (turns, interruptions, sounds))


def _table(rows: Sequence[str]) -> str:
    rule = "|---" * (rows[0].count("|") + 1) + "|"
    head, *body = (f"| {row} |" for row in rows)
    return "\n".join([head, rule, *body])


def _share(counted: Count) -> str:
    return f"{100 * counted.part / counted.whole:.0f} % of {counted.whole}" if counted.whole else "–"


def _shares(counts: Mapping[str, Count]) -> str:
    return ", ".join(f"{what} {_share(counted)}" for what, counted in sorted(counts.items())) or "–"


def _quantiles(values: Sequence[float], *at: int) -> str:
    return " / ".join(f"{1000 * np.percentile(values, q):.0f}" for q in at) if values else "–"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 if a bundle is broken, an option wrong or the engine does not run."""
    options = _parser().parse_args(arguments)
    try:
        bundles = [read_bundle(path) for path in options.bundles]
        policies = {
            text: POLICIES[text] if text in POLICIES else json.loads(text) for text in options.policy or list(POLICIES)
        }
        print(tables(asyncio.run(_measure_all(bundles, policies, options))))
    except (BundleError, EngineError, OptionError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


async def _measure_all(
    bundles: Sequence[Bundle], policies: Mapping[str, Mapping[str, Any]], options: Any
) -> dict[str, Tally]:
    kind: Literal["model", "scripted"] = "scripted" if options.engine == "scripted" else "model"
    engine = create_engine(EngineSpec(kind=kind, model=options.model, script=options.script, in_process=True))
    listener = create_engine(EngineSpec(kind="model", in_process=True)) if options.listener else engine
    for one in {engine, listener}:
        await one.start()
    timed = TimedEngine(engine, listener)
    try:
        return {name: await measure(bundles, timed, policy) for name, policy in policies.items()}
    finally:
        for one in {engine, listener}:
            await one.stop()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.replay.turns", description=__doc__.split("\n")[0])
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE", help="folder of a bundle with turns.jsonl")
    parser.add_argument("--policy", action="append", help="a name or options as JSON [all that have a name]")
    parser.add_argument("--engine", choices=("mini", "scripted"), default="mini", help="what answers [mini]")
    parser.add_argument("--model", metavar="DIR", help="folder of a checkpoint in place of the shipped mini")
    parser.add_argument("--listener", choices=("mini",), help="what is asked for the meaning of a word [the engine]")
    parser.add_argument("--script", metavar="FILE", help="JSON file with the answers of the scripted engine")
    return parser


if __name__ == "__main__":
    sys.exit(main())
