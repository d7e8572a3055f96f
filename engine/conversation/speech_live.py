"""Speech as a call needs it: the first sound early, no gap, nothing repeated, all that was written is spoken.

What differs from the published way, and why, is in the table in README.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.client import OUTPUT_RATE
from engine.conversation.answer_text import AnswerText
from engine.conversation.sampling import SpeechSampling
from engine.conversation.session import SessionState
from engine.conversation.speech import (
    BLOCK_CODES,
    CONTEXT_CODES,
    CONTEXT_TEXT,
    MAX_CODES,
    OVERLAP,
    SpeechChunk,
    SpeechTokens,
    TextItem,
    TextSource,
    language_of,
    sentence_end,
)
from engine.conversation.work import LookBack, Read, Recall, Render, Speak, Spoken, Step, Task, Voice, Work

PARTIAL_WORD = re.compile(
    r"(?:[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|(?<=[^\W_])['’]|(?<=[0-9])[.,:]|(?<=\b[A-Za-z])\.|[$£€]"
    r"|(?<=[0-9])\s(?:$|[-−–*/x](?:\s|$)))+$"
)
"""Letters and digits at the end of a text that the next piece may continue (not so where each sign is a word), together
with the signs that are read with them: "I'", "$3.", "p." and "7 -" may become "I'm", "$3.50", "p.m." and "7 - 5"."""

_INSIDE = r"(?<=[A-Za-z0-9])\.(?=[A-Za-z0-9])"
_BETWEEN = r"(?<=[0-9])\s[-−–*/x]\s(?=[0-9])"
_WORD, _STOP = rf"(?:[^\s.。!?！？]|{_INSIDE}|{_BETWEEN})", rf"(?:(?!{_INSIDE})[.。!?！？])"
PORTION = re.compile(rf"{_WORD}{{0,40}}{_STOP}+\s*|{_WORD}{{1,40}}\s*|\s+")
"""A word or the end of a sentence, with the space that follows. A point inside of a word ("3.50") ends nothing, and two
figures with a sign between them are read as one word."""


LEVEL_SAMPLES = OUTPUT_RATE // 100
"""Samples over which loudness is measured."""

QUIET = 10 ** (-55 / 10)
"""Mean square of what is as good as silence: -55 dBFS. Voices begin some 40 dB louder, their silence is at -70."""

ONSET_SAMPLES = OUTPUT_RATE // 100
"""Samples that are kept in front of the first sound: 10 ms, in which it rises. What lies before is below -55 dBFS, and
nobody hears it, but waits for it."""


def silence_of(wave: Tensor) -> int:
    """Samples of silence that a wave float32 [N] begins with: all of them, if nothing in it can be heard."""
    level = wave[: len(wave) // LEVEL_SAMPLES * LEVEL_SAMPLES].view(-1, LEVEL_SAMPLES).square().mean(1)
    loud = (level > QUIET).nonzero()
    return int(loud[0]) * LEVEL_SAMPLES if len(loud) else len(wave)


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How a live answer is paced."""

    first_text: int = 12
    """Text tokens of the first block: speech can start once its first ten slots are known."""
    text: int = 8
    """Text tokens of every further block."""
    first_codes: int = 12
    """Audio codes of the first block: 12 give 171 ms of sound besides the overlap."""
    first_overlap: int = OVERLAP
    """Samples of the first block that wait for the second one; less of them is an earlier sound, and a shorter fade."""
    codes: int = BLOCK_CODES
    """Audio codes of a block at most."""
    growth: float = 0.5
    """How many codes more than the first block a later one has, as a share of those before it. Blocks grow slowly, so
    that none takes longer than the sound before it lasts."""
    max_trim: int = OUTPUT_RATE // 2
    """Samples of silence at the beginning of an answer that are left out at most."""
    max_codes_per_token: int = 50
    """Audio codes per text token after which speech that does not end is ended."""


