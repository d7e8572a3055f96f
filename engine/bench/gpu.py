"""``make bench-gpu``: the official size with random weights on one card, against what the card can give.

    python -m engine.bench.gpu [--out FOLDER] [--seconds 560] [--smoke] [--plan] [--device cuda] [--quantize int4]

Sections, the most telling first: the card's ceilings, memory, a scripted turn, text, speech, calls that come at their
own times, prefill, the senses, waves. What has a reference pattern runs in turns with it. Every row goes to
``bench-gpu.json`` when it is there, and to a table. ``--seconds`` bounds all of it: what finds no time is left out, and
a section that fails is reported and does not stop the others. ``--smoke`` runs everything small, and on a CPU in
mini's size: it finds faults, its figures mean nothing. ``--plan`` needs no card: sizes and shapes of the official model
on ``meta``, and what bounds each stage. ``--quantize`` measures what other weights of the language model change.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from engine.bench.costs import BOUND, FUSED, Card, Costs
from engine.bench.full import random_model
from engine.bench.gpu_load import load
from engine.bench.gpu_stages import Stage, stages
from engine.bench.measure import Stopwatch, Timing, in_turns
from engine.bench.memory import weight_bytes
from engine.bench.plan import print_plan
from engine.bench.sections import Bench
from engine.checkpoint.loader import LoadedModel, build_untrained
from engine.config import OmniConfig
from engine.conversation.storage import CONTEXTS, session_bytes, sessions_that_fit
from engine.serving.live_engine import MINI
from engine.spec import QUANTIZATIONS

CALLS = (1, 4, 16, 32, 64, 96)


@dataclass(frozen=True, slots=True)
class Line:
    """One row. ``ours`` and ``reference`` are medians in ``unit``."""

    section: str
    what: str
    sessions: int
    unit: str
    ours: float
    p95: float | None = None
    reference: float | None = None
    bound: float | None = None
    """What the card's measured ceilings allow at best."""

    @property
    def distance(self) -> float | None:
        """How many times as much as the bound."""
        return None if not self.bound else self.ours / self.bound


class Report:
    """The rows so far, on the screen and in a file."""

    def __init__(self, out: Path, facts: dict[str, Any]) -> None:
        self._path, self._facts = out / "bench-gpu.json", facts
        self.lines: list[Line] = []
        self.failed: list[str] = []
        """Sections that came to an error."""
        out.mkdir(parents=True, exist_ok=True)
        print(facts["line"])
        numbers = f"{'ours':>10} {'p95':>10} {'reference':>10} {'bound':>9}"
        print(f"{'section':<10} {'what':<30} {'sessions':>8} {numbers} unit")

    def add(self, line: Line) -> None:
        self.lines.append(line)
        numbers = [_number(value) for value in (line.p95, line.reference, line.bound)]
        times = "" if line.distance is None else f"{line.distance:.1f}x bound"
        print(
            f"{line.section:<10} {line.what:<30} {line.sessions:>8} {_number(line.ours):>10} {numbers[0]:>10} "
            f"{numbers[1]:>10} {numbers[2]:>9} {line.unit:<7} {times}",
            flush=True,
        )
        rows = [asdict(line) | {"distance": line.distance} for line in self.lines]
        self._path.write_text(json.dumps(self._facts | {"rows": rows}, indent=1) + "\n")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


Section = Callable[[], Iterator[Line]]


