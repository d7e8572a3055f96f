"""Replay call bundles and score them: ``python -m app.replay BUNDLE [BUNDLE …]``.

On stdout comes what does not depend on the machine's speed, so that two runs are byte-identical: for one bundle its
event log, an event a line; for several a table and then a line of JSON with the share of the passed expectations; with
``--json`` that JSON alone. Progress and remarks go to stderr.

Exit status: 0 if all expectations hold, 1 if one does not, 2 if a bundle is broken or the engine does not run. A broken
bundle does not keep the others from being replayed; its expectations count as failed where they can be read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from app.call.protocol import encode
from app.replay.bundle import read_bundle, read_expectations
from app.replay.bundle_media import BundleError
from app.replay.expect import Outcome, Verdict, check
from app.replay.replay_call import MAX_TAIL_S, Replayed, replay_call
from app.text import printable
from engine.client import Engine, EngineError
from engine.serving.factory import create_engine
from engine.spec import EngineSpec


@dataclass(slots=True)
class Result:
    """What became of one bundle."""

    name: str
    replayed: Replayed = field(default_factory=Replayed)
    verdicts: list[Verdict] = field(default_factory=list)
    fault: str | None = None
    """Why it was not replayed, in a sentence."""

    @property
    def passed(self) -> int:
        return sum(verdict.passed for verdict in self.verdicts)

    def as_json(self, events: bool = False) -> dict[str, Any]:
        """The bundle's part of the summary; ``events`` adds its event log."""
        turns = Outcome.from_events(self.replayed.events).turns.values()
        summary = {
            "bundle": self.name,
            "fault": self.fault,
            "notes": self.replayed.notes,
            "seconds": self.replayed.seconds,
            "turns": [
                {"turn": turn.turn, "end_s": turn.end_s, "status": turn.status, "text": turn.text}
                for turn in sorted(turns, key=lambda turn: turn.turn)
            ],
            "expectations": [verdict.as_json() for verdict in self.verdicts],
            "passed": self.passed,
            "total": len(self.verdicts),
        }
        return summary | {"events": self.replayed.events} if events else summary


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How to replay."""

    engine: EngineSpec = field(default_factory=EngineSpec)
    real_time: bool = False
    out: Path | None = None
    max_tail_s: float = MAX_TAIL_S


async def replay_bundles(paths: Sequence[tuple[str, Path]], options: ReplayOptions) -> list[Result]:
    """Replay bundles, given as (name, folder), one after the other with one engine. Raises EngineError if that does
    not start."""
    engine = create_engine(options.engine)
    info = await engine.start()
    try:
        _tell(f"engine {info.name}{'' if info.trained else ' (untrained)'}")
        return [await _replay_bundle(name, path, engine, options) for name, path in paths]
    finally:
        await engine.stop()


async def _replay_bundle(name: str, path: Path, engine: Engine, options: ReplayOptions) -> Result:
    result = Result(name)
    begun = time.monotonic()
    folder = options.out / name if options.out is not None else None
    try:
        bundle = read_bundle(path)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        result.replayed = await replay_call(
            bundle,
            engine,
            answer=folder / "answer.wav" if folder is not None else None,
            real_time=options.real_time,
            max_tail_s=options.max_tail_s,
        )
        result.verdicts = check(bundle.expectations, Outcome.from_events(result.replayed.events))
    except BundleError as error:
        result.fault = str(error)
    except EngineError as error:
        result.fault = f"{printable(path)} could not be replayed: {error.message}"
    if result.fault is not None:
        result.verdicts = _all_failed(path)
    if folder is not None and result.fault is None:
        (folder / "events.jsonl").write_text(
            "".join(encode(event) + "\n" for event in result.replayed.events), encoding="utf-8"
        )
        (folder / "result.json").write_text(_pretty(result.as_json()), encoding="utf-8")
    _report(result, time.monotonic() - begun)
    return result


def _all_failed(path: Path) -> list[Verdict]:
    try:
        return [Verdict(expectation, False, "not replayed") for expectation in read_expectations(path)]
    except BundleError:
        return []


def _report(result: Result, wall_s: float) -> None:
    if result.fault is not None:
        _tell(result.fault)
        return
    seconds = result.replayed.seconds
    speed = f"{seconds:.1f} s of call in {wall_s:.1f} s ({seconds / wall_s:.1f} times real time)"
    score = f", {result.passed} of {len(result.verdicts)} expectations hold" if result.verdicts else ""
    _tell(f"{result.name}: {speed}{score}")
    for note in result.replayed.notes:
        _tell(f"  note: {note}")
    for verdict in result.verdicts:
        if not verdict.passed:
            _tell(f"  failed, line {verdict.expectation.line}: {verdict.expectation}; found {verdict.found}")


def summary(results: Sequence[Result], events: bool = False) -> dict[str, Any]:
    """All results as one JSON object; ``share`` is None without expectations."""
    passed, total = sum(r.passed for r in results), sum(len(r.verdicts) for r in results)
    return {
        "bundles": [result.as_json(events) for result in results],
        "passed": passed,
        "total": total,
        "share": round(passed / total, 6) if total else None,
    }


def table(results: Sequence[Result]) -> str:
    """One line per bundle: seconds, turns answered, expectations passed, and the first answer or the fault."""
    rows = [("bundle", "seconds", "turns", "passed", "answers")]
    for result in results:
        answered = Outcome.from_events(result.replayed.events).answered
        said = " / ".join(turn.text.strip() or "(nothing)" for turn in answered)
        rows.append((
            result.name,
            f"{result.replayed.seconds:.1f}",
            str(len(answered)),
            f"{result.passed}/{len(result.verdicts)}",
            f"BROKEN: {result.fault}" if result.fault is not None else said if len(said) <= 60 else f"{said[:59]}…",
        ))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  " + "  ".join(f"{row[i]:>{widths[i]}}" for i in (1, 2, 3)) + f"  {row[4]}"
        for row in rows
    )


def exit_status(results: Sequence[Result]) -> int:
    """0: all expectations hold; 1: one does not; 2: a bundle is broken."""
    if any(result.fault is not None for result in results):
        return 2
    return int(any(not verdict.passed for result in results for verdict in result.verdicts))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(arguments)
    try:
        options = ReplayOptions(
            EngineSpec(
                kind="scripted" if args.engine == "scripted" else "model",
                model=args.model,
                transcriber=args.transcribe,
                device=args.device,
                max_sessions=1,
                context=args.context,
                script=args.script,
            ),
            real_time=args.speed == "1",
            out=args.out,
            max_tail_s=args.tail,
        )
        results = _run(_named(args.bundles), options, args.jobs)
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / "summary.json").write_text(_pretty(summary(results)), encoding="utf-8")
    except EngineError as error:
        _tell(error.message)
        return 2
    except OSError as error:
        _tell(f"{error.filename}: {error.strerror}; see to that path.")
        return 2
    except KeyboardInterrupt:
        return 130
    try:
        _print(results, as_json=args.json, events=args.events)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return exit_status(results)


def _print(results: Sequence[Result], *, as_json: bool, events: bool) -> None:
    if as_json:
        print(_pretty(summary(results, events or len(results) == 1)), end="")
    elif len(results) == 1:
        for event in results[0].replayed.events:
            print(encode(event))
    else:
        print(table(results))
        print(encode(summary(results, events)))


def _run(bundles: list[tuple[str, Path]], options: ReplayOptions, jobs: int) -> list[Result]:
    """Replay in ``jobs`` processes with an engine each, so that no call's batch depends on another's."""
    jobs = min(jobs, len(bundles))
    if jobs <= 1:
        return asyncio.run(replay_bundles(bundles, options))
    shares = [bundles[first::jobs] for first in range(jobs)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        done = list(pool.map(_run_share, shares, [options] * jobs))
    by_name = {result.name: result for share in done for result in share}
    return [by_name[name] for name, _ in bundles]


def _run_share(bundles: list[tuple[str, Path]], options: ReplayOptions) -> list[Result]:
    return asyncio.run(replay_bundles(bundles, options))


def _named(paths: Sequence[str]) -> list[tuple[str, Path]]:
    """A name of its own for each bundle: its folder's, with a number where two folders are called the same."""
    named: dict[str, Path] = {}
    for text in paths:
        base = name = printable(Path(text).resolve().name)
        number = 2
        while name in named:
            name, number = f"{base}-{number}", number + 1
        named[name] = Path(text)
    return list(named.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m app.replay",
        description="Replay call bundles through the call and its engine, print what happens and score it.",
        epilog="Exit status: 0 if all expectations hold, 1 if one does not, 2 if a bundle is broken.",
    )
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="folder of a call bundle")
    parser.add_argument("--engine", choices=("mini", "scripted"), default="mini", help="what answers [mini]")
    parser.add_argument("--model", metavar="DIR", help="folder of a checkpoint in place of the shipped mini")
    parser.add_argument("--transcribe", metavar="DIR", help="folder of ears that read, as TRANSCRIBE=small has them")
    parser.add_argument("--device", default="auto", help="where the model runs: auto, cpu, mps, cuda or cuda:N [auto]")
    parser.add_argument("--context", type=int, default=8_192, metavar="N", help="CONTEXT of the server [8192]")
    parser.add_argument("--script", metavar="FILE", help="JSON file with the answers of the scripted engine")
    parser.add_argument("--speed", choices=("max", "1"), default="max", help="as fast as possible, or as spoken [max]")
    parser.add_argument(
        "--tail", type=_seconds, default=MAX_TAIL_S, metavar="S",
        help="silence that follows the audio at most, for the last answer [120]",
    )  # fmt: skip
    parser.add_argument("--jobs", type=_jobs, default=1, metavar="N", help="processes, each with its engine [1]")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write events, answer and result of each bundle there")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--events", action="store_true", help="put the event logs of several bundles into it as well")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 3600:
        raise ValueError
    return value


def _jobs(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 64:
        raise ValueError
    return value


def _pretty(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
