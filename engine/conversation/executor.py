"""Carries out work, the same kind of many sessions in one batch.

Inside a batch nothing waits for the device: ids are drawn there, positions advance there, and the host reads the
result once at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from engine.conversation.blocks import SpeechBlocks, TextBlocks
from engine.conversation.captured import GraphRecorder
from engine.conversation.exact_blocks import ExactBlocks
from engine.conversation.naming import PictureNamer
from engine.conversation.overheard import Overheard
from engine.conversation.reading import Transcribed
from engine.conversation.session import Hearing, SessionPool
from engine.conversation.text_steps import read_text
from engine.conversation.transcriber import Transcriber
from engine.conversation.waves import WaveBlocks
from engine.conversation.word_reader import WordReader
from engine.conversation.work import (
    STEP_WORK,
    Decode,
    Decoded,
    Feed,
    Hear,
    HearClips,
    Listen,
    LookBack,
    Name,
    Overhear,
    Read,
    Recall,
    Render,
    See,
    Speak,
    Spoken,
    Transcribe,
    Work,
    batch_key,
)
from engine.errors import NotFiniteError, OutOfMemoryError, is_out_of_memory
from engine.model.audio import conv_length, pool, token_length
from engine.model.kv import KVArena, KVReview, whole
from engine.model.omni import OmniModel
from engine.model.transfer import download, upload
from engine.model.tts import CodeTables
from engine.model.vision_language import VisionLanguageModel
from engine.model.vocos import Vocos
from engine.processing.image import pad_slices

T = TypeVar("T")


class Executor:
    """One model, its vocoder, and the storages of its sessions."""

    def __init__(
        self,
        model: VisionLanguageModel,
        vocos: Vocos | None,
        pool: SessionPool,
        stop_ids: Sequence[int],
        *,
        rows: int | None = None,
        paged: bool | None = None,
        namer: PictureNamer | None = None,
        transcriber: Transcriber | None = None,
    ) -> None:
        """With ``rows`` every step of text or speech is a pass of just so many rows, padded where fewer sessions take
        part, and all other work is done session by session, so that who shares a batch changes no bit of a result
        (where :func:`engine.conversation.rows.exact_rows` says so). None: batches are as large as they come.
        ``paged`` is for the tests, see :class:`~engine.conversation.blocks.TextBlocks`. ``namer`` says in words what
        pictures show, for a model without eyes; ``transcriber`` what people say, for one that does not read.

        A model that has no ears and no voice has no ``vocos`` either, and is asked for no sound.
        """
        omni = model if isinstance(model, OmniModel) else None
        self.model, self.vocos, self.pool, self.rows = cast(OmniModel, model), cast(Vocos, vocos), pool, rows
        self.stop_ids = frozenset(stop_ids)
        self.recorders: tuple[GraphRecorder, ...] = ()
        """What makes recordings of steps, where they are made: :func:`~.captured.record_in_background` does it."""
        with torch.inference_mode():
            stops = torch.tensor(sorted(stop_ids), device=model.device)
            tables = cast(CodeTables, None if omni is None else omni.tts.tables())
        self._exact: ExactBlocks | None = None
        self._waves: WaveBlocks | None = None
        if rows is not None:
            self._exact = ExactBlocks(self.model, pool.llm, pool.speech, stops, tables, rows)
        else:
            text, speech, wave = (GraphRecorder(model.device, enabled=not model.is_spread) for _ in range(3))
            self.recorders = (text, speech, wave)
            self._text = TextBlocks(model, pool.llm, stops, text, paged=paged)
            if omni is not None and vocos is not None:
                self._speech = SpeechBlocks(omni, pool.speech, tables, speech)
                if model.device.type != "cpu":  # which gains nothing by it
                    self._waves = WaveBlocks(omni, vocos, wave, pool.sessions)
        self.reader = None if omni is None or omni.reader is None else WordReader(omni.apm, omni.reader)
        self.namer, self.transcriber = namer, transcriber
        self._run: dict[type, Callable[[Sequence[Any]], list[Any]]] = {
            See: self.see,
            Name: self.name,
            Hear: self.hear,
            HearClips: self.hear_clips,
            Listen: self.listen,
            Transcribe: self.transcribe,
            Overhear: self.overhear,
            Feed: self.feed,
            Decode: self.decode,
            Read: self.read,
            Recall: self.recall,
            Speak: self.speak,
            LookBack: self.look_back,
            Render: self.render,
        }

    @torch.inference_mode()
    def run(self, works: Sequence[Work]) -> list[Any]:
        """The results of ``works``, in their order; work of one kind and shape runs together.

        No two may belong to the same session. Raises NotFiniteError or OutOfMemoryError; every session is then as it
        was, and what the others asked for can be run again.
        """
        try:
            return self._run_groups(works)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the handler nothing holds the tensors of the frames that failed.
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfMemoryError

    def _run_groups(self, works: Sequence[Work]) -> list[Any]:
        groups: dict[object, list[int]] = {}
        for index, work in enumerate(works):
            groups.setdefault(batch_key(work), []).append(index)
        results: list[Any] = [None] * len(works)
        for members in groups.values():
            kind = type(works[members[0]])
            size = len(members) if self.rows is None else self.rows if kind in STEP_WORK else 1
            for first in range(0, len(members), size):
                batch = members[first : first + size]
                for index, result in zip(batch, self._run[kind]([works[index] for index in batch]), strict=True):
                    results[index] = result
        return results

    def _check_all(self, rows: Sequence[Tensor], arena: KVArena, slots: Sequence[int], starts: Sequence[int]) -> None:
        """:meth:`_check` of whether all that was computed for each session is finite."""
        self._check(download(torch.stack([row.isfinite().all() for row in rows])).tolist(), arena, slots, starts)

    def _check(self, sound: Sequence[bool], arena: KVArena, slots: Sequence[int], starts: Sequence[int]) -> None:
        """Raise NotFiniteError unless every session is ``sound``.

        What another wrote into ``arena`` from ``starts`` on is wiped: attention multiplies by what it masks out,
        so that a NaN would go on in its slot, whoever has it next.
        """
        for is_sound, slot, start in zip(sound, slots, starts, strict=True):
            if not is_sound:
                arena.clear(slot, start, arena.capacity)
        if not all(sound):
            raise NotFiniteError

    def drive(
        self, task: Generator[Any, Any, T], run: Callable[[Sequence[Work]], list[Any]] | None = None
    ) -> Generator[Any, None, T]:
        """Run one task alone, hand out what it gives, and return what it returns. Leaving the iteration early cancels
        the task. ``run`` stands in for :meth:`run`, which it calls: to measure."""
        run = run or self.run
        try:
            item = next(task)
            while True:
                if isinstance(item, Work):
                    item = task.send(run([item])[0])
                else:
                    yield item
                    item = task.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            task.close()

    def see(self, works: Sequence[See]) -> list[Tensor]:
        if len(works) > 1 and self.model.config.vision.mixes_slices:
            return [vectors for work in works for vectors in self.see([work])]
        patches, sizes = pad_slices([work.image for work in works])
        vectors = self.model.see(upload(patches.to(self.model.dtype), self.model.device), sizes)
        return list(vectors.split([len(work.image.sizes) for work in works]))

    def name(self, works: Sequence[Name]) -> list[str]:
        assert self.namer is not None
        return [self.namer(work.image) for work in works]

    def hear(self, works: Sequence[Hear]) -> list[Tensor]:
        model, step = self.model, self.model.config.audio.pool_step
        heard = pad_sequence(self._encode(works), batch_first=True)
        vectors = pool(model.audio_projection_layer(heard), step)
        return [row[: token_length(work.mel.shape[1], step)] for row, work in zip(vectors, works, strict=True)]

    def hear_clips(self, works: Sequence[HearClips]) -> list[list[Tensor]]:
        return [self._hear_clips(work.mels) for work in works]

    def _hear_clips(self, mels: Sequence[Tensor]) -> list[Tensor]:
        model, step = self.model, self.model.config.audio.pool_step
        lengths = [mel.shape[1] for mel in mels]
        mel = pad_sequence([mel.T for mel in mels], batch_first=True).transpose(1, 2)
        heard = model.apm(upload(mel.to(model.dtype), model.device), lengths)
        vectors = pool(model.audio_projection_layer(heard), step)
        return [row[: token_length(length, step)] for row, length in zip(vectors, lengths, strict=True)]

    def listen(self, works: Sequence[Listen]) -> list[Tensor]:
        assert self.model.reader is not None
        return [self.model.reader.listen(heard) for heard in self._encode(works)]

    def transcribe(self, works: Sequence[Transcribe]) -> list[Transcribed]:
        assert self.reader is not None
        return [self.reader.read(work.reading) for work in works]

    def overhear(self, works: Sequence[Overhear]) -> list[tuple[Overheard, str]]:
        assert self.transcriber is not None
        return [self.transcriber.hear(work.before, work.samples) for work in works]

    def _encode(self, works: Sequence[Hear | Listen]) -> list[Tensor]:
        """Encoder states [frames, d_model] of the next sound of each session; its audio cache grows."""
        model, limit = self.model, self.model.config.audio.max_positions
        lengths = [work.mel.shape[1] for work in works]
        frames = [conv_length(length) for length in lengths]
        kept = [
            count - (work.beyond if isinstance(work, Listen) else 0) for work, count in zip(works, frames, strict=True)
        ]
        for work, count in zip(works, frames, strict=True):
            if isinstance(work, Listen) and work.again:
                work.state.hearing = replace(work.state.hearing, length=work.state.hearing.length - work.again)
            if work.state.hearing.length + count >= limit:
                self.pool.reset_hearing(work.state)
            self.pool.keep_hearing(work.state)
        mel = pad_sequence([work.mel.T for work in works], batch_first=True).transpose(1, 2)
        slots, starts = [work.state.audio_slot for work in works], [work.state.hearing.length for work in works]
        cache = self.pool.audio.place(slots, starts, frames, sight=whole)
        heard = model.apm.stream(upload(mel.to(model.dtype), model.device), lengths, cache)
        rows = [row[:count] for row, count in zip(heard, kept, strict=True)]
        self._check_all(rows, self.pool.audio, slots, starts)
        for work, count in zip(works, kept, strict=True):
            work.state.hearing = Hearing(work.state.hearing.resets, work.state.hearing.length + count)
        return rows

    def feed(self, works: Sequence[Feed]) -> list[Tensor]:
        lengths = [len(work.embeds) for work in works]
        slots, starts = [work.state.slot for work in works], [work.state.length + work.after for work in works]
        cache = self.pool.llm.place(slots, starts, lengths)
        states = self.model.llm(pad_sequence([work.embeds for work in works], batch_first=True), cache=cache)
        rows = [row[:length] for row, length in zip(states, lengths, strict=True)]
        self._check_all(rows, self.pool.llm, slots, starts)
        return rows

    def decode(self, works: Sequence[Decode]) -> list[Decoded]:
        arena = self.pool.llm
        slots, starts = [work.state.slot for work in works], [work.state.length for work in works]
        if self._exact is not None:
            results, first = self._exact.text(works, starts)
        else:
            before = self._feed_all_but_last(works)
            ends = [start + len(states) for start, states in zip(starts, before, strict=True)]
            with self._text.recorder.lock:
                results, last = self._text.run(works, ends)
            first = [torch.cat((states, end[None])) for states, end in zip(before, last, strict=True)]
        self._check([bool(row[0]) for row in results], arena, slots, starts)
        drawn = read_text(results, [work.steps for work in works], self.stop_ids)
        return [
            Decoded(ids, ids[-1] in self.stop_ids, states, work.noise if work.sampling.greedy else work.noise.after())
            for work, ids, states in zip(works, drawn, first, strict=True)
        ]

    def _feed_all_but_last(self, works: Sequence[Decode]) -> list[Tensor]:
        """Append all ids but the last of each -> their states [T, hidden]."""
        llm = self.model.llm
        states = [torch.empty(0, self.model.config.llm.hidden_size, device=llm.model.norm.weight.device)] * len(works)
        longer = [index for index, work in enumerate(works) if len(work.ids) > 1]
        if longer:
            ids = [torch.tensor(works[index].ids[:-1]) for index in longer]
            lengths = [len(row) for row in ids]
            slots, starts = zip(
                *((works[index].state.slot, works[index].state.length) for index in longer), strict=True
            )
            cache = self.pool.llm.place(slots, starts, lengths)
            rows = llm(llm.embed(upload(pad_sequence(ids, batch_first=True), self.model.device)), cache=cache)
            for index, row, length in zip(longer, rows, lengths, strict=True):
                states[index] = row[:length]
        return states

    def read(self, works: Sequence[Read]) -> list[Tensor]:
        tts, device = self.model.tts, self.model.device
        lengths = [len(work.ids) for work in works]
        slots, starts = [work.voice.slot for work in works], [work.start for work in works]
        cache = self.pool.speech.place(slots, starts, lengths)
        ids = upload(pad_sequence([torch.tensor(work.ids) for work in works], batch_first=True), device)
        speakers = torch.stack([work.voice.speaker for work in works])
        states = tts(tts.embed_text(ids, speakers), cache=cache)
        rows = [row[:length] for row, length in zip(states, lengths, strict=True)]
        self._check_all(rows, self.pool.speech, slots, starts)
        return rows

    def recall(self, works: Sequence[Recall]) -> list[Tensor]:
        tts, device = self.model.tts, self.model.device
        codes = upload(torch.stack([work.voice.codes[:-1] for work in works]), device)
        begin = torch.full_like(codes[:, :1], -1)
        slots, starts = [work.voice.slot for work in works], [tts.config.condition_length - 1] * len(works)
        sight = tts.sight(upload(torch.tensor([work.text_length for work in works]), device))
        cache = self.pool.speech.place(slots, starts, [1 + codes.shape[1]] * len(works), sight=sight)
        rows = list(tts(tts.embed_codes(torch.cat([begin, codes], 1)), cache=cache))
        self._check_all(rows, self.pool.speech, slots, starts)
        return rows

    def speak(self, works: Sequence[Speak]) -> list[Spoken]:
        config = self.model.tts.config
        begin = config.condition_length - 1
        slots, starts = [work.voice.slot for work in works], [begin + len(work.voice.codes) for work in works]
        window = max(1, works[0].sampling.window)
        history = torch.stack([_recent(work.voice.codes, window) for work in works])
        if self._exact is not None:
            results = self._exact.codes(works, history)
        else:
            with self._speech.recorder.lock:
                results = self._speech.run(works, history)
        self._check([bool(row[0]) for row in results], self.pool.speech, slots, starts)
        spoken = []
        for work, row in zip(works, results, strict=True):
            codes = row[1:].view(-1, config.num_vq)[: work.steps]
            ends = (codes == config.audio_eos_id).any(1).nonzero()
            finished = len(ends) > 0
            work.voice.codes = torch.cat([work.voice.codes, codes[: int(ends[0])] if finished else codes])
            spoken.append(Spoken(finished, work.noise if work.sampling.greedy else work.noise.after()))
        return spoken

    def look_back(self, works: Sequence[LookBack]) -> list[Tensor]:
        tts, device, count = self.model.tts, self.model.device, works[0].codes
        first_text = 1 + tts.config.num_spk_embs
        sight = tts.sight(upload(torch.tensor([work.text_length for work in works]), device))
        starts = [tts.config.condition_length - 1 + len(work.voice.codes) - count for work in works]
        slots = [work.voice.slot for work in works]
        cache = self.pool.speech.place(slots, starts, [count] * len(works), sight=sight.each)
        review = KVReview.of(cache, (first_text, first_text + 1 + max(work.text_length for work in works)))
        # What was fed when the codes were drawn: each code's predecessor, or [Ptts] in front of the first.
        codes = upload(torch.stack([_recent(work.voice.codes[:-1], count) for work in works]), device)
        tts(tts.embed_codes(codes), cache=review)
        return [row[:, : work.text_length + 1] for row, work in zip(download(review.mean()), works, strict=True)]

    def render(self, works: Sequence[Render]) -> list[Tensor]:
        if self._waves is None:
            made: dict[int, Tensor] = {}
            for length in {len(work.codes) for work in works}:
                same = [index for index, work in enumerate(works) if len(work.codes) == length]
                codes = torch.stack([works[index].codes for index in same])
                made.update(zip(same, self.vocos(self.model.tts.dvae.decode(codes.transpose(1, 2))), strict=True))
            waves = [made[index] for index in range(len(works))]
        else:
            with self._waves.recorder.lock:
                waves = self._waves.run([work.codes for work in works])
        if not all(wave.isfinite().all() for wave in waves):
            raise NotFiniteError
        return waves


def _recent(codes: Tensor, window: int) -> Tensor:
    """The last ``window`` codes [window, num_vq], filled up in front with -1: no code."""
    recent = codes[-window:]
    return torch.cat([recent.new_full((window - len(recent), codes.shape[1]), -1), recent])