class GpuBench:
    """A loaded model, and everything that is measured of it."""

    def __init__(self, loaded: LoadedModel, *, smoke: bool, quantize: str = "none") -> None:
        """A model that was loaded with ``quantize`` has no reference pattern, and no bound."""
        self.loaded, self.smoke, self.quantize = loaded, smoke, quantize
        self.device = loaded.model.device
        self.watch = Stopwatch("wall", self.device)
        self.card = Card("this card", 0.0, 0.0)
        self._bench: Bench | None = None

    def sections(self) -> Iterator[tuple[str, Section]]:
        if self.quantize != "none":
            yield from self.sections_of_quantized()
            return
        yield "ceilings", self.ceilings
        yield "memory", self.memory
        yield "turn", lambda: self.paired("turn", Bench.first_audio, [1], 20)
        yield "text", lambda: self.paired("text", Bench.text, self.sizes)
        yield "decode", lambda: self.stages("decode")
        yield "speech", lambda: self.paired("speech", Bench.speech, self.sizes)
        yield "calls", self.calls
        yield "prefill", lambda: self.paired("prefill", Bench.prefill, self.sizes[:3])
        yield "feed", lambda: self.stages("feed")
        yield "senses", lambda: self.stages("senses")
        yield "wave", lambda: self.paired("wave", Bench.vocoder, self.sizes[:3])

    def sections_of_quantized(self) -> Iterator[tuple[str, Section]]:
        """What other weights change."""
        yield "memory", self.memory
        yield "decode", lambda: self.stages("decode")
        yield "calls", self.calls
        yield "feed", lambda: self.stages("feed")

    @property
    def sizes(self) -> list[int]:
        """Numbers of sessions that are measured: as many as there is room for."""
        if self.smoke:
            return [1, 2]
        if self.device.type != "cuda":
            return [1, 4]
        free = torch.cuda.get_device_properties(self.device).total_memory - self.loaded_bytes
        fits = sessions_that_fit(self.loaded.config, CONTEXTS[0], self.loaded.model.dtype, free)
        return [calls for calls in CALLS if calls <= fits] or [1]

    @property
    def loaded_bytes(self) -> int:
        return sum(weight_bytes(self.loaded.config, self.loaded.model.dtype, self.quantize).values())

    @property
    def session_bytes(self) -> int:
        context = min(CONTEXTS[0], self.loaded.config.llm.max_positions)
        return sum(session_bytes(self.loaded.config, context, self.loaded.model.dtype).values())

    @property
    def bench(self) -> Bench:
        """The sessions, made at first use."""
        if self._bench is None:
            self._bench = Bench(self.loaded, self.sizes, 1, "wall")
        return self._bench

    def ceilings(self) -> Iterator[Line]:
        """What the card does at most: a product in the model's type, and a copy."""
        dtype, on_card = self.loaded.model.dtype, self.device.type == "cuda"
        side, size = (8192, 2 << 30) if on_card else (512, 16 << 20)
        left = torch.randn(side, side, device=self.device, dtype=dtype)
        source = torch.empty(size, device=self.device, dtype=torch.uint8)
        target = torch.empty_like(source)
        products, _ = in_turns(self.watch, lambda: left @ left, None, 5 if self.smoke else 20, warm=3)
        copies, _ = in_turns(self.watch, lambda: target.copy_(source), None, 5 if self.smoke else 20, warm=3)
        self.card = Card("this card", 2 * side**3 / min(products), 2 * size / min(copies))
        yield Line("ceilings", f"product of {side}", 1, "TFLOP/s", self.card.flops / 1e12)
        yield Line("ceilings", "copy, read and written", 1, "TB/s", self.card.bandwidth / 1e12)

    def memory(self) -> Iterator[Line]:
        yield Line("memory", "weights", 1, "GB", self.loaded_bytes / 1e9)
        yield Line("memory", "a session of the context", 1, "MB", self.session_bytes / 1e6)
        yield Line("memory", "sessions measured at most", self.sizes[-1], "calls", self.sizes[-1])
        pool, sessions = self.bench.stream.pool, len(self.bench.states)
        storages = sum(storage.nbytes for storage in (pool.llm, pool.audio, pool.speech))
        yield Line("memory", "storages", sessions, "GB", storages / 1e9)
        if self.device.type == "cuda":
            yield Line("memory", "in use at most", sessions, "GB", torch.cuda.max_memory_allocated(self.device) / 1e9)

    def paired(
        self, name: str, section: Callable[[Bench], Iterator[Timing]], sizes: Sequence[int], repeats: int = 5
    ) -> Iterator[Line]:
        """A section of :class:`engine.bench.sections.Bench`, in turns with the reference pattern."""
        bench = self.bench
        bench.sizes, bench.repeats = list(sizes), 1 if self.smoke else repeats
        if self.device.type == "cuda":  # once through, so that the steps are known, and recorded
            bench.repeats, measured = 1, bench.repeats
            for _ in section(bench):
                self._record()
            bench.repeats = measured
        for row in section(bench):
            yield Line(name, row.what, row.sessions, row.unit, row.ours, row.ours_p95, row.reference)

    def stages(self, group: str) -> Iterator[Line]:
        """Stages of the official size's table, each with its bound on this card."""
        bound = Costs(self.card, FUSED, captured=True, reach=BOUND)
        official = self.device.type == "cuda" and self.quantize == "none"
        for stage in stages(self.bench, group, self.sizes, small=self.smoke):
            yield self._timed(stage, bound if official else None)

    def _record(self) -> None:
        """Make the recordings of all steps that were run."""
        while any(recorder.record_next() for recorder in self.bench.stream.executor.recorders):
            pass

    def _timed(self, stage: Stage, bound: Costs | None) -> Line:
        stage.run()
        self._record()
        times, _ = in_turns(self.watch, stage.run, None, 2 if self.smoke else 20, warm=1 if self.smoke else 3)
        times.sort()
        least = None if bound is None else bound(stage.works).alone * 1e3 / stage.per
        half, p95 = (times[int(share * (len(times) - 1))] * 1e3 / stage.per for share in (0.5, 0.95))
        return Line(stage.group, stage.what, len(stage.works), "ms", half, p95, None, least)

    def calls(self) -> Iterator[Line]:
        """Calls at their own times, all of the way: scheduler, tracks, tasks."""
        for count in self.sizes:
            served = load(self.bench, count, seconds=4.0 if self.smoke else 20.0, short=self.smoke)
            for what, unit, value, p95 in served.rows():
                yield Line("calls", what, count, unit, value, p95)


