"""What has been read of a person's message, and which of its words are certain.

After every second the whole message is read again, as if it ended there. Words that two readings in a row agree on are
certain (LocalAgreement-2; Macháček et al. 2023, "Turning Whisper into Real-Time Transcription System"); every later
reading begins with them. The last reading is the draft of the next, which only has to check it, in one pass.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.model.audio import FRAMES_PER_SECOND
from engine.processing.words import WordTokens

INVENTED = frozenset(["you"])
"""What Whisper reads where there is nothing to read: learnt from subtitles of silence. Nobody says this and no more."""

LEAST_LOG_PROBABILITY = -1.5
"""Mean of a reading's tokens: below, it is a guess. Higher than that are all but a few of short words in noise."""

MOST_COMPRESSION = 2.4
"""Of a text by zlib, before it counts as one that goes round in circles (Whisper's own figure)."""

LOOP_WORDS = 2
"""How often a piece may be repeated at the end of a reading that goes round in circles."""

AGAIN = 1
"""Pieces of sound, a second each, that are encoded again with the one behind them: what a second sounds like depends on
what follows, most of all where a word lies across its border. Of 235 words of three voices 2.6 % are read wrong so,
2.1 % with two pieces, and 14 % where none is encoded again."""

WORDS_PER_SECOND, WORDS_MORE = 5.0, 1
"""Nobody says more words than this: a reading that has more was invented, mostly by going round in circles over a sound
too short for what :data:`MOST_COMPRESSION` needs. A digit is a word, but for zeros behind others: a million has six."""


@dataclass(frozen=True, slots=True)
class Transcribed:
    """One reading of all the sound there is."""

    ids: tuple[int, ...]
    """Tokens, from the first that is certain to the last."""
    log_probability: float
    """Mean over the tokens that are not certain, their end included."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a session knows of the words of the message that goes on. A value: nothing in it is ever changed."""

    sound: tuple[Tensor, ...] = field(default=(), compare=False)
    """Keys and values [layers, 2, heads, frames, head_dim] of every piece of sound since the ears were reset."""
    latest: tuple[NDArray[np.float32], ...] = field(default=(), compare=False)
    """Samples of the last :data:`AGAIN` of them, at most."""
    ids: tuple[int, ...] = ()
    """The newest reading of ``sound``."""
    certain: int = 0
    """How many of ``ids`` are certain, and in the context."""
    begun: bool = False
    """There are words in the message already, read or typed."""
    asked: tuple[int, ...] = ()
    """The reading, without punctuation at its end, behind whose last word the language model was asked …"""
    state: Tensor | None = field(default=None, compare=False)
    """… and what came out of it there [hidden]."""

    @property
    def frames(self) -> int:
        """Encoder frames (20 ms) of the sound."""
        return sum(part.shape[3] for part in self.sound)

    @property
    def settled(self) -> tuple[Tensor, ...]:
        """The pieces of the sound that are not encoded again with the next one."""
        return self.sound[: len(self.sound) - len(self.latest)]

    @property
    def settled_frames(self) -> int:
        return sum(part.shape[3] for part in self.settled)

    def hear(self, samples: NDArray[np.float32], sound: Tensor) -> Reading:
        """With one more piece of sound: ``samples``, encoded together with the latest pieces as ``sound``."""
        kept = self.settled
        sizes = [part.shape[3] for part in self.sound[len(kept) :]]
        parts = sound.split([*sizes, sound.shape[3] - sum(sizes)], 3)
        return replace(self, sound=(*kept, *parts), latest=(*self.latest, samples)[-AGAIN:])

    def ask(self, state: Tensor | None, words: WordTokens) -> Reading:
        """With what came out of the language model behind its last word; None where nothing new was read: then what
        came out before still holds if the words are the same."""
        asked = self.ids[: _words_end(self.ids, self.certain, words)]
        if state is None and asked == self.asked:
            return self
        return replace(self, asked=asked, state=state)

    def deaf(self) -> Reading:
        """Without its sound, and without what is not certain."""
        return Reading(begun=self.begun)


