"""What a person says in words, beside a model that does not read: for captions, and for nobody else.

The ears are others than the model's (:mod:`engine.checkpoint.reader`); the rules of reading are the same
(:mod:`engine.conversation.reading`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from engine.checkpoint.reader import LoadedReader
from engine.conversation.overheard import Overheard
from engine.conversation.reading import read_on, read_rest, rest_of
from engine.conversation.session import SessionState
from engine.conversation.word_reader import BEYOND_FRAMES, WordReader, with_silence
from engine.conversation.work import Overhear, Step
from engine.errors import NotFiniteError
from engine.model.audio import conv_length
from engine.model.kv import KVArena, whole
from engine.model.transfer import upload
from engine.processing.mel import MelExtractor


def overhear(
    state: SessionState, sounds: Sequence[NDArray[np.float32]], transcriber: Transcriber
) -> Step[tuple[str, str]]:
    """What is read of more of a message: the words that are certain now and were not before, and the rest."""
    said = ""
    for samples in sounds:
        state.overheard, certain = yield Overhear(state.overheard, samples)
        said += certain
    return said, rest_of(state.overheard.reading, transcriber.words)


class Transcriber:
    """One pair of ears for all calls. Keeps nothing of any of them."""

    def __init__(self, loaded: LoadedReader, *, limit: int | None = None) -> None:
        """``limit``: frames (20 ms) after which the ears begin anew; as many as they hold if None."""
        ears = loaded.ears
        self.mel, self.words = MelExtractor(ears.config.mel), loaded.words
        self._apm, self._decoder = ears.apm, ears.reader
        self._reader = WordReader(ears.apm, ears.reader)
        audio, weight = ears.config.audio, ears.apm.layer_norm.weight
        self._limit = limit or audio.max_positions
        self._arena = KVArena(
            audio.num_layers, audio.num_heads, audio.head_dim, capacity=self._limit, device=weight.device
        )

    @torch.inference_mode()
    def hear(self, before: Overheard, samples: NDArray[np.float32]) -> tuple[Overheard, str]:
        """One more second (mono, 16 kHz) of a message -> what was heard of it, and the text that is certain now and was
        not before. Raises NotFiniteError."""
        reading, past, said = before.reading, before.past, ""
        mel, start = with_silence(self.mel(np.concatenate([*reading.latest, samples]))), reading.settled_frames
        if start + conv_length(mel.shape[1]) >= self._limit:
            reading, said = read_rest(reading, self.words)
            reading, past, mel, start = reading.deaf(), (), with_silence(self.mel(samples)), 0
        kept = past[: len(reading.settled)]
        if kept:
            self._arena.restore(0, list(torch.cat(kept, 2)))
        frames = conv_length(mel.shape[1])
        count = frames - BEYOND_FRAMES
        cache = self._arena.place([0], [start], [frames], sight=whole)
        heard = self._apm.stream(upload(mel[None], self._arena.device), [mel.shape[1]], cache)[0, :count]
        if not heard.isfinite().all():
            self._arena.clear(0, 0, self._arena.capacity)
            raise NotFiniteError
        reading = reading.hear(samples, self._decoder.listen(heard))
        made = torch.stack(self._arena.save(0, start + count))[:, :, start:]
        sizes = [part.shape[3] for part in reading.sound[len(kept) :]]
        reading, certain = read_on(reading, self._reader.read(reading), self.words)
        return Overheard(reading, (*kept, *made.split(sizes, 2))), said + certain