def measure(sections: Iterator[tuple[str, Section]], report: Report, seconds: float) -> None:
    """All sections, as far as ``seconds`` allow. One that fails is reported, and the others go on."""
    start = time.monotonic()
    for name, section in sections:
        try:
            with torch.inference_mode():
                for line in section():
                    report.add(line)
                    if time.monotonic() - start > seconds:
                        print(f"{name}: stopped after {seconds:g} s")
                        return
        except Exception as error:
            print(f"{name}: failed: {type(error).__name__}: {error}", flush=True)
            report.failed.append(name)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.bench.gpu", description="The official size on one card.")
    parser.add_argument("--out", type=Path, default=Path("bench-gpu"), help="folder of bench-gpu.json")
    parser.add_argument("--seconds", type=float, default=560.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true", help="everything small, in a minute; on a CPU in mini's size")
    parser.add_argument("--plan", action="store_true", help="sizes and bounds, without a card")
    parser.add_argument("--quantize", choices=QUANTIZATIONS[1:], default="none", help="the language model's weights")
    options = parser.parse_args(arguments)
    if options.plan:
        print_plan()
        return 0
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --plan needs none, and --smoke --device cpu finds faults")
    if device.type != "cuda" and not options.smoke:
        parser.error("on a CPU only --smoke is of use")
    begun = time.monotonic()
    if device.type == "cuda":
        loaded = random_model(device, None, options.quantize)
    elif options.quantize != "none":
        torch.set_num_threads(1)
        loaded = random_model(device, OmniConfig.from_dir(MINI), options.quantize)
    else:
        torch.set_num_threads(1)
        loaded = build_untrained(MINI, device="cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    date, how = time.strftime("%Y-%m-%d"), "" if options.quantize == "none" else f" in {options.quantize}"
    line = f"{loaded.parameters / 1e6:.0f} M random weights{how} on {name}, torch {torch.__version__}, {date}"
    facts = {"hardware": name, "torch": torch.__version__, "date": date, "smoke": options.smoke, "line": line}
    facts |= {"quantize": options.quantize}
    report = Report(options.out, facts)
    sections = GpuBench(loaded, smoke=options.smoke, quantize=options.quantize).sections()
    measure(sections, report, options.seconds - (time.monotonic() - begun))
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
