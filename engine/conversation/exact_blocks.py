"""Blocks of steps of a fixed number of rows, none of which depends on another to the last bit (:mod:`.rows`).

The first token of a block is fed session by session, the others share passes of just so many rows, with rows of zeros
where fewer sessions take part. A session that wants fewer steps than the others leaves the block early.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.conversation.speech_steps import SpeechRows, draw_codes
from engine.conversation.text_steps import TextRows, draw_text
from engine.conversation.work import Decode, Speak
from engine.model.kv import KVArena, KVBatch, KVRows
from engine.model.omni import OmniModel
from engine.model.tts import CodeTables

T = TypeVar("T")


class ExactBlocks:
    """Blocks of text and speech for up to ``rows`` sessions at once."""

    def __init__(self, model: OmniModel, llm: KVArena, speech: KVArena, stops: Tensor, tables: CodeTables, rows: int):
        self.model, self.llm, self.speech = model, llm, speech
        self.stops, self.tables, self.rows = stops, tables, rows

    def text(self, works: Sequence[Decode], starts: Sequence[int]) -> tuple[list[list[int]], list[Tensor]]:
        """Append the ids of each of ``works`` at its place of ``starts``, and draw what comes after them.

        Returns the rows of :meth:`TextRows.results`, and the states [T, hidden] after the ids.
        """
        llm, device, order = self.model.llm, self.model.device, _longest_first(works)
        works, starts = [works[index] for index in order], [starts[index] for index in order]
        prompts = [torch.tensor(work.ids, device=device) for work in works]
        alone = [
            self.llm.place([work.state.slot], [start], [len(work.ids)], steps=work.steps)
            for work, start in zip(works, starts, strict=True)
        ]
        first = [llm(llm.embed(ids[None]), cache=cache)[0] for ids, cache in zip(prompts, alone, strict=True)]
        count, steps, sampling = len(works), works[0].steps, works[0].sampling
        rows = TextRows.make(count, steps, self.model.config.llm.vocab_size, device)
        _start(rows, works)
        rows.least.copy_(torch.tensor([work.min_new for work in works]))
        torch.stack([work.seen for work in works], out=rows.seen)
        if not sampling.greedy:
            _fill(rows.uniform, [work.noise.draw(work.steps)[0] for work in works])

        def draw(states: Tensor) -> None:
            draw_text(llm.logits(states)[:count], rows, self.stops, sampling)

        def step(cache: KVRows) -> None:
            draw(llm(llm.embed(self._pad(rows.ids))[:, None], cache=cache)[:, 0])

        draw(self._pad(torch.stack([states[-1] for states in first])))
        self._go_on(alone, works, rows.alive, step)
        if rows.sound.all():  # else all of it is done again
            for work, seen in zip(works, rows.seen, strict=True):
                work.seen.copy_(seen)
        return _in_order(order, rows.results().tolist()), _in_order(order, first)

    def codes(self, works: Sequence[Speak], history: Tensor) -> list[Tensor]:
        """Draw codes for each of ``works``; ``history`` int64 [works, window, num_vq] on the CPU are its last ones,
        negative where there are none. Returns the rows of :meth:`SpeechRows.results`."""
        tts, device, order = self.model.tts, self.model.device, _longest_first(works)
        works, history = [works[index] for index in order], history[order].to(device).transpose(1, 2)
        count, steps, sampling = len(works), works[0].steps, works[0].sampling
        known = torch.tensor([work.text_length for work in works], device=device)
        begin = tts.config.condition_length - 1
        alone = [
            self.speech.place(
                [work.voice.slot], [begin + len(work.voice.codes)], [1], sight=tts.sight(text), steps=work.steps
            )
            for work, text in zip(works, known[:, None], strict=True)
        ]
        like = tts.model.norm.weight
        rows = SpeechRows.make(count, steps, history.shape[2], tts.config.num_vq, like)
        _start(rows, works)
        rows.history.copy_(history)
        rows.guard.copy_(torch.tensor([work.guard for work in works]))
        rows.begun.copy_(torch.tensor([len(work.voice.codes) > 0 for work in works]))
        if not sampling.greedy:
            _fill(rows.uniform, [work.noise.draw(work.steps, tts.config.num_vq)[0] for work in works])

        def draw(embeds: Tensor, cache: KVRows) -> None:
            logits = tts.step(embeds, cache, self.tables)[:count]
            draw_codes(logits, rows, self.tables, tts.config.audio_eos_id, sampling)

        draw(tts.embed_codes(self._pad(history)[:, None, :, -1]), KVRows(tuple(alone), self.rows))
        self._go_on(alone, works, rows.alive, lambda cache: draw(self._pad(rows.embeds)[:, None], cache))
        return _in_order(order, list(rows.results().cpu()))

    def _go_on(
        self, alone: Sequence[KVBatch], works: Sequence[Decode | Speak], alive: Tensor, step: Callable[[KVRows], None]
    ) -> None:
        """All steps but the first, until nothing that is drawn would count."""
        cache = KVRows(tuple(alone), self.rows)
        for number in range(1, works[0].steps):
            if not alive.any():
                return
            staying = sum(work.steps > number for work in works)
            cache = KVRows(cache.batches[:staying], self.rows).advance()
            step(cache)

    def _pad(self, rows: Tensor) -> Tensor:
        """Rows [B, ...] with as many rows of zeros behind them as a step needs."""
        return F.pad(rows, (0, 0) * (rows.dim() - 1) + (0, self.rows - len(rows)))


def _longest_first(works: Sequence[Decode | Speak]) -> list[int]:
    return sorted(range(len(works)), key=lambda index: -works[index].steps)


def _in_order(order: Sequence[int], sorted_items: Sequence[T]) -> list[T]:
    """Undo an order."""
    return [item for _, item in sorted(zip(order, sorted_items, strict=True), key=lambda pair: pair[0])]


def _start(rows: TextRows | SpeechRows, works: Sequence[Decode | Speak]) -> None:
    rows.limit.copy_(torch.tensor([work.steps for work in works]))
    rows.alive.fill_(True)
    rows.sound.fill_(True)


def _fill(target: Tensor, numbers: Sequence[Tensor]) -> None:
    for row, drawn in zip(target, numbers, strict=True):
        row[: len(drawn)] = drawn
