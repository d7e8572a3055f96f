"""One training loop for every stage: seeded, resumable, logged, with a progress bar.

A stage brings modules, a way to make the batch of step ``k`` (from the seed and ``k`` alone), and a loss. What was
trained is kept in ``<folder>/<stage>.pt`` and the curve in ``<folder>/<stage>.jsonl``; running a finished or
interrupted stage again continues from there.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from engine.model.audio import AudioLayer
from engine.model.decoder import DecoderLayer

Losses = dict[str, Tensor]


class PlainAttention(TorchFunctionMode):
    """Attention as two matrix products: on a processor with AMX three times as fast, forward and backward, as the
    fused kernel, for sequences as short as mini's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            return plain_attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """What ``scaled_dot_product_attention`` computes, without dropout. [B, heads, T, dim]."""
    if enable_gqa:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    (batch, heads, rows, width), columns = q.shape, k.shape[2]
    bias = q.new_zeros(1, rows, columns)
    if is_causal:
        bias = bias.masked_fill(torch.ones(rows, columns, dtype=torch.bool, device=q.device).triu(1), -1e4)
    if attn_mask is not None:
        bias = bias.masked_fill(~attn_mask, -1e4) if attn_mask.dtype == torch.bool else bias + attn_mask
        bias = bias.expand(batch, heads, rows, columns).reshape(batch * heads, rows, columns)
    q, k, v = (x.reshape(batch * heads, -1, width) for x in (q, k, v))
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scale or width**-0.5)
    # Outside of autocast, which would carry the largest tensors of all to float32 and back.
    with torch.autocast(q.device.type, enabled=False):
        shares = scores.softmax(-1)
    return torch.bmm(shares, v.to(shares.dtype)).view(batch, heads, rows, width)


