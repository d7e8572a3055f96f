"""Trains the LoRA: the language model frozen, thin matrices beside the weights of its upper layers."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from engine.checkpoint.adapter import CONFIG, PREFIX, WEIGHTS
from engine.checkpoint.loader import LoadedModel
from engine.model.decoder import Decoder
from engine.processing.prompts import IM_END, answer_header, closed_turn, turn_header
from engine.processing.tokens import TokenBuilder
from engine.small.lessons.dialogues import TaughtDialogue, draw

TAUGHT = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
PROMPTS = (
    "You are a helpful voice assistant. Answer in one or two short sentences.",
    "You are small, a friendly assistant on the phone.",
    "You are a helpful assistant.",
)
"""Told at the start of one dialogue in ten, in place of small's own: a call may choose its prompt."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """How to train."""

    minutes: float
    """Of the wall clock: the rate falls to zero over them."""
    layers: int = 12
    """Layers that are taught, the last ones."""
    rank: int = 8
    rate: float = 8e-4
    batch: int = 8
    own: float = 0.12
    """Share of the model's own answers to other questions, so that it forgets nothing."""
    seed: int = 0


class Frozen(nn.Module):
    """A linear layer that is only used: products in bfloat16."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().to(torch.bfloat16).contiguous())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        # [..., inputs] -> [..., outputs]
        out = F.linear(x.to(torch.bfloat16), self.weight).float()
        return out if self.bias is None else out + self.bias


class Taught(Frozen):
    """The same with its two thin matrices, in float32."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__(linear)
        inputs = linear.in_features
        self.a = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        # [..., inputs] -> [..., outputs]
        return super().forward(x) + F.linear(F.linear(x, self.a), self.b)


def prepare(decoder: Decoder, lesson: Lesson) -> dict[str, Taught]:
    """Freeze a decoder and put thin matrices into its last layers: those by the key of their weight."""
    decoder.requires_grad_(False)
    first = len(decoder.layers) - lesson.layers
    taught: dict[str, Taught] = {}
    for index, layer in enumerate(decoder.layers):
        for name, module in list(layer.named_modules()):
            if not isinstance(module, nn.Linear):
                continue
            if index >= first and name.rpartition(".")[2] in TAUGHT:
                taught[f"llm.model.layers.{index}.{name}.weight"] = new = Taught(module, lesson.rank)
                layer.set_submodule(name, new)
            else:
                layer.set_submodule(name, Frozen(module))
    return taught


@dataclass(frozen=True, slots=True)
class LessonRow:
    """Token ids of a dialogue, and which of them the model has to say."""

    kind: str
    ids: tuple[int, ...]
    said: tuple[bool, ...]


def example(dialogue: TaughtDialogue, build: TokenBuilder, prompt: str, *, speech: bool) -> LessonRow:
    """A dialogue as it stands in a call's context."""
    opening, *_, closing = closed_turn("system", [])
    ids = [*build.text(str(opening)), *build.typed(prompt), *build.text(str(closing))]
    said = [False] * len(ids)
    for index, (asked, answer) in enumerate(dialogue.turns):
        header = build.text(turn_header(answered=index > 0, completed=True))
        head = [*header, *build.typed(asked), *build.text(answer_header(speech=speech))]
        told = build.typed(answer)
        ids += head + told
        said += [index > 0, *[False] * (len(head) - 1), *[True] * len(told)]  # the next header closes an answer
    return LessonRow(dialogue.kind, (*ids, *build.text(IM_END)), (*said, True))


def batches(
    build: TokenBuilder, prompt: str, own: Sequence[TaughtDialogue], lesson: Lesson
) -> Iterator[list[LessonRow]]:
    """What is learnt, without an end. A batch holds dialogues of nearly the same length."""
    rng = random.Random(lesson.seed)
    while True:
        pool = []
        for _ in range(6 * lesson.batch):
            dialogue = rng.choice(own) if own and rng.random() < lesson.own else draw(rng)
            told = prompt if rng.random() < 0.9 else rng.choice(PROMPTS)
            pool.append(example(dialogue, build, told, speech=rng.random() < 0.9))
        pool.sort(key=lambda one: len(one.ids))
        cut = [pool[first : first + lesson.batch] for first in range(0, len(pool), lesson.batch)]
        yield from rng.sample(cut, len(cut))


def read_own(path: Path) -> list[TaughtDialogue]:
    """The model's own answers, a line of JSON each: ``{"asked": …, "said": …}``."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [TaughtDialogue("own", ((line["asked"], line["said"]),)) for line in lines]


def learn(
    loaded: LoadedModel, build: TokenBuilder, prompt: str, own: Sequence[TaughtDialogue], lesson: Lesson, target: Path,
    tell: Callable[[str], None],
) -> None:  # fmt: skip
    """Train until the time is over and write the adapter ``target``; what there is by then is in it every two
    minutes."""
    torch.manual_seed(lesson.seed)
    llm = loaded.model.llm
    taught = prepare(llm.model, lesson)
    head = llm.lm_head.weight.detach().to(torch.bfloat16)
    parameters = [matrix for module in taught.values() for matrix in (module.a, module.b)]
    optimizer = torch.optim.AdamW(parameters, lr=lesson.rate, betas=(0.9, 0.98), weight_decay=0.0)
    source, begin, saved, step = batches(build, prompt, own, lesson), time.monotonic(), time.monotonic(), 0
    losses: list[float] = []
    while (passed := (time.monotonic() - begin) / (60 * lesson.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = lesson.rate * min(1.0, (step + 1) / 10, 2 * (1 - passed))
        loss = _loss(llm.model, head, next(source))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        step += 1
        if step % 12 == 0:
            tell(f"step {step}, {100 * passed:.0f} % of the time, loss {sum(losses) / len(losses):.3f}")
            losses.clear()
        if time.monotonic() - saved > 120:
            _save(taught, lesson.rank, target)
            saved = time.monotonic()
    _save(taught, lesson.rank, target)
    tell(f"{step} steps of {lesson.batch} dialogues")


def _loss(decoder: Decoder, head: Tensor, batch: Sequence[LessonRow]) -> Tensor:
    """Mean cross-entropy of what has to be said. Shorter dialogues are filled up behind their end, where nobody
    looks."""
    ids = nn.utils.rnn.pad_sequence([torch.tensor(one.ids) for one in batch], batch_first=True)
    said = nn.utils.rnn.pad_sequence([torch.tensor(one.said) for one in batch], batch_first=True)[:, 1:]
    states = decoder(decoder.embed_tokens(ids[:, :-1]))[said]
    return F.cross_entropy(F.linear(states.to(torch.bfloat16), head).float(), ids[:, 1:][said])


def _save(taught: dict[str, Taught], rank: int, folder: Path) -> None:
    """Write an adapter in peft's layout, as :class:`~engine.checkpoint.adapter.Adapter` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(TAUGHT), "bias": "none"}
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    halves = {
        f"{PREFIX}{key.removesuffix('.weight')}.lora_{half}.weight": matrix.detach().to(torch.bfloat16).contiguous()
        for key, module in taught.items()
        for half, matrix in (("A", module.a), ("B", module.b))
    }
    partial = folder / f"{WEIGHTS}.partial"
    save_file(halves, partial)
    partial.replace(folder / WEIGHTS)
