"""The training loop: accumulation, schedule, evaluation, saved states and a curve.

It runs through accelerate, so that ``accelerate launch -m engine.tune …`` spreads the same batches over several
processes and devices. What a step is trained on follows from the seed and its number alone: a run that was interrupted
goes on as if it had not been.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup

from engine.errors import InputError
from engine.tune.data import Batch, Sample, collate
from engine.tune.learner import Learner, precision

STATE, CURVE = "state.pt", "curve.jsonl"


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How long and how fast; the defaults are those of the published script, except that its 10,000 steps are for a
    large data set."""

    steps: int | None = None
    """Optimizer steps; None: ``epochs`` times through the data."""
    epochs: float = 3.0
    batch: int = 1
    """Conversations that a process computes at once."""
    accumulate: int = 1
    """Batches of a step, so that memory does not bound its size."""
    learning_rate: float = 1e-6
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: float = 0.01
    """Share of the steps in which the learning rate rises; it falls as a cosine afterwards."""
    clip: float = 1.0
    evaluate_every: int = 100
    """Steps between two evaluations, and between two saved states."""
    seed: int = 0
    dtype: torch.dtype = torch.float32
    """Of the products; what is trained is kept in float32."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "evaluate_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1")
        if not (0 < self.learning_rate < math.inf and 0 < self.epochs < math.inf and 0 <= self.warmup <= 1):
            raise InputError("learning_rate and epochs must be numbers above 0, and warmup in [0, 1]")


@dataclass(slots=True)
class Progress:
    """Where a run is."""

    step: int = 0
    loss: float = math.nan
    """Mean over the batches of the last step."""


class Trainer:
    """Trains a learner on data, into a folder."""

    def __init__(
        self, learner: Learner, data: Dataset[Sample], options: TrainingOptions, folder: Path,
        evaluation: Dataset[Sample] | None = None,
    ) -> None:  # fmt: skip
        """``folder`` holds the state and the curve; ``evaluation`` is data that is only measured."""
        self.options, self.folder, self.data, self.evaluation = options, folder, data, evaluation
        # Pictures may be absent from a process's batch, and with them the resampler from its loss.
        uneven = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(cpu=learner.model.device.type == "cpu", kwargs_handlers=[uneven])
        self.count = len(data)  # type: ignore[arg-type]  # torch's Dataset does not declare its length
        self.per_step = options.batch * options.accumulate * self.accelerator.num_processes
        self.steps = options.steps or max(1, math.ceil(options.epochs * self.count / self.per_step))
        weights = learner.trainable()
        optimizer = torch.optim.AdamW(
            weights.values(), lr=options.learning_rate, betas=options.betas, weight_decay=options.weight_decay
        )
        self.schedule = get_cosine_schedule_with_warmup(optimizer, round(options.warmup * self.steps), self.steps)
        self.optimizer, self.learner, self.progress = optimizer, learner, Progress()
        # Small gradients are nothing in float16: the loss is multiplied before them, and they are divided again.
        device, half = learner.model.device.type, options.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(device, init_scale=2.0**12, enabled=half)
        self.wrapped: Any = self.accelerator.prepare_model(learner) if self.accelerator.num_processes > 1 else learner

    def run(self, *, show: bool = True) -> Progress:
        """Train to the last step; saves and evaluates on the way. Raises InputError for data that cannot be used."""
        first = self.progress.step
        hidden = not (show and self.accelerator.is_main_process)
        with tqdm(total=self.steps, initial=first, desc="Tuning", unit="step", disable=hidden) as bar:
            batches = iter(self._batches(first))
            for step in range(first, self.steps):
                # Dropout, too, follows from the number of the step.
                torch.manual_seed(self.options.seed * 1_000_003 + step + 7919 * self.accelerator.process_index)
                self.progress = Progress(step + 1, self._step(batches))
                self._note({"step": step + 1, "loss": self.progress.loss, "rate": self.schedule.get_last_lr()[0]})
                self.schedule.step()
                bar.set_postfix(loss=f"{self.progress.loss:.3f}")
                bar.update()
                if (step + 1) % self.options.evaluate_every == 0 or step + 1 == self.steps:
                    if (loss := self.evaluate()) is not None:
                        self._note({"step": step + 1, "evaluation": loss})
                        bar.write(f"step {step + 1}: evaluation loss {loss:.3f}")
                    self.save()
        return self.progress

    def _step(self, batches: Iterator[Batch]) -> float:
        self.wrapped.train()
        losses = []
        for _ in range(self.options.accumulate):
            loss = self._loss(next(batches))
            self.accelerator.backward(self.scaler.scale(loss / self.options.accumulate))
            losses.append(loss.detach())
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.learner.trainable().values(), self.options.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        mean = float(self.accelerator.reduce(torch.stack(losses).mean(), "mean"))
        if not math.isfinite(mean):
            raise InputError(
                f"the loss is {mean} at step {self.progress.step + 1}; lower --learning-rate, or use float32"
            )
        return mean

    def _loss(self, batch: Batch) -> torch.Tensor:
        device = self.learner.model.device
        with precision(device, self.options.dtype):
            loss: torch.Tensor = self.wrapped(batch.to(device))
        return loss

    @torch.no_grad()
    def evaluate(self) -> float | None:
        """Mean loss over the evaluation data, conversation by conversation; None without any."""
        if self.evaluation is None:
            return None
        self.learner.eval()
        samples = [self.evaluation[index] for index in range(len(self.evaluation))]  # type: ignore[arg-type]
        return sum(float(self._loss(collate([sample]))) for sample in samples) / len(samples)

    def save(self) -> None:
        """Keep what is trained and how far it is. The file is whole at every moment."""
        if self.accelerator.is_main_process:
            state = {
                "step": self.progress.step,
                "options": asdict(self.options) | {"steps": self.steps},
                "weights": {name: weight.detach() for name, weight in self.learner.trainable().items()},
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
            }
            torch.save(state, self.folder / f"{STATE}.partial")
            (self.folder / f"{STATE}.partial").replace(self.folder / STATE)
        self.accelerator.wait_for_everyone()

    @torch.no_grad()
    def resume(self) -> None:
        """Go on from the saved state. Raises InputError if there is none or it is of another run."""
        path = self.folder / STATE
        if not path.is_file():
            raise InputError(f"{path} does not exist; leave out --resume to begin")
        state = torch.load(path, map_location="cpu", weights_only=True)
        mine = asdict(self.options) | {"steps": self.steps}
        if changed := [name for name, value in mine.items() if state["options"].get(name) != value]:
            was = state["options"].get(changed[0])
            raise InputError(f"{path} was made with {changed[0]} {was}; go on with the same options")
        trained = self.learner.trainable()
        if state["weights"].keys() != trained.keys():
            raise InputError(f"{path} trains other weights; go on with the same options")
        for name, weight in state["weights"].items():
            trained[name].copy_(weight)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(state["step"])
        kept = [line for line in self._lines() if line["step"] <= self.progress.step]
        (self.folder / CURVE).write_text("".join(f"{json.dumps(line)}\n" for line in kept), encoding="utf-8")

    def _batches(self, first: int) -> DataLoader[Sample]:
        """This process's batches from step ``first`` on."""
        order: list[int] = []
        epoch = 0
        while len(order) < self.steps * self.per_step:
            shuffled = torch.randperm(self.count, generator=torch.Generator().manual_seed(self.options.seed + epoch))
            order += shuffled.tolist()
            epoch += 1
        mine = order[first * self.per_step : self.steps * self.per_step]
        mine = mine[self.accelerator.process_index :: self.accelerator.num_processes]
        chosen: Subset[Sample] = Subset(self.data, mine)
        return DataLoader(chosen, batch_size=self.options.batch, collate_fn=collate)

    def _note(self, line: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            with (self.folder / CURVE).open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(line)}\n")

    def _lines(self) -> list[dict[str, float]]:
        path = self.folder / CURVE
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