class LiveSpeech:
    """One spoken answer."""

    def __init__(
        self,
        state: SessionState,
        source: TextSource,
        tokens: SpeechTokens,
        sampling: SpeechSampling,
        options: LiveOptions,
        said: AnswerText,
        *,
        slot: int,
        speaker: Callable[[Tensor], Tensor],
        context: int,
        samples_per_code: int,
    ) -> None:
        """``said`` is told all that is written and spoken. ``slot`` of the speech storage is the caller's; ``context``
        codes on its left are what a wave depends on."""
        self.state, self.source, self.tokens, self.sampling = state, source, tokens, sampling
        self.options, self.said, self.slot, self.speaker = options, said, slot, speaker
        self.context, self.samples_per_code = context, samples_per_code
        self.codes = torch.empty(0, tokens.config.num_vq, dtype=torch.int64)
        """All codes of the answer."""
        self._raw = self._held = ""
        self._over = False
        self._ids: list[int] = []  # text tokens of the present stretch, those carried over in front
        self._before = 0  # text tokens that earlier stretches spoke
        self._closed = False  # the present stretch takes no more text
        self._later = ""  # text for the next stretches
        self._sent = self._rendered = 0
        self._quiet = True  # nothing but silence was rendered so far
        self._tail = torch.empty(0)

    def task(self) -> Task[SpeechChunk]:
        voice: Voice | None = None
        while voice is None:
            item = yield from self.source.next()
            if item is None:
                return
            if item.speaker is not None:
                voice = Voice(self.slot, self.speaker(item.speaker), self.codes)
            yield from self._take(item)
        carried = 0
        while True:
            left = yield from self._stretch(voice, carried)
            self._closed = True
            while not (left or self._later or self._over):
                yield from self._pull()
            if not (left or self._later):
                break
            seen = self._ids[: len(self._ids) - len(left)]
            context = seen[-CONTEXT_TEXT:] if len(voice.codes) else []
            carried = len(context)
            voice.codes = voice.codes[-CONTEXT_CODES:]
            self._ids, self._closed = [*context, *left], False
            self._admit()
        yield from self._sound(last=True)

    def _pull(self, missing: int | None = None) -> Task[SpeechChunk]:
        """Take the next piece of text; where speech waits for so many ``missing`` tokens, no more than they take, and
        one if the last word could not be continued yet: a word waits for the token after it."""
        most = None if missing is None else self.tokens.least_text(missing) + (not self._held)
        item = yield from self.source.next(most)
        if item is not None:
            yield from self._take(item)
        else:
            self._over = True
            self._later, self._held = self._later + self._held, ""
            self._admit()

    def _take(self, item: TextItem) -> Task[SpeechChunk]:
        """Take a piece of text in; gives it out as a caption with the times at which its words will be spoken."""
        self._raw += item.text
        starts = self.said.write(item.parts or ((item.text, item.position),))
        text = self._held + item.text
        partial = PARTIAL_WORD.search(text)
        end = partial.start() if partial else len(text)
        self._later, self._held = self._later + text[:end], text[end:]
        self._admit()
        if item.text:
            yield SpeechChunk(item.text, torch.empty(0), starts)

    def _admit(self) -> None:
        """Move waiting text into the present stretch of speech until it is full."""
        reserved = self.tokens.config.text_reserved_len
        while self._later and not self._closed:
            portion = PORTION.match(self._later)
            assert portion is not None
            ids = self.tokens.encode(self.tokens.readable(portion[0], language_of(self._raw)))
            if len(self._ids) + len(ids) >= reserved:
                self._closed = True
                return
            self._ids += ids
            self.said.admit(portion.end(), len(ids))
            self._later = self._later[portion.end() :]
            self._closed = len(self._ids) >= self.tokens.enough and bool(sentence_end(portion[0]))
        if self._over and not self._later:
            self._closed = True

    def _stretch(self, voice: Voice, carried: int) -> Generator[Work | SpeechChunk, Any, list[int]]:
        """Speak the present stretch to its end.

        ``carried`` of its text tokens were spoken before, as were the codes that the voice has. Returns the text tokens
        that speech ended without having seen.
        """
        config, head = self.tokens.config, len(self.tokens.head)
        options, read, own = self.options, 0, 0
        while True:
            steps = min(options.codes, options.first_codes + int(options.growth * len(self.codes)))
            while not self._closed and (missing := self._window(voice, steps) - len(self._ids)) > 0:
                yield from self._pull(missing)
            if len(self._ids) == carried:
                return []
            slots = [*self.tokens.head, *self._ids]
            if self._closed and len(self._ids) < config.text_reserved_len:
                slots.append(config.text_eos_token_id)
            if not len(self.codes):  # the first sound waits for nothing that it does not see
                slots = slots[: head + self._window(voice, steps)]
            if not read and carried and len(voice.codes):
                read = head + carried
                yield Read(voice, 0, tuple(slots[:read]))
                yield Recall(voice, carried - 1)
            if len(slots) > read:
                yield Read(voice, read, tuple(slots[read:]))
                read = len(slots)
            before, guard = len(voice.codes), max(0, self.sampling.min_tokens - own)
            spoken: Spoken = yield Speak(voice, steps, read - head - 1, guard, self.sampling, self.state.noise)
            self.state.noise = spoken.noise
            new = voice.codes[before:]
            own += len(new)
            self.codes = torch.cat([self.codes, new])
            limit = min(MAX_CODES, options.codes + options.max_codes_per_token * (len(self._ids) - carried))
            over = spoken.finished or (self._closed and own >= limit) or own >= MAX_CODES
            seen = min(self._window(voice, 1), read - head, len(self._ids))
            known = seen if spoken.finished or not over else len(self._ids)
            yield from self._align(voice, len(new), carried, known, read - head - 1, over=over)
            yield from self._sound()
            if over:
                self._before += known - carried
                return self._ids[known:]
            if not self._over:
                yield from self._pull()

    def _align(self, voice: Voice, codes: int, carried: int, known: int, text_length: int, *, over: bool) -> Step[None]:
        """Find out which text the last ``codes`` codes say. The ``known`` first tokens of the stretch are seen by now;
        the ``carried`` ones were spoken before. With ``over`` the stretch has come to its end."""
        seen = np.zeros((codes, known - carried), np.float32)
        if codes:
            attention: Tensor = yield LookBack(voice, codes, text_length)
            part = attention.numpy()[:, carried:known]
            seen[:, : part.shape[1]] = part
        frontier = max(0, len(self.codes) * self.samples_per_code - self._overlap)
        if known > carried:
            last = self._before + known - carried - 1 if over else None
            self.said.follow(seen, self._before, fix=frontier // self.samples_per_code, last=last)

    def _window(self, voice: Voice, steps: int) -> int:
        """Text tokens that the last of the next ``steps`` codes may see."""
        config = self.tokens.config
        past = config.condition_length - 1 + len(voice.codes) + steps - 1
        begun = math.ceil((past - config.text_reserved_len) / config.audio_chunk_size)
        return min(begun * config.text_chunk_size, config.text_reserved_len)

    def _sound(self, *, last: bool = False) -> Task[SpeechChunk]:
        """Give out the wave of the codes so far, but for the overlap that the next block is faded into.

        Codes are decoded together with so many before them that those before do not matter; what was held back is faded
        into its second version, which knows what follows.
        """
        size = self.samples_per_code
        fresh = self._tail
        if len(self.codes) > self._rendered:
            start = max(0, self._sent // size - self.context)
            wave = yield Render(self.codes[start:])
            fresh = wave[self._sent - start * size :]
            fade = torch.linspace(0, 1, len(self._tail) + 2)[1:-1]
            faded = self._tail + (fresh[: len(fade)] - self._tail) * fade
            fresh = torch.cat([faded, fresh[len(fade) :]])
            self._rendered = len(self.codes)
        ready = len(fresh) if last else max(0, len(fresh) - self._overlap)
        skip = 0 if last or not self._quiet else self._silence(fresh[:ready])
        if self._quiet and not last:  # the end of the silence waits for what follows it
            ready = skip
        out, self._tail = fresh[skip:ready], fresh[ready:]
        self._sent += ready
        self.said.trimmed += skip
        starts = self.said.hand_over(self._sent - self.said.trimmed, last=last)
        if len(out) or starts:
            yield SpeechChunk("", out, starts)

    @property
    def _overlap(self) -> int:
        """Samples that wait for what follows them."""
        return OVERLAP if self._sent > self.said.trimmed else self.options.first_overlap

    def _silence(self, wave: Tensor) -> int:
        """How many samples can be left out in front of the answer's first sound; ``_quiet`` tells whether it is still
        to come."""
        room, silent = self.options.max_trim - self.said.trimmed, silence_of(wave)
        self._quiet = silent == len(wave) <= room
        return max(0, min(silent - ONSET_SAMPLES, room))
