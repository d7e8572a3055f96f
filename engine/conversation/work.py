"""The kinds of work that sessions ask for. A task is a generator that yields one of these and is sent the result.

Whoever runs the tasks decides the order and may carry out the same kind for many sessions in one batch
(:mod:`engine.conversation.executor`). A task stops between two pieces of work: closing its generator cancels it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.conversation.overheard import Overheard
from engine.conversation.reading import Reading
from engine.conversation.sampling import Noise, SpeechSampling, TextSampling
from engine.conversation.session import SessionState
from engine.processing.image import ImageSlices


class ModelPart(Enum):
    """Parts of the model that can work at the same time, for different sessions: they share no storage. Every kind of
    work names the ``part`` that carries it out."""

    SENSES = "senses"
    LANGUAGE = "language"
    SPEECH = "speech"
    WAVE = "wave"


@dataclass(frozen=True, slots=True, eq=False)
class See:
    """Encode one picture -> [slices, query_num, hidden]."""

    part: ClassVar[ModelPart] = ModelPart.SENSES
    image: ImageSlices


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """Name what is drawn in a picture, by the model that the language model sees with -> words; none where it is not
    certain."""

    part: ClassVar[ModelPart] = ModelPart.SENSES
    image: ImageSlices


@dataclass(frozen=True, slots=True, eq=False)
class Hear:
    """Encode the next sound of a session, log-mel [mel bins, M] -> [tokens, hidden]; the audio cache grows."""

    part: ClassVar[ModelPart] = ModelPart.SENSES
    state: SessionState
    mel: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class HearClips:
    """Encode whole sounds that no cache holds, log-mel [mel bins, M] each -> [tokens, hidden] each. As published, the
    sounds of a conversation are one batch and see of each other's padding."""

    part: ClassVar[ModelPart] = ModelPart.SENSES
    mels: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Listen:
    """Encode the next sound of a session for its reader, log-mel [mel bins, M] -> keys and values
    [layers, 2, heads, frames, head_dim]; the audio cache grows. It begins with what the last ``again`` frames there
    were made of, which are made anew, and ends with ``beyond`` frames of silence, which are not kept."""

    part: ClassVar[ModelPart] = ModelPart.SENSES
    state: SessionState
    mel: Tensor
    again: int = 0
    beyond: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Transcribe:
    """Read the words of all the sound of a message -> :class:`~engine.conversation.reading.Transcribed`."""

    part: ClassVar[ModelPart] = ModelPart.SENSES
    reading: Reading


@dataclass(frozen=True, slots=True, eq=False)
class Overhear:
    """Read the next second of a message (mono, 16 kHz) beside the model -> what was heard of it, and the text that is
    certain now and was not before."""

    part: ClassVar[ModelPart] = ModelPart.SENSES
    before: Overheard
    samples: NDArray[np.float32]


FEED_TOKENS = 384
"""Tokens that are fed at once, at most: four seconds of sound with a picture each. A step of text that comes meanwhile
waits no longer than that takes, which is as long as reading the weights twice on a large GPU."""


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """Append embeddings [T, hidden] to the context -> states [T, hidden]. Recording that is up to the task.

    ``after`` tokens that the task has not recorded yet were fed before them. No more than :data:`FEED_TOKENS` at once,
    where calls share the model.
    """

    part: ClassVar[ModelPart] = ModelPart.LANGUAGE
    state: SessionState
    embeds: Tensor
    after: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Decode:
    """Append token ids, then draw up to ``steps`` more, each fed but the last -> :class:`Decoded`.

    ``seen`` bool [V] are the ids that the repetition penalty counts; it is updated in place with what is drawn.
    ``min_new`` is how many tokens must come before a stop token may.
    """

    part: ClassVar[ModelPart] = ModelPart.LANGUAGE
    state: SessionState
    ids: tuple[int, ...]
    steps: int
    sampling: TextSampling
    seen: Tensor
    noise: Noise
    min_new: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    ids: tuple[int, ...]
    """What was drawn, the stop token included."""
    stopped: bool
    states: Tensor
    """States [T, hidden] of the ids that were appended first."""
    noise: Noise


@dataclass(slots=True)
class Voice:
    """One stretch of speech in the making: a slot of the speech storage and the codes so far."""

    slot: int
    speaker: Tensor
    """Unit speaker vector [hidden]."""
    codes: Tensor
    """int64 [N, num_vq] on the CPU: codes of the stretch before that were carried over, then its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Feed speech text ids into their slots ``start``… of a voice -> states [T, hidden]."""

    part: ClassVar[ModelPart] = ModelPart.SPEECH
    voice: Voice
    start: int
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Recall:
    """Feed ``[Ptts]`` and all codes of a voice but the last, in one pass that sees ``text_length`` text tokens."""

    part: ClassVar[ModelPart] = ModelPart.SPEECH
    voice: Voice
    text_length: int


@dataclass(frozen=True, slots=True, eq=False)
class Speak:
    """Draw up to ``steps`` audio codes that see ``text_length`` text tokens -> :class:`Spoken`; ``voice.codes`` grows.

    The end of speech is not drawn in the first ``guard`` steps.
    """

    part: ClassVar[ModelPart] = ModelPart.SPEECH
    voice: Voice
    steps: int
    text_length: int
    guard: int
    sampling: SpeechSampling
    noise: Noise


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    finished: bool
    noise: Noise


@dataclass(frozen=True, slots=True, eq=False)
class LookBack:
    """How much each of the last ``codes`` codes of a voice attended to each text slot, the mean of all heads ->
    float32 [codes, text_length + 1] on the CPU. ``text_length`` as when they were drawn."""

    part: ClassVar[ModelPart] = ModelPart.SPEECH
    voice: Voice
    codes: int
    text_length: int


@dataclass(frozen=True, slots=True, eq=False)
class Render:
    """Codes int64 [N, num_vq] -> wave float32 [N * 512] on the CPU, 24 kHz."""

    part: ClassVar[ModelPart] = ModelPart.WAVE
    codes: Tensor


Senses = See | Name | Hear | HearClips | Listen | Transcribe | Overhear
Work = Senses | Feed | Decode | Read | Recall | Speak | LookBack | Render

STEP_WORK = (Decode, Speak)
"""What goes token by token or code by code: a step reads all weights for one row, so that sharing it saves most."""

Out = TypeVar("Out")
Task = Generator["Work | Out", Any, None]
"""A resumable piece of a session: yields work (and is sent its result) or output of its own (and is sent None)."""

Step = Generator[Work, Any, Out]
"""Part of a task that only works and returns something."""


def result_of(run: Generator[Any, None, Out]) -> Out:
    """What a run returns (:meth:`engine.conversation.executor.Executor.drive`), whatever it gives on the way."""
    while True:
        try:
            next(run)
        except StopIteration as end:
            result: Out = end.value
            return result


NO_CODES = torch.empty(0, 4, dtype=torch.int64)


def batch_key(work: Work) -> object:
    """Work with equal keys can share a batch: of one kind, with as many steps and as long where that must agree."""
    match work:
        case Decode() | Speak():
            return type(work), work.sampling
        case Recall():
            return Recall, len(work.voice.codes)
        case LookBack():
            return LookBack, work.codes
        case _:
            return type(work)
