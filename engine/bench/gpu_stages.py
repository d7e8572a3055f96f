"""Stages of the model one by one, at set contexts and numbers of sessions, as pieces of work of the engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from engine.bench.sections import Bench
from engine.client import INPUT_RATE
from engine.conversation.executor import Executor
from engine.conversation.sampling import Noise, TextSampling
from engine.conversation.session import Hearing, SessionState
from engine.conversation.work import Decode, Feed, Hear, See, Work

STEPS = 8
UNIT_TOKENS = 95
HD_SIDE, HD_SLICES = 1344, 9


@dataclass(frozen=True, slots=True)
class Stage:
    """One thing to be timed: ``works`` as one batch, with every session's context ``context`` tokens long."""

    group: str
    what: str
    works: Sequence[Work]
    states: Sequence[SessionState]
    executor: Executor
    context: int
    per: int = 1
    """Into so many parts the time is divided: tokens, or one."""

    def run(self) -> None:
        lengths = [state.length for state in self.states]
        for state in self.states:
            state.length, state.hearing = self.context, Hearing()
        try:
            self.executor.run(self.works)
        finally:
            for state, length in zip(self.states, lengths, strict=True):
                state.length = length


def stages(bench: Bench, group: str, sizes: Sequence[int], *, small: bool) -> Iterator[Stage]:
    """The stages of ``group``: decode, feed, or senses."""
    stream = bench.stream
    executor = stream.executor
    longest = stream.pool.context - UNIT_TOKENS - STEPS
    contexts = [min(256, longest)] if small else [min(count, longest) for count in (1024, 4096, 8192)]
    if group == "decode":
        for context in contexts[-2:]:
            for size in sizes:
                states = bench.states[:size]
                works = [
                    Decode(state, (0,), STEPS, TextSampling(), stream.blank_seen(), Noise(0), STEPS) for state in states
                ]
                yield Stage(group, f"token behind {context}", works, states, executor, context, STEPS)
    elif group == "feed":
        for context in contexts:
            for size in [size for size in (1, 2, 4, 16) if size <= sizes[-1]]:
                states = bench.states[:size]
                hidden = stream.config.llm.hidden_size
                embeds = torch.randn(UNIT_TOKENS, hidden, device=stream.model.device, dtype=stream.model.dtype) * 0.02
                yield Stage(
                    group, f"unit of {UNIT_TOKENS} behind {context}", [Feed(state, embeds) for state in states], states,
                    executor, context,
                )  # fmt: skip
    else:
        yield from _senses(bench, sizes, contexts[0])


def _senses(bench: Bench, sizes: Sequence[int], context: int) -> Iterator[Stage]:
    stream = bench.stream
    noise = np.random.default_rng(0)
    detailed = Image.fromarray(noise.integers(0, 255, (HD_SIDE, HD_SIDE, 3), np.uint8))
    sees: tuple[tuple[str, Image.Image, int, int], ...] = (
        ("picture", bench.picture, 1, 16),
        ("picture in detail", detailed, HD_SLICES, 4),
    )
    for what, picture, slices, most in sees:
        image = stream.images(picture, slices)
        for size in [size for size in (1, 4, 16) if size <= min(most, sizes[-1])]:
            name = f"{what}, {len(image.sizes)} slices"
            yield Stage("senses", name, [See(image)] * size, [], stream.executor, context)
    mel = stream.mel(bench.sound[:INPUT_RATE])
    for size in [size for size in (1, 16) if size <= sizes[-1]]:
        states = bench.states[:size]
        yield Stage(
            "senses", "second of sound", [Hear(state, mel) for state in states], states, stream.executor, context
        )
