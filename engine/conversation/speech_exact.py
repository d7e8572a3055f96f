"""Speech exactly as the published code makes it: the mode in which results are compared with it.

Text is read ten slots at a time, each followed by 25 audio codes; the wave of a block is held back until the next one
exists and is faded into it. What this does to a caller, and what calls do instead, is in the table in README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.conversation.sampling import SpeechSampling
from engine.conversation.session import SessionState
from engine.conversation.speech import (
    BLOCK_CODES,
    CONTEXT_CODES,
    CONTEXT_TEXT,
    MAX_CODES,
    SEGMENT_TOKENS,
    SpeechChunk,
    SpeechTokens,
    TextSource,
    crossfade,
    language_of,
    sentence_end,
)
from engine.conversation.work import Read, Recall, Render, Speak, Spoken, Step, Task, Voice, Work

DECODE_CONTEXT = 4
"""Codes of the block before that a block's wave is made with: as many samples as the fade takes."""


@dataclass(slots=True)
class _Carry:
    """What a stretch of speech hands to the next."""

    text_ids: list[int]
    text: str
    codes: Tensor


class ExactSpeech:
    """One spoken answer. ``voice`` is a slot of the speech storage for its time; ``clear`` blanks it."""

    def __init__(
        self,
        state: SessionState,
        source: TextSource,
        tokens: SpeechTokens,
        sampling: SpeechSampling,
        *,
        slot: int,
        speaker: Callable[[Tensor], Tensor],
        clear: Callable[[int], None],
    ) -> None:
        self.state, self.source, self.tokens, self.sampling = state, source, tokens, sampling
        self.slot, self.speaker, self.clear = slot, speaker, clear
        self.segments: list[Tensor] = []
        """Codes [N, num_vq] of every stretch that made any, with those carried over in front."""

    def task(self) -> Task[SpeechChunk]:
        first = yield from self.source.next()
        if first is None or first.speaker is None:
            return
        voice = Voice(self.slot, self.speaker(first.speaker), self._no_codes())
        text = first.text.split("<|tts_eos|>")[0]
        carry: _Carry | None = None
        while True:
            before = 0 if carry is None else len(carry.codes)
            carry = yield from self._segment(voice, text, carry)
            if len(voice.codes) > before:
                self.segments.append(voice.codes)
            if carry is None:
                return
            text, voice.codes = "", carry.codes

    def _segment(
        self, voice: Voice, text: str, carry: _Carry | None
    ) -> Generator[Work | SpeechChunk, Any, _Carry | None]:
        """Speak one stretch; returns what the next one needs, None after the last."""
        config, tokens = self.tokens.config, self.tokens
        head = len(tokens.head)
        self.clear(voice.slot)
        chunk, decoded, shown = 0, 0, 0
        ids: list[int] = tokens.encode(text)
        if carry is not None:
            voice.codes = carry.codes
            yield Read(voice, 0, (*tokens.head, *carry.text_ids))
            yield Recall(voice, len(carry.text_ids))
            text = tokens.decode(carry.text_ids) + carry.text
            ids = tokens.encode(text)
            chunk, decoded, shown = len(carry.text_ids) // config.text_chunk_size, len(voice.codes), len(text)
        raw, language = text, ""
        pending: Tensor | None = None
        rest: str | None = None
        finished = limited = False
        items = 0
        while not finished:
            item = yield from self.source.next()
            if item is None:
                if carry is not None and not items and not carry.text:
                    return None
                break
            items += 1
            piece = item.text.split("<|tts_eos|>")[0]
            raw += piece
            if items == 1 and not piece and carry is not None:
                return None
            if items <= 2:
                language = language_of(raw)
            text += tokens.readable(piece, language)
            ids = tokens.encode(text)
            if tokens.count(ids) >= config.text_reserved_len - SEGMENT_TOKENS and (end := sentence_end(piece)):
                at = text.rfind(end)
                text, rest = text[: at + 1], text[at + 1 :]
                ids = tokens.encode(text)
                break
            if tokens.count(ids) >= (chunk + 1) * config.text_chunk_size:
                begin = head + chunk * config.text_chunk_size if chunk else 0
                last = min(head + (chunk + 1) * config.text_chunk_size, config.condition_length - 1)
                yield Read(voice, begin, tokens.row(ids)[begin:last])
                finished, wave = yield from self._block(voice, tokens.count(ids), decoded)
                chunk, decoded = chunk + 1, len(voice.codes)
                if pending is not None:
                    out, pending = crossfade(pending, wave)
                    yield SpeechChunk(raw[shown:], out)
                    shown = len(raw)
                else:
                    pending = wave
        if not finished:
            begin = head + chunk * config.text_chunk_size if chunk else 0
            last = head + tokens.count(ids) + 1
            if last > begin:
                yield Read(voice, begin, tokens.row(ids)[begin:last])
        while not finished:
            finished, wave = yield from self._block(voice, tokens.count(ids), decoded)
            decoded = len(voice.codes)
            if pending is not None:
                out, pending = crossfade(pending, wave)
                yield SpeechChunk(raw[shown:], out)
                shown = len(raw)
            else:
                pending = wave
            if not finished and decoded > MAX_CODES:
                finished = limited = True
        if pending is not None:
            yield SpeechChunk(raw[shown:], pending)
        if rest is None or limited:
            return None
        return _Carry(ids[: tokens.count(ids)][-CONTEXT_TEXT:], rest, voice.codes[-CONTEXT_CODES:])

    def _block(self, voice: Voice, text_length: int, decoded: int) -> Step[tuple[bool, Tensor]]:
        """The next block of codes and its wave, made with a little of what came before."""
        spoken: Spoken = yield Speak(
            voice, BLOCK_CODES, text_length, self.sampling.min_tokens, self.sampling, self.state.noise
        )
        self.state.noise = spoken.noise
        wave = yield Render(voice.codes[max(decoded - DECODE_CONTEXT, 0) :])
        return spoken.finished, wave

    def _no_codes(self) -> Tensor:
        return torch.empty(0, self.tokens.config.num_vq, dtype=torch.int64)
