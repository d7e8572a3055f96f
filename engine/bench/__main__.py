"""``python -m engine.bench``: the engine against the reference pattern, on the same weights, in one run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from engine.bench.measure import Timing
from engine.bench.sections import Bench
from engine.checkpoint.loader import LoadedModel
from engine.serving.live_engine import load
from engine.spec import EngineSpec

CPU_TARGETS = {"request to first sound": ("ratio", 2.5), "codes and wave": ("ours", 0.3)}
"""At one session and mini's size: a ratio to reach, or a value to stay below. Before the first sound the reference
pattern draws fifty codes; on a CPU a call's first block has twenty (``SAFE_PACE``)."""


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    if options.simulate:
        from engine.bench import simulation

        return simulation.main(options)
    torch.set_num_threads(options.threads)
    if options.full:
        from engine.bench.full import random_model

        loaded = random_model(torch.device(options.device if options.device != "auto" else "cuda"))
    else:
        spec = EngineSpec(
            model=options.model, untrained=options.untrained, device=options.device, threads=options.threads
        )
        model = load(spec)
        if not isinstance(model, LoadedModel):
            raise SystemExit(f"{options.model} takes no calls; the benchmark is of calls")
        loaded = model
    machine = _machine(loaded, options)
    print(machine["line"])
    rows: list[Timing] = []
    for section in Bench(loaded, options.sessions, options.repeats, options.clock).sections():
        if not rows:
            print(f"{'section':<20} {'what':<25} {'sessions':>8} {'ours':>9} {'p95':>9} {'reference':>10}       ratio")
        rows += section
        for line in section:
            print(_line(line), flush=True)
        if options.json:
            options.json.write_text(json.dumps(machine | {"rows": [line.as_json() for line in rows]}, indent=1) + "\n")
    if loaded.model.device.type == "cpu" and not options.full:
        _targets(rows)
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m engine.bench", description=__doc__)
    parser.add_argument("--model", help="a model directory (default: the shipped mini)")
    parser.add_argument("--untrained", action="store_true", help="random weights of the model's sizes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1, one core)")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: for a machine with other work")
    parser.add_argument("--full", action="store_true", help="official sizes with random weights, on a GPU")
    parser.add_argument(
        "--json", type=Path, nargs="?", const=Path("-"), metavar="FILE",
        help="written anew after every section; of a simulation, without FILE, one object a line",
    )  # fmt: skip
    simulation = parser.add_argument_group(
        "simulation", "many calls on one card, in virtual time, at the official size"
    )
    simulation.add_argument("--simulate", action="store_true", help="instead of measuring")
    simulation.add_argument("--calls", type=int, nargs="+", default=[1, 4, 16, 32, 64, 96])
    simulation.add_argument("--cards", nargs="+", choices=["H100", "H200"], default=["H100", "H200"])
    simulation.add_argument("--seconds", type=float, default=60.0, help="of 16 calls or more; of fewer, more")
    simulation.add_argument("--aligned", action="store_true", help="every call's second begins at the same moment")
    options = parser.parse_args(arguments)
    if options.json == Path("-") and not options.simulate:
        parser.error("--json needs a FILE, but with --simulate")
    if min(*options.calls, options.seconds) <= 0:
        parser.error("--calls and --seconds must be above 0")
    if options.full and not (options.device.startswith("cuda") or torch.cuda.is_available()):
        parser.error("--full needs a CUDA device, and there is none here")
    if min(*options.sessions, options.repeats, options.threads) < 1:
        parser.error("--sessions, --repeats and --threads must be at least 1")
    return options


def _machine(loaded: LoadedModel, options: argparse.Namespace) -> dict[str, Any]:
    device = loaded.model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    load = os.getloadavg()[0]
    facts = {
        "date": time.strftime("%Y-%m-%d"), "device": str(device), "hardware": name, "torch": torch.__version__,
        "threads": options.threads, "clock": options.clock, "load_before": round(load, 2),
        "parameters": loaded.parameters, "trained": loaded.trained, "dtype": str(loaded.model.dtype),
    }  # fmt: skip
    line = (
        f"{loaded.parameters / 1e6:.0f} M weights ({'trained' if loaded.trained else 'untrained'}), {facts['dtype']}, "
        f"{device} ({name}), {options.threads} thread(s), {options.clock} clock, load {load:.1f}, {facts['date']}"
    )
    return {**facts, "line": line}


def _line(row: Timing) -> str:
    reference = "" if row.reference is None else f"{row.reference:.2f}"
    ratio = "" if row.ratio is None else f"{row.ratio:.1f}x"
    ours = f"{row.ours:>9.2f} {row.ours_p95:>9.2f}"
    return f"{row.section:<20} {row.what:<25} {row.sessions:>8} {ours} {reference:>10} {row.unit:<4} {ratio:>6}"


def _targets(rows: list[Timing]) -> None:
    for row in rows:
        if row.sessions == 1 and (target := CPU_TARGETS.get(row.what)):
            kind, limit = target
            value = row.ratio if kind == "ratio" else row.ours
            held = value is not None and (value >= limit if kind == "ratio" else value < limit)
            sign = "at least" if kind == "ratio" else "below"
            print(f"target: {row.what} {kind} {sign} {limit:g}: {value:.2f} - {'held' if held else 'MISSED'}")


if __name__ == "__main__":
    sys.exit(main())
