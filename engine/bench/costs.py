"""What a batch takes on a card, from sizes and ceilings: arithmetic and bytes of the model at its official size.

Nothing here was timed. A batch takes as long as its arithmetic, its bytes or its launches do, whichever is longest, at
the share of the card's ceilings that good kernels reach, and a little for every kernel. ``make bench-gpu`` measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.conversation.work import Decode, Feed, Hear, LookBack, Read, Recall, Render, See, Speak, Work


@dataclass(frozen=True, slots=True)
class Efficiency:
    """How close to the ceilings work comes, and what it costs besides."""

    matmul: float = 0.65
    """Share of the arithmetic ceiling: prefill."""
    vision: float = 0.5
    """The same of the vision encoder."""
    memory: float = 0.9
    """Share of the ceiling of the memory: weights that are read."""
    gap_s: float = 0.75e-6
    """From one kernel of a captured graph to the next."""
    launch_s: float = 8e-6
    """Of the host, for a kernel that Python launches."""
    batch_s: float = 0.3e-3
    """Of the host, for a batch: choosing it, its tensors, its results."""
    row_s: float = 0.02e-3
    """The same for each of its rows."""


EXPECTED = Efficiency()
BOUND = Efficiency(1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0)
"""What no program can beat."""

FLOAT32_SHARE = 0.085
"""Of the ceiling in bfloat16: what the vocoder has, in float32."""

CODE_CONTEXT = 400
"""Tokens and codes that a code of speech looks back on."""


@dataclass(frozen=True, slots=True)
class Card:
    """Ceilings: FLOP/s of a large product in bfloat16, bytes/s of a copy."""

    name: str
    flops: float
    bandwidth: float


CARDS = (Card("H100", 790e12, 3.0e12), Card("H200", 790e12, 4.3e12))
"""An H200's were measured. An H100 has the same chip, and its published bandwidth at the same share."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """Launches of a pass: a token of text, a code of speech, a picture, a second of sound, a prefill, some tokens or
    codes at once into the speech model, and a wave."""

    text: int
    code: int
    see: int
    hear: int
    feed: int
    read: int
    wave: int


COUNTED = Kernels(text=760, code=573, see=342, hear=351, feed=736, read=520, wave=250)
"""Before steps were fused."""

FUSED = Kernels(text=262, code=187, see=263, hear=283, feed=289, read=209, wave=205)
"""As they are: what ``python -m engine.bench.launches`` counts."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Seconds of the host, of arithmetic and of the memory that a batch needs, and what it takes alone."""

    host: float
    arithmetic: float
    memory: float
    alone: float


@dataclass(frozen=True, slots=True)
class _Pass:
    """One pass: GFLOP, gigabytes, kernels, and the share of the arithmetic ceiling that it reaches; ``times`` of it."""

    gflop: float
    gigabytes: float
    kernels: int
    share: float
    times: int = 1


class Costs:
    """Costs on ``card``; with ``captured`` steps of text and speech and waves are one launch a block."""

    def __init__(self, card: Card, kernels: Kernels, *, captured: bool, reach: Efficiency = EXPECTED) -> None:
        self.card, self.kernels, self.captured, self.reach = card, kernels, captured, reach

    def __call__(self, works: Sequence[Work]) -> Demand:
        reach = self.reach
        host = alone = reach.batch_s + reach.row_s * len(works)
        arithmetic = memory = 0.0
        for one, captured in self._passes(works):
            flops = one.times * one.gflop * 1e9 / self.card.flops / one.share
            read = one.times * one.gigabytes * 1e9 / self.card.bandwidth / reach.memory
            launched = reach.launch_s * (1 if captured else one.times * one.kernels)
            host, arithmetic, memory = host + launched, arithmetic + flops, memory + read
            alone += max(launched, max(flops, read) + one.times * one.kernels * reach.gap_s)
        return Demand(host, arithmetic, memory, alone)

    def _passes(self, works: Sequence[Work]) -> list[tuple[_Pass, bool]]:
        """What a batch consists of, and whether each is captured."""
        first, rows, kernels, matmul = works[0], len(works), self.kernels, self.reach.matmul
        match first:
            case See():
                slices = sum(len(work.image.sizes) for work in works if isinstance(work, See))
                return [(_Pass(1041 * slices, 0.96 + 0.53 * slices, kernels.see, self.reach.vision), False)]
            case Hear():
                return [(_Pass(40 * rows, 0.64 + 0.15 * rows, kernels.hear, matmul), False)]
            case Feed():
                tokens = [(len(work.embeds), work.state.length) for work in works if isinstance(work, Feed)]
                return [(self._prefill(tokens), False)]
            case Decode():
                decodes = [work for work in works if isinstance(work, Decode)]
                steps = max(work.steps for work in decodes)
                context = sum(work.state.length for work in decodes)
                step = _Pass(15.8 * rows, 14.14 + 57_344e-9 * context, kernels.text, matmul)
                if max(len(work.ids) for work in decodes) == 1:
                    return [(replace(step, times=steps), self.captured)]
                prompt = self._prefill([(len(work.ids), work.state.length) for work in decodes])
                prompt = replace(prompt, gigabytes=prompt.gigabytes + 1.09)
                return [(prompt, False)] + [(replace(step, times=steps - 1), self.captured)] * (steps > 1)
            case Speak():
                steps = max(work.steps for work in works if isinstance(work, Speak))
                return [(replace(self._speech(1, rows), kernels=kernels.code, times=steps), self.captured)]
            case Read() | Recall() | LookBack():
                return [(self._speech(10, rows), False)]
            case Render():
                seconds = sum(len(work.codes) for work in works if isinstance(work, Render)) * 512 / 24_000
                return [(_Pass(3.8 * seconds, 0.09 * max(1.0, seconds), kernels.wave, FLOAT32_SHARE), self.captured)]
            case _:
                raise ValueError(f"nothing is known of what {type(first).__name__} costs")

    def _prefill(self, tokens: Sequence[tuple[int, int]]) -> _Pass:
        """Of so many tokens each, behind so many."""
        gflop = sum(count * (13.05 + 0.00041 * before) for count, before in tokens)
        return _Pass(
            gflop, 13.05 + 57_344e-9 * sum(before for _, before in tokens), self.kernels.feed, self.reach.matmul
        )

    def _speech(self, tokens: int, rows: int) -> _Pass:
        """A pass of the speech model over so many tokens or codes of each."""
        return _Pass(
            0.41 * tokens * rows, 0.382 + 61_440e-9 * CODE_CONTEXT * rows, self.kernels.read, self.reach.matmul
        )