def mixed_precision(device: str) -> ExitStack:
    """bfloat16 products where the device is fast at them, float32 elsewhere."""
    stack = ExitStack()
    if device != "cpu":
        stack.enter_context(torch.autocast(device, torch.bfloat16))
    elif torch.cpu._is_amx_tile_supported():
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        stack.enter_context(PlainAttention())
    return stack


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a stage runs. ``minutes`` of processor time (over all its runs, so that a busy machine does not shorten
    the training) end it early where they are given; the learning rate is warmed up, held, and brought to zero in the
    last 40 % of the steps or minutes, whichever is nearer."""

    steps: int
    minutes: float | None = None
    learning_rate: float = 1e-3
    warmup: int = 100
    cooldown: float = 0.4
    clip: float = 1.0
    weight_decay: float = 0.02
    compiled: bool = False
    """Whether transformer layers are compiled: half as fast again on a processor, where there is a C++ compiler."""

    def progress(self, step: int, elapsed: float) -> float:
        """0 at the start, 1 at the end."""
        by_time = elapsed / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(step / self.steps, by_time))

    def rate(self, step: int, progress: float) -> float:
        factor = min(1.0, (step + 1) / self.warmup, (1 - progress) / self.cooldown)
        return self.learning_rate * max(factor, 0.01)


class Steps(Dataset[Any]):
    """Batches by step number, for a DataLoader: ``make(step, progress)``."""

    def __init__(self, make: Callable[[int], Any], steps: range) -> None:
        self.make, self.steps = make, steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Any:
        return self.make(self.steps[index])


def batches(make: Callable[[int], Any], steps: range, workers: int) -> Iterator[Any]:
    """The batches of ``steps`` in order; with ``workers`` they are made ahead, in other processes."""
    loader = DataLoader(
        Steps(make, steps), batch_size=None, shuffle=False, num_workers=workers, prefetch_factor=4 if workers else None
    )
    return iter(loader)


def chances(seed: int, step: int) -> tuple[np.random.Generator, random.Random]:
    """What a batch is drawn with: the same for the same ``step``, whatever was drawn before."""
    return np.random.default_rng((seed, step)), random.Random(seed * 1_000_003 + step)


def load_modules(folder: Path, stage: str, modules: nn.Module) -> bool:
    """Gives ``modules`` the weights that a stage learned, or else those that were unpacked for it; False when there are
    none."""
    trained, start = folder / f"{stage}.pt", folder / f"{stage}.start.pt"
    if trained.exists():
        modules.load_state_dict(torch.load(trained, map_location="cpu", weights_only=False)["modules"])
    elif start.exists():
        begin_at(modules, torch.load(start, map_location="cpu", weights_only=True)["modules"])
    return trained.exists() or start.exists()


@torch.no_grad()
def begin_at(modules: nn.Module, held: dict[str, Tensor]) -> None:
    """Gives ``modules`` those of the weights ``held`` that they have room for. A table that has grown since, for new
    words, keeps its new rows as they are."""
    for name, weight in modules.state_dict().items():
        old = held.get(name)
        if old is None:
            continue
        if old.shape == weight.shape:
            weight.copy_(old)
        elif old.dim() and old.shape[1:] == weight.shape[1:] and len(old) < len(weight):
            weight[: len(old)] = old


NOT_HIDDEN = ("embed", "emb_", "head", "query", "ctc", "frame", "colour", "form")
"""Matrices with these names turn ids or classes into vectors or back."""


def orthogonal(rows: int, columns: int, generator: torch.Generator | None = None) -> Tensor:
    """A random matrix with orthonormal rows, or columns where those are fewer.

    It is worked out in double precision: the last bits of a factorisation differ from call to call, and training that
    begins with it would not give the same numbers again.
    """
    tall = torch.randn(max(rows, columns), min(rows, columns), generator=generator).double()
    basis = torch.linalg.qr(tall)[0].float()
    out: Tensor = basis if rows > columns else basis.T
    return out


def make_optimizers(modules: nn.Module, budget: Budget) -> list[torch.optim.Optimizer]:
    """Muon (K. Jordan, 2024) for the matrices between hidden states, which learns what is rare much sooner, and AdamW
    for all else."""
    trained = {name: p for name, p in modules.named_parameters() if p.requires_grad}
    hidden = {n for n, p in trained.items() if p.dim() == 2 and not any(part in n for part in NOT_HIDDEN)}
    matrices = [p for n, p in trained.items() if p.dim() > 1 and n not in hidden]
    vectors = [p for p in trained.values() if p.dim() <= 1]
    adam = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": budget.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=budget.learning_rate, betas=(0.9, 0.98), fused=True,
    )  # fmt: skip
    if not hidden:
        return [adam]
    muon = torch.optim.Muon(
        [trained[n] for n in sorted(hidden)], lr=budget.learning_rate, weight_decay=budget.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    return [adam, muon]


def compile_layers(modules: nn.Module) -> None:
    """Compiles transformer layers in place, for batches of any size."""
    torch._dynamo.config.recompile_limit = 64
    for module in modules.modules():
        if isinstance(module, DecoderLayer | AudioLayer):
            module.compile(dynamic=True)


def train(
    stage: str,
    folder: Path,
    modules: nn.Module,
    make: Callable[[int], Any],
    loss: Callable[[Any, float], Losses],
    budget: Budget,
    *,
    workers: int = 0,
    evaluate: Callable[[], dict[str, float]] | None = None,
    every: float = 300.0,
    until: int | None = None,
) -> list[dict[str, float]]:
    """Trains ``modules`` in place and returns the log. Resumes from ``<stage>.pt``, or else begins at
    ``<stage>.start.pt`` (:func:`engine.mini.export.unpack`), or else from scratch.

    ``loss`` gives named terms, of which ``loss`` is minimised. Every ``every`` seconds of processor time the state is
    saved and ``evaluate`` adds its figures to the log. ``until`` stops (and saves) before that step, to be
    resumed later.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, curve = folder / f"{stage}.pt", folder / f"{stage}.jsonl"
    parameters = [p for p in modules.parameters() if p.requires_grad]
    optimizers = make_optimizers(modules, budget)
    step, elapsed = 0, 0.0
    log: list[dict[str, float]] = []
    if file.exists():
        state = torch.load(file, map_location="cpu", weights_only=False)
        modules.load_state_dict(state["modules"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=False):
            optimizer.load_state_dict(kept)
        step, elapsed, log = state["step"], state["elapsed"], state["log"]
    elif (start := folder / f"{stage}.start.pt").exists():
        begin_at(modules, torch.load(start, map_location="cpu", weights_only=True)["modules"])

    def save() -> None:
        state = {
            "modules": modules.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step,
            "elapsed": elapsed, "log": log,
        }  # fmt: skip
        torch.save(state, file.with_suffix(".tmp"))
        file.with_suffix(".tmp").replace(file)
        curve.write_text("".join(json.dumps(entry) + "\n" for entry in log))

    last = min(budget.steps, until) if until is not None else budget.steps
    if budget.compiled:
        compile_layers(modules)
    modules.train()
    device = parameters[0].device.type
    started, before = time.process_time(), elapsed
    saved, counted = started, 0
    sums: dict[str, float] = {}
    bar = tqdm(total=budget.steps, initial=step, desc=stage, mininterval=10, dynamic_ncols=True)
    source = batches(make, range(step, last), workers)
    while step < last and budget.progress(step, elapsed) < 1:
        progress = budget.progress(step, elapsed)
        batch = next(source)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = budget.rate(step, progress)
            optimizer.zero_grad(set_to_none=True)
        with mixed_precision(device):
            terms = loss(batch, progress)
        terms["loss"].backward()
        nn.utils.clip_grad_norm_(parameters, budget.clip)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        counted += 1
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        now = time.process_time()
        elapsed = before + now - started
        bar.update()
        done = step >= last or budget.progress(step, elapsed) >= 1
        if counted == 100 or done:
            log.append({"step": step, "elapsed": round(elapsed, 1), **{k: v / counted for k, v in sums.items()}})
            bar.set_postfix({k: f"{v / counted:.3f}" for k, v in sums.items()})
            sums, counted = {}, 0
        if now - saved > every or done:
            if evaluate is not None:
                modules.eval()
                with torch.no_grad(), mixed_precision(device):
                    log.append({"step": step, "elapsed": round(elapsed, 1), **evaluate()})
                modules.train()
                bar.write(json.dumps(log[-1]))
            save()
            saved = time.process_time()
    bar.close()
    modules.eval()
    return log