def read_on(reading: Reading, new: Transcribed, words: WordTokens) -> tuple[Reading, str]:
    """The reading after a new one of its sound, and the text that is certain now and was not before."""
    ids = believable(new, reading.certain, reading.frames / FRAMES_PER_SECOND, words)
    return _advance(replace(reading, ids=ids), agreed(reading.ids, ids, reading.certain, words), words)


def read_rest(reading: Reading, words: WordTokens) -> tuple[Reading, str]:
    """The message is over: the reading with all of it certain, and the text that was not before."""
    return _advance(reading, len(reading.ids), words)


def rest_of(reading: Reading, words: WordTokens) -> str:
    """The text that was read and is not certain yet."""
    return _text(reading, len(reading.ids), words)


def last_words_of(reading: Reading, words: WordTokens) -> str:
    """The same without punctuation behind the last word."""
    return _text(reading, _words_end(reading.ids, reading.certain, words), words)


def agreed(before: Sequence[int], after: Sequence[int], certain: int, words: WordTokens) -> int:
    """How many tokens of ``after`` are certain: whole words that ``before`` had too, at least ``certain``.

    Punctuation behind the last word waits: every reading takes the end of the sound for the end of a sentence.
    """
    same = 0
    for one, other in zip(before, after, strict=False):
        if one != other:
            break
        same += 1
    end = _words_end(after, certain, words)
    if same >= end:
        return max(end, certain)
    while same > certain and not words.begins_word(after[same]):
        same -= 1
    return max(same, certain)


def believable(new: Transcribed, certain: int, sound_s: float, words: WordTokens) -> tuple[int, ...]:
    """The tokens of a reading of so many seconds of sound, without what was invented behind the certain ones."""
    ids = new.ids
    if not_said(ids, sound_s, words):
        ids = without_loop(ids, certain, words)
    text = words.text(ids)
    only = "".join(filter(str.isalnum, text.lower()))
    if certain == 0 and (only in INVENTED or not only):
        return ()
    return ids[:certain] if new.log_probability < LEAST_LOG_PROBABILITY or _hasty(text, sound_s) else ids


def not_said(ids: Sequence[int], sound_s: float, words: WordTokens) -> bool:
    """Whether a reading of so many seconds goes round in circles, or has more words than can be said in them."""
    text = words.text(ids)
    data = text.encode()
    return len(data) / max(1, len(zlib.compress(data))) > MOST_COMPRESSION or _hasty(text, sound_s)


def without_loop(ids: Sequence[int], certain: int, words: WordTokens) -> tuple[int, ...]:
    """A reading that ends in circles is cut where they begin to repeat; one that does not keeps what is certain.

    The first round may be written a little differently: it has no space in front, or a capital.
    """
    pieces = [words.text([token]).strip().lower() for token in ids]
    for size in range(1, len(ids) // 3 + 1):
        end = len(ids)
        while end - 2 * size >= certain and pieces[end - size : end] == pieces[end - 2 * size : end - size]:
            end -= size
        if len(ids) - end >= LOOP_WORDS * size:
            while end - size > certain and pieces[end - size - 1] == pieces[end - 1]:
                end -= 1  # "8" and then ", 8" time and again is "8," time and again
            return tuple(ids[:end])
    return tuple(ids[:certain])


def _words_end(ids: Sequence[int], certain: int, words: WordTokens) -> int:
    """Where the punctuation begins that ``ids`` end with, behind what is certain."""
    end = len(ids)
    while end > certain and words.is_mark(ids[end - 1]):
        end -= 1
    return end


def _hasty(text: str, sound_s: float) -> bool:
    said = re.findall(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*|[1-9]|(?<![\d,.])0", text)
    return len(said) > WORDS_PER_SECOND * sound_s + WORDS_MORE


def _advance(reading: Reading, certain: int, words: WordTokens) -> tuple[Reading, str]:
    text = _text(reading, certain, words)
    return replace(reading, certain=certain, begun=reading.begun or bool(text)), text


def _text(reading: Reading, end: int, words: WordTokens) -> str:
    """Text of what is not certain, up to token ``end``; the first of a message has no space in front."""
    text = words.text(reading.ids[reading.certain : end])
    return text if reading.begun else text.lstrip()
