"""Where pieces of work are carried out: on the scheduler's own thread, or on threads with a CUDA stream each.

A CPU has one track for everything, which keeps one order. On a GPU every part of the model has its own, so that text,
speech and waves of different calls overlap: a step of text is bound by the memory, one of speech by its launches, and
seeing by arithmetic.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.conversation.work import ModelPart, Work

log = logging.getLogger(__name__)


class WorkRunner(Protocol):
    """What carries out pieces of work: :class:`engine.conversation.executor.Executor`."""

    def run(self, works: Sequence[Work]) -> list[Any]: ...


class Failure:
    """What a piece came to that failed."""

    def __init__(self, error: Exception) -> None:
        self.error = error.with_traceback(None)  # whose frames would hold on to the memory that ran out


Finished = Callable[[list[Any]], None]
"""Takes the results of a batch, in the order of its works, a :class:`Failure` in place of what came to nothing."""


class Track(Protocol):
    """Carries out one batch at a time."""

    def start(self, works: Sequence[Work], finished: Finished) -> None:
        """Carry out a batch, and call ``finished``, now or later and on any thread."""
        ...

    def stop(self) -> None:
        """Start nothing more."""
        ...


def carry_out(runner: WorkRunner, works: Sequence[Work]) -> list[Any]:
    """The results of a batch. Where it fails, each piece is tried alone: one of them is at fault, the others shall not
    pay for it."""
    try:
        return runner.run(works)
    except Exception as error:
        if len(works) == 1:
            log.error("a piece of work failed", exc_info=error)
            return [Failure(error)]
    return [result for work in works for result in carry_out(runner, [work])]


class InlineTrack:
    """On the scheduler's own thread."""

    def __init__(self, runner: WorkRunner) -> None:
        self._runner = runner

    def start(self, works: Sequence[Work], finished: Finished) -> None:
        finished(carry_out(self._runner, works))

    def stop(self) -> None:
        pass


class StreamTrack:
    """On a thread of its own, and on a GPU (``device``) on a CUDA stream of its own.

    The scheduler's thread works on the device's default stream. A batch sees all that was launched there before it
    began, and is complete on the device when it is reported; tensors that it hands over are not used again by the
    stream that made them before the default stream is done with them.
    """

    def __init__(self, runner: WorkRunner, device: torch.device, name: str, *, urgent: bool = False) -> None:
        """Kernels of an ``urgent`` track go before those of others."""
        self._runner, self._device = runner, device
        self._thread = ThreadPoolExecutor(1, f"model-{name}")
        self._stream = torch.cuda.Stream(device, priority=-1 if urgent else 0) if device.type == "cuda" else None

    def start(self, works: Sequence[Work], finished: Finished) -> None:
        before = None if self._stream is None else torch.cuda.default_stream(self._device).record_event()
        self._thread.submit(self._carry_out, works, finished, before)

    def stop(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _carry_out(self, works: Sequence[Work], finished: Finished, before: torch.cuda.Event | None) -> None:
        if self._stream is None or before is None:
            finished(carry_out(self._runner, works))
            return
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(before)
            results = carry_out(self._runner, works)
            self._stream.synchronize()
        default = torch.cuda.default_stream(self._device)
        for tensor in tensors_of(results):
            if tensor.is_cuda:
                tensor.record_stream(default)
        finished(results)


def tensors_of(result: Any) -> Iterator[Tensor]:
    """All tensors in results of work."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, (list, tuple)):
        for item in result:
            yield from tensors_of(item)
    elif is_dataclass(result):
        for field in fields(result):
            yield from tensors_of(getattr(result, field.name))


def tracks_on(runner: WorkRunner, devices: set[torch.device]) -> Mapping[ModelPart, Track]:
    """The tracks for a model on ``devices``: one for each part on a GPU, else one for all. A model that is spread over
    several devices has one, since its parts share them."""
    device = next(iter(devices))
    if len(devices) > 1 or device.type != "cuda":
        return dict.fromkeys(ModelPart, InlineTrack(runner))
    small = (ModelPart.SPEECH, ModelPart.WAVE)  # whose kernels are too short to hold up anybody
    return {part: StreamTrack(runner, device, part.value, urgent=part in small) for part in ModelPart}
