"""Every chain of small operations with arguments as steps have them, in many sizes: for what tests its kernel.

``python -m tests.engine_stream.chains`` compiles all kernels for an H100, which needs neither a card nor its driver.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from engine.conversation.sampling import SpeechSampling
from engine.conversation.speech_steps import SpeechRows, choose_codes_, go_on_
from engine.conversation.text_steps import TextRows, choose_text_, text_scores
from engine.model.decoder import rotary
from engine.model.fused import Fused, add_and_norm, advance_lengths_, swiglu, turn_and_store
from engine.model.tts import advance_mask_

Case = tuple[Fused[..., Any], list[Any]]
STEPS, WINDOW, CODES, HIDDEN = 5, 3, 4, 40
MANY = 9


def chains(rows: int, dtype: torch.dtype, seed: int) -> Iterator[Case]:
    """Each chain for so many rows, with numbers by chance. A row is a program of the kernel or several, which take the
    interpreter a while: of many rows there are only the chains that have one."""
    torch.manual_seed(seed)
    for width in (24, 1_030):
        yield swiglu, [torch.randn(rows, 1, 2 * width).to(dtype)]
    for width in (40, 1_152):
        x, more = torch.randn(2, rows, width).to(dtype)
        yield add_and_norm, [x, more, torch.randn(width).to(dtype), torch.randn(width).to(dtype), 1e-6]
    yield advance_lengths_, [torch.randint(0, 91, (rows,)), torch.ones(rows, dtype=torch.int32), 90]
    places = torch.randint(30, 1_301, (rows,))
    mask = torch.randn(rows, 1, 1, 1_100).to(dtype)
    yield advance_mask_, [places, mask, torch.randint(0, 18, (rows,)), 1_300, [2, 20, 5, 4, 24]]
    if rows > MANY:
        return
    for tokens, heads, kv_heads, head_dim in ((1, 7, 1, 128), (3, 4, 4, 10)):
        yield turn_and_store, _turning(rows, tokens, heads, kv_heads, head_dim, dtype)
    yield from _text(rows, dtype)
    yield from _speech(rows, dtype)


def _turning(rows: int, tokens: int, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> list[Any]:
    """Slots that are no neighbours, and a place behind each's end."""
    both = torch.randn(rows, tokens, heads + 2 * kv_heads, head_dim).to(dtype)
    store = torch.randn(2 * rows + 1, 2 * kv_heads, 51, head_dim).to(dtype)
    slots, first = torch.randperm(2 * rows + 1)[:rows], torch.randint(0, 51 - tokens, (rows,))
    places = first[:, None] + torch.arange(tokens)
    cos, sin = (part[:, None].to(dtype) for part in rotary(places, head_dim, 1e4))
    places[-1, -1] = 50
    return [both, cos, sin, store, slots, places, heads]


