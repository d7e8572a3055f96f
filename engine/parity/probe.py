"""Runs tasks one by one and keeps what went through the modules meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from engine.conversation.sampling import TextSampling
from engine.conversation.streaming import StreamingModel
from engine.conversation.text import AnswerOptions
from engine.conversation.work import Hear, Recall, Render, Speak, Task, Work

GREEDY_TEXT = TextSampling(greedy=True)
"""The goldens took the best token each time; the repetition penalty stayed on."""


def greedy_options(stream: StreamingModel, max_new_tokens: int = 512) -> AnswerOptions:
    speech = replace(stream.speech_sampling, greedy=True)
    return AnswerOptions(max_new_tokens=max_new_tokens, text=GREEDY_TEXT, speech=speech)


@dataclass(slots=True)
class Record:
    """One piece of work: its result, and inputs and outputs of the watched modules in the order of their calls."""

    work: Any
    result: Any
    inputs: dict[str, list[Tensor]]
    outputs: dict[str, list[Tensor]]
    count: int
    """Afterwards: frames in the audio cache (sound), or codes of the voice (speech)."""


@dataclass(slots=True)
class Run:
    """All that one task gave and did."""

    outputs: list[Any] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    def of(self, *kinds: type) -> list[Record]:
        return [record for record in self.records if isinstance(record.work, kinds)]


class Probe:
    def __init__(self, stream: StreamingModel) -> None:
        self.stream = stream
        model = stream.model
        self._watched: dict[str, nn.Module] = {
            "ears": model.apm.layer_norm,
            "audio_projection": model.audio_projection_layer,
            "scores": model.llm.lm_head,
            "voice": model.tts.model,
        }

    def run(self, task: Task[Any]) -> Run:
        """Drive a task to its end."""
        run, item = Run(), next(task, None)
        while item is not None:
            answer = None
            if isinstance(item, Work):
                with self._watch() as (inputs, outputs):
                    answer = self.stream.executor.run([item])[0]
                run.records.append(Record(item, answer, inputs, outputs, _count(item)))
            else:
                run.outputs.append(item)
            try:
                item = task.send(answer)
            except StopIteration:
                break
        return run

    @contextmanager
    def _watch(self) -> Iterator[tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]]]:
        inputs: dict[str, list[Tensor]] = {name: [] for name in self._watched}
        outputs: dict[str, list[Tensor]] = {name: [] for name in self._watched}
        hooks = []
        for name, module in self._watched.items():

            def keep(_: nn.Module, given: tuple[Tensor, ...], made: Tensor, name: str = name) -> None:
                inputs[name].append(given[0])
                outputs[name].append(made)

            hooks.append(module.register_forward_hook(keep))
        try:
            yield inputs, outputs
        finally:
            for hook in hooks:
                hook.remove()

    @torch.inference_mode()
    def speech_logits(self, run: Run) -> list[Tensor]:
        """Raw scores [num_vq, V] of every audio step."""
        tts = self.stream.model.tts
        return [tts.logits(states[0, -1]) for record in run.of(Speak) for states in record.outputs["voice"]]

    @torch.inference_mode()
    def speech_mels(self, run: Run) -> list[Tensor]:
        """Log-mel [1, mel bins, frames] of every wave."""
        dvae = self.stream.model.tts.dvae
        return [dvae.decode(record.work.codes.T[None]) for record in run.of(Render)]


def _count(work: Work) -> int:
    if isinstance(work, Hear):
        return work.state.hearing.length
    return len(work.voice.codes) if isinstance(work, Speak | Recall) else 0
