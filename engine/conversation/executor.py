"""Carries out work, the same kind of many sessions in one batch.

Inside a batch nothing waits for the device: ids are drawn there, positions advance there, and the host reads the
result once at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from engine.conversation.reading import Transcribed
from engine.conversation.sampling import pick, speech_probabilities, text_token
from engine.conversation.session import Hearing, SessionPool
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
from engine.model.kv import KVArena, KVLayout, KVReview, KVRows, whole
from engine.model.omni import OmniModel
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
    ) -> None:
        """With ``rows`` every step of text or speech is a pass of just so many rows, padded where fewer sessions take
        part, and all other work is done session by session, so that who shares a batch changes no bit of a result
        (where :func:`engine.conversation.rows.exact_rows` says so). None: batches are as large as they come.

        A model that has no ears and no voice has no ``vocos`` either, and is asked for no sound.
        """
        omni = model if isinstance(model, OmniModel) else None
        self.model, self.vocos, self.pool, self.rows = cast(OmniModel, model), cast(Vocos, vocos), pool, rows
        self.stop_ids = frozenset(stop_ids)
        with torch.inference_mode():
            self._stops = torch.tensor(sorted(stop_ids), device=model.device)
            self._codes = cast(CodeTables, None if omni is None else omni.tts.tables())
        self.reader = None if omni is None or omni.reader is None else WordReader(omni)
        self._run: dict[type, Callable[[Sequence[Any]], list[Any]]] = {
            See: self.see,
            Hear: self.hear,
            HearClips: self.hear_clips,
            Listen: self.listen,
            Transcribe: self.transcribe,
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

    def _check(self, rows: Sequence[Tensor], arena: KVArena, slots: Sequence[int], starts: Sequence[int]) -> None:
        """Raise NotFiniteError unless all that was computed for each session is finite.

        What such a session wrote into ``arena`` from ``starts`` on is wiped: attention multiplies by what it masks out,
        so that a NaN would go on in its slot, whoever has it next.
        """
        sound: list[bool] = torch.stack([row.isfinite().all() for row in rows]).tolist()
        for is_sound, slot, start in zip(sound, slots, starts, strict=True):
            if not is_sound:
                arena.clear(slot, start, arena.capacity)
        if not all(sound):
            raise NotFiniteError

    def drive(self, task: Generator[Any, Any, T]) -> Generator[Any, None, T]:
        """Run one task alone, hand out what it gives, and return what it returns. Leaving the iteration early cancels
        the task."""
        try:
            item = next(task)
            while True:
                if isinstance(item, Work):
                    item = task.send(self.run([item])[0])
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
        vectors = self.model.see(patches.to(self.model.device, self.model.dtype), sizes)
        return list(vectors.split([len(work.image.sizes) for work in works]))

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
        heard = model.apm(mel.to(model.device, model.dtype), lengths)
        vectors = pool(model.audio_projection_layer(heard), step)
        return [row[: token_length(length, step)] for row, length in zip(vectors, lengths, strict=True)]

    def listen(self, works: Sequence[Listen]) -> list[Tensor]:
        assert self.model.reader is not None
        return [self.model.reader.listen(heard) for heard in self._encode(works)]

    def transcribe(self, works: Sequence[Transcribe]) -> list[Transcribed]:
        assert self.reader is not None
        return [self.reader.read(work.reading) for work in works]

    def _encode(self, works: Sequence[Hear | Listen]) -> list[Tensor]:
        """Encoder states [frames, d_model] of the next sound of each session; its audio cache grows."""
        model, limit = self.model, self.model.config.audio.max_positions
        lengths = [work.mel.shape[1] for work in works]
        frames = [conv_length(length) for length in lengths]
        for work, count in zip(works, frames, strict=True):
            if work.state.hearing.length + count >= limit:
                self.pool.reset_hearing(work.state)
        mel = pad_sequence([work.mel.T for work in works], batch_first=True).transpose(1, 2)
        slots, starts = [work.state.audio_slot for work in works], [work.state.hearing.length for work in works]
        cache = self.pool.audio.place(slots, starts, frames, sight=whole)
        heard = model.apm.stream(mel.to(model.device, model.dtype), lengths, cache)
        rows = [row[:count] for row, count in zip(heard, frames, strict=True)]
        self._check(rows, self.pool.audio, slots, starts)
        for work, count in zip(works, frames, strict=True):
            work.state.hearing = Hearing(work.state.hearing.resets, work.state.hearing.length + count)
        return rows

    def feed(self, works: Sequence[Feed]) -> list[Tensor]:
        lengths = [len(work.embeds) for work in works]
        slots, starts = [work.state.slot for work in works], [work.state.length + work.after for work in works]
        cache = self.pool.llm.place(slots, starts, lengths)
        states = self.model.llm(pad_sequence([work.embeds for work in works], batch_first=True), cache=cache)
        rows = [row[:length] for row, length in zip(states, lengths, strict=True)]
        self._check(rows, self.pool.llm, slots, starts)
        return rows

    def decode(self, works: Sequence[Decode]) -> list[Decoded]:
        llm, steps, sampling = self.model.llm, works[0].steps, works[0].sampling
        slots, starts = [work.state.slot for work in works], [work.state.length for work in works]
        device = self.model.device
        prompts = [torch.tensor(work.ids, device=device) for work in works]
        seen = torch.stack([work.seen for work in works])
        uniform, noises = _draw([work.noise for work in works], steps, None if sampling.greedy else (steps,), device)
        least = torch.tensor([work.min_new for work in works], device=device)
        banned = int(max(work.min_new for work in works))
        first, cache = self._prompt(prompts, slots, starts, steps)
        last = self._pad(torch.stack([states[-1] for states in first]))
        drawn: list[Tensor] = []
        likely: list[Tensor] = []
        for step in range(steps):
            if step:
                cache = cache.advance()
                last = llm(llm.embed(self._pad(drawn[-1]))[:, None], cache=cache)[:, 0]
            scores = llm.logits(last)[: len(works)]
            likely.append(scores.amax(-1))  # NaN if any score is
            if step < banned:
                scores[:, self._stops] = scores[:, self._stops].masked_fill((step < least)[:, None], float("-inf"))
            ids = text_token(scores, seen, sampling, None if uniform is None else uniform[:, step])
            seen.scatter_(1, ids[:, None], True)
            drawn.append(ids)
            if device.type == "cpu" and all(self.stop_ids.intersection(row) for row in torch.stack(drawn, 1).tolist()):
                break
        self._check(torch.stack(likely, 1).unbind(), self.pool.llm, slots, starts)
        results = []
        for work, ids, states, noise in zip(works, torch.stack(drawn, 1).tolist(), first, noises, strict=True):
            end = next((i + 1 for i, token in enumerate(ids) if token in self.stop_ids), len(ids))
            work.seen[torch.tensor(ids[:end], device=device)] = True
            stopped = ids[end - 1] in self.stop_ids
            results.append(Decoded(tuple(ids[:end]), stopped, states, noise))
        return results

    def _prompt(
        self, prompts: Sequence[Tensor], slots: Sequence[int], starts: Sequence[int], steps: int
    ) -> tuple[list[Tensor], KVLayout]:
        """Append ids int64 [T] of each -> their states [T, hidden] and the layout that ``steps`` steps go on from."""
        llm, arena, lengths = self.model.llm, self.pool.llm, [len(prompt) for prompt in prompts]
        if self.rows is None:
            cache = arena.place(slots, starts, lengths, steps=steps)
            states = llm(llm.embed(pad_sequence(list(prompts), batch_first=True)), cache=cache)
            return [row[:length] for row, length in zip(states, lengths, strict=True)], cache
        places = zip(slots, starts, lengths, strict=True)
        alone = [arena.place([slot], [start], [length], steps=steps) for slot, start, length in places]
        rows = [llm(llm.embed(prompt[None]), cache=cache)[0] for prompt, cache in zip(prompts, alone, strict=True)]
        return rows, KVRows(tuple(alone), self.rows)

    def _pad(self, rows: Tensor) -> Tensor:
        """Rows [B, ...] with as many rows of zeros behind them as a step needs."""
        missing = 0 if self.rows is None else self.rows - len(rows)
        return F.pad(rows, (0, 0) * (rows.dim() - 1) + (0, missing)) if missing else rows

    def read(self, works: Sequence[Read]) -> list[Tensor]:
        tts, device = self.model.tts, self.model.device
        lengths = [len(work.ids) for work in works]
        slots, starts = [work.voice.slot for work in works], [work.start for work in works]
        cache = self.pool.speech.place(slots, starts, lengths)
        ids = pad_sequence([torch.tensor(work.ids) for work in works], batch_first=True).to(device)
        speakers = torch.stack([work.voice.speaker for work in works])
        states = tts(tts.embed_text(ids, speakers), cache=cache)
        rows = [row[:length] for row, length in zip(states, lengths, strict=True)]
        self._check(rows, self.pool.speech, slots, starts)
        return rows

    def recall(self, works: Sequence[Recall]) -> list[Tensor]:
        tts, device = self.model.tts, self.model.device
        codes = torch.stack([work.voice.codes[:-1] for work in works]).to(device)
        begin = torch.full_like(codes[:, :1], -1)
        slots, starts = [work.voice.slot for work in works], [tts.config.condition_length - 1] * len(works)
        sight = tts.sight(torch.tensor([work.text_length for work in works], device=device))
        cache = self.pool.speech.place(slots, starts, [1 + codes.shape[1]] * len(works), sight=sight)
        rows = list(tts(tts.embed_codes(torch.cat([begin, codes], 1)), cache=cache))
        self._check(rows, self.pool.speech, slots, starts)
        return rows

    def speak(self, works: Sequence[Speak]) -> list[Spoken]:
        tts, device = self.model.tts, self.model.device
        steps, sampling, config = works[0].steps, works[0].sampling, tts.config
        before = [len(work.voice.codes) for work in works]
        slots, starts = [work.voice.slot for work in works], [config.condition_length - 1 + count for count in before]
        cache = self._speaking(works, slots, starts)
        past = [_recent(work.voice.codes, max(1, sampling.window)) for work in works]
        history = torch.stack(past).to(device).transpose(1, 2)
        shape = None if sampling.greedy else (steps, config.num_vq)
        uniform, noises = _draw([work.noise for work in works], steps, shape, device)
        guard = torch.tensor([work.guard for work in works], device=device)
        begun = torch.tensor([count > 0 for count in before], device=device)
        ended = torch.zeros_like(begun)
        drawn: list[Tensor] = []
        likely: list[Tensor] = []
        for step in range(steps):
            if step:
                cache = cache.advance()
                embeds = self._codes.embed(self._pad(drawn[-1])[:, None])
            else:
                embeds = tts.embed_codes(self._pad(history)[:, None, :, -1])
            logits = tts.step(embeds, cache, self._codes)[: len(works)]
            likely.append(logits.amax(-1))
            chances = speech_probabilities(logits, history, sampling, warp=begun, allow_end=guard <= step)
            codes = pick(chances, None if uniform is None else uniform[:, step])
            history = torch.cat([history[:, :, 1:], codes[:, :, None]], 2)
            drawn.append(codes)
            begun.fill_(True)
            if device.type == "cpu":
                ended |= (codes == config.audio_eos_id).any(1)
                if ended.all():
                    break
        self._check(torch.stack(likely, 1).unbind(), self.pool.speech, slots, starts)
        results = []
        for work, codes, noise in zip(works, torch.stack(drawn, 1).cpu(), noises, strict=True):
            ends = (codes == config.audio_eos_id).any(1).nonzero()
            finished = len(ends) > 0
            work.voice.codes = torch.cat([work.voice.codes, codes[: int(ends[0])] if finished else codes])
            results.append(Spoken(finished, noise))
        return results

    def _speaking(self, works: Sequence[Speak], slots: Sequence[int], starts: Sequence[int]) -> KVLayout:
        """The layout of the next code of each, with room for the steps after it."""
        tts, arena, steps = self.model.tts, self.pool.speech, works[0].steps
        known = torch.tensor([work.text_length for work in works], device=self.model.device)
        if self.rows is None:
            return arena.place(slots, starts, [1] * len(works), sight=tts.sight(known), steps=steps)
        alone = [
            arena.place([slot], [start], [1], sight=tts.sight(text), steps=steps)
            for slot, start, text in zip(slots, starts, known[:, None], strict=True)
        ]
        return KVRows(tuple(alone), self.rows)

    def look_back(self, works: Sequence[LookBack]) -> list[Tensor]:
        tts, device, count = self.model.tts, self.model.device, works[0].codes
        first_text = 1 + tts.config.num_spk_embs
        sight = tts.sight(torch.tensor([work.text_length for work in works], device=device))
        starts = [tts.config.condition_length - 1 + len(work.voice.codes) - count for work in works]
        slots = [work.voice.slot for work in works]
        cache = self.pool.speech.place(slots, starts, [count] * len(works), sight=sight.each)
        review = KVReview.of(cache, (first_text, first_text + 1 + max(work.text_length for work in works)))
        # What was fed when the codes were drawn: each code's predecessor, or [Ptts] in front of the first.
        codes = torch.stack([_recent(work.voice.codes[:-1], count) for work in works]).to(device)
        tts(tts.embed_codes(codes), cache=review)
        return [row[:, : work.text_length + 1] for row, work in zip(review.mean().cpu(), works, strict=True)]

    def render(self, works: Sequence[Render]) -> list[Tensor]:
        codes = torch.stack([work.codes for work in works]).to(self.model.device)
        waves = self.vocos(self.model.tts.dvae.decode(codes.transpose(1, 2))).cpu()
        if not waves.isfinite().all():
            raise NotFiniteError
        return list(waves)


def _recent(codes: Tensor, window: int) -> Tensor:
    """The last ``window`` codes [window, num_vq], filled up in front with -1: no code."""
    recent = codes[-window:]
    return torch.cat([recent.new_full((window - len(recent), codes.shape[1]), -1), recent])


def _draw(
    noises: Sequence[Any], steps: int, shape: tuple[int, ...] | None, device: torch.device
) -> tuple[Tensor | None, list[Any]]:
    """Uniform numbers [B, *shape] on the device and the streams after them; none for greedy choices."""
    if shape is None:
        return None, list(noises)
    pairs = [noise.draw(*shape) for noise in noises]
    return torch.stack([numbers for numbers, _ in pairs]).to(device), [noise for _, noise in pairs]