def _text(rows: int, dtype: torch.dtype) -> Iterator[Case]:
    vocabulary, stops = 1_500, torch.tensor([3, 1_499])
    drawn = TextRows.make(rows, STEPS, vocabulary, torch.device("cpu"))
    drawn.seen.copy_(torch.rand(rows, vocabulary) < 0.3)
    drawn.step.random_(0, STEPS)
    drawn.least.random_(0, STEPS)
    drawn.limit.random_(1, STEPS + 1)
    drawn.uniform.uniform_()
    drawn.alive.copy_(torch.rand(rows) < 0.8)
    drawn.sound.copy_(torch.rand(rows) < 0.8)
    logits = _distinct(rows, vocabulary).to(dtype)
    logits[0, 3] = 50.0
    for penalty, temperature in ((1.05, 0.7), (1.0, 1.0)):
        yield text_scores, [logits, drawn.seen, stops, drawn.step, drawn.least, penalty, temperature]
    scores = text_scores.plain(logits, drawn.seen, stops, drawn.step, drawn.least, 1.05, 0.7)
    ill = scores.clone()
    ill[0, 5], ill[rows // 2, 7] = float("nan"), float("inf")
    for given in (scores, ill):
        for count in (100, 1):
            tensors = (drawn.uniform, stops, drawn.limit, drawn.step, drawn.ids, drawn.drawn, drawn.seen)
            yield choose_text_, [*given.topk(count), *tensors, drawn.alive, drawn.sound, 0.8]


def _speech(rows: int, dtype: torch.dtype) -> Iterator[Case]:
    vocabulary = 626
    like = torch.zeros(HIDDEN).to(dtype)
    drawn = SpeechRows.make(rows, STEPS, WINDOW, CODES, like)
    drawn.step.random_(0, STEPS)
    drawn.guard.random_(0, STEPS)
    drawn.limit.random_(1, STEPS + 1)
    drawn.uniform.uniform_()
    drawn.history.random_(-1, vocabulary)
    for flags in (drawn.alive, drawn.sound, drawn.begun):
        flags.copy_(torch.rand(rows) < 0.8)
    logits = _distinct(rows * CODES, vocabulary).unflatten(0, (rows, CODES)).to(dtype)
    logits[0, :, -1] = 40.0
    ill = logits.clone()
    ill[0, 1, 5], ill[rows // 2, 2, 7] = float("nan"), float("inf")
    warm = SpeechSampling(temperature=(0.5, 0.9, 0.5, 0.9))
    cases = [(logits, warm), (logits, SpeechSampling()), (logits, replace(warm, repetition_penalty=1.2, top_k=2))]
    cases += [(logits, replace(warm, greedy=True)), (ill, warm)]
    for given, sampling in cases if rows < 8 else cases[:1]:
        tensors = (drawn.uniform, drawn.alive, drawn.begun, drawn.guard, drawn.step, drawn.history, drawn.drawn)
        numbers = (sampling.top_p, sampling.top_k, sampling.min_keep, sampling.repetition_penalty, sampling.greedy)
        yield choose_codes_, [given, *tensors, drawn.sound, sampling.temperature, *numbers]
    drawn.drawn.random_(0, vocabulary)
    tables = torch.randn(CODES * vocabulary, HIDDEN).to(dtype), torch.arange(CODES) * vocabulary
    noted = (drawn.drawn, drawn.limit, drawn.step, drawn.begun, drawn.alive, drawn.embeds)
    for end in (vocabulary - 1, int(drawn.drawn[0, drawn.step[0], 2])):
        yield go_on_, [*noted, *tables, end]


def _distinct(rows: int, count: int) -> Tensor:
    """Rows of so many numbers between -16 and 16 of which no two are equal, in bfloat16 neither: of equals, a sort has
    no first."""
    chosen = torch.stack([torch.randperm(2_000)[:count] for _ in range(rows)])
    positive = (0x3D00 + chosen // 2).to(torch.int16).view(torch.bfloat16).float()
    return torch.where(chosen % 2 == 0, positive, -positive)


def compile_all(capability: int) -> set[str]:
    """The names of the kernels, each compiled for cards of a compute capability, with the arguments of its launches."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import JITFunction

    types = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.int64: "i64", torch.int32: "i32", torch.uint8: "u8"}
    done: set[tuple[Any, ...]] = set()

    def compile_one(kernel: Any, *args: Any, grid: Any, warmup: bool, num_warps: int = 4, **constants: Any) -> None:
        signature: dict[str, str] = dict.fromkeys(constants, "constexpr")
        for name, value in zip(kernel.arg_names, args, strict=False):
            if isinstance(value, Tensor):
                signature[name] = f"*{types[value.dtype]}"
            elif type(value) is int and value == 1:  # which a launch makes a part of the kernel
                signature[name], constants[name] = "constexpr", 1
            else:
                signature[name] = "fp32" if isinstance(value, float) else "i32"
        key = (kernel.__name__, *signature.items(), *constants.items())
        if key not in done:
            done.add(key)
            source = ASTSource(kernel, signature, constants)
            options = {"num_warps": num_warps}
            assert triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["cubin"]

    JITFunction.run = compile_one
    for chain, args in chains(8, torch.bfloat16, 0):
        chain.kernel(*args)
    return {key[0] for key in done}


if __name__ == "__main__":
    print(*sorted(compile_all(90)))
    sys.exit(0)
