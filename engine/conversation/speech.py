"""What both ways of speaking share: text to speech tokens, and joining waves.

:mod:`engine.conversation.speech_exact` speaks as the published code does, :mod:`engine.conversation.speech_live` as a
call needs it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.config import TTSConfig
from engine.conversation.work import Step
from engine.errors import TokenizerError
from engine.processing.pronunciation import Pronunciation
from engine.spoken import Starts

OVERLAP = 2048
"""Samples (24 kHz) over which consecutive blocks of speech are faded into each other."""

BLOCK_CODES = 25
"""Audio codes that are made at a time."""

MAX_CODES = 2048
"""Audio codes after which a stretch of speech is ended."""

SEGMENT_TOKENS = 180
"""Text slots that are kept free: a stretch with fewer left ends at the next end of a sentence."""

STRETCH_PHONES = 40
"""Phones after which a stretch ends with its sentence, for a talker that reads phones: it learnt from a sentence or
two, and loses its place in more."""

PHONES_PER_TOKEN = 4
"""Phones of a token of text, about: a word has four."""

CONTEXT_TEXT, CONTEXT_CODES = 5, 50
"""Text tokens and audio codes of a stretch of speech that the next one is given to continue from."""


@dataclass(frozen=True, slots=True)
class SpeechChunk:
    """One piece of a spoken answer: text, and a wave float32 [N] at 24 kHz (either may be empty)."""

    text: str
    wave: Tensor
    starts: Starts = ()
    """Pieces of the answer whose start is new, or known better than before."""


@dataclass(frozen=True, slots=True)
class TextItem:
    """One piece of answer text on its way to speech."""

    text: str
    speaker: Tensor | None = None
    """With the first piece: the language model's state at ``<|spk|>`` [1, hidden]."""
    position: int = 0
    """The context holds this text once it has this many tokens (a position of the session)."""
    parts: tuple[tuple[str, int], ...] = ()
    """The text token by token, each part with the position at which the context holds it; a token that does not
    complete a character has no part."""


class TextSource(Protocol):
    """Gives the answer's text piece by piece."""

    def next(self, most: int | None = None) -> Step[TextItem | None]:
        """The next piece, None after the last. More than ``most`` tokens (at least 1) are not waited for, where text
        is drawn token by token for this."""
        ...


class SpeechTokens:
    """The speech model's text: ``[Stts]``, speaker, tokens, ``[Etts]``, padding, ``[Ptts]``."""

    def __init__(self, tokenizer: Any, config: TTSConfig, pronunciation: Pronunciation | None = None) -> None:
        """``pronunciation``: for a tokenizer that knows phones only."""
        self.tokenizer, self.config, self._pronunciation = tokenizer, config, pronunciation
        # The tokenizer proper: transformers' wrapper takes as long as a step of the speech model.
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self.begin = self._special("[Stts]")
        self.pad = self._special("[PAD]")
        self.head = (self.begin, *[config.spk_emb_token_id] * config.num_spk_embs)

    def _special(self, token: str) -> int:
        found: int | None = self.tokenizer.convert_tokens_to_ids(token)
        if found is None or self.tokenizer.convert_ids_to_tokens(found) != token:
            remedy = "use assets/chattts_tokenizer of MiniCPM-o 2.6"
            raise TokenizerError("chattts_tokenizer", "is not in the vocabulary", remedy, key=token)
        return found

    def readable(self, text: str, language: str) -> str:
        """``text`` as it is to be spoken: without stars, and as published with every figure's name in place of
        figures; a pronunciation reads numbers itself."""
        spelled = text if self._pronunciation is not None else spell_digits(text, language)
        return spelled.replace("*", "")

    @property
    def enough(self) -> int:
        """Text tokens after which a stretch of speech in a call ends with its sentence."""
        return self.config.text_reserved_len - SEGMENT_TOKENS if self._pronunciation is None else STRETCH_PHONES

    def least_text(self, count: int) -> int:
        """Tokens of the answer's text without which there are hardly ``count`` (at least 1) of these."""
        return count if self._pronunciation is None else -(-count // PHONES_PER_TOKEN)

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; several pieces give those of the whole."""
        if self._pronunciation is not None:
            text = self._pronunciation(text)
        return list(self._backend.encode(text, add_special_tokens=False).ids) if text else []

    def decode(self, ids: Sequence[int]) -> str:
        out: str = self.tokenizer.decode(list(ids))
        return out

    def row(self, ids: Sequence[int]) -> tuple[int, ...]:
        """All slots of a sequence for text ``ids``; what exceeds the reserved slots is cut off."""
        reserved = self.config.text_reserved_len
        slots = [*ids, self.config.text_eos_token_id, *[self.pad] * reserved][:reserved]
        return (*self.head, *slots, self.config.audio_bos_token_id)

    def count(self, ids: Sequence[int]) -> int:
        """Slots that text ``ids`` takes."""
        return min(len(ids), self.config.text_reserved_len)


_DIGITS = {
    "chinese": dict(zip("0123456789", "零一二三四五六七八九", strict=True)),
    "english": {
        "0": "zero",
        "1": "one",
        "2": "two",
        "3": "three",
        "4": "four",
        "5": "five",
        "6": "six",
        "7": "seven",
        "8": "eight",
        "9": "nine",
    },
}


def language_of(text: str) -> str:
    """``chinese`` where at least as many Chinese characters as Latin letters occur, else ``english``."""
    chinese = len(re.findall(r"[\u4e00-\u9fff]", text))
    return "chinese" if chinese >= len(re.findall(r"[a-zA-Z]", text)) else "english"


def spell_digits(text: str, language: str) -> str:
    """Numbers replaced by their digits' names: 12 -> "one two" or 一二."""
    names, gap = _DIGITS[language], " " if language == "english" else ""
    return re.sub(r"\d+", lambda number: gap.join(names[d] for d in number[0] if d in names), text)


def sentence_end(text: str) -> str:
    """The first of ``. 。 ! ? ！ ？`` that ends a sentence in ``text``, or nothing; a point after a digit does not."""
    for mark in ".。!?！？":
        at = text.find(mark)
        if at < 0 or (mark == "." and at > 0 and text[at - 1].isdigit()):
            continue
        return mark
    return ""


def crossfade(first: Tensor, second: Tensor, overlap: int = OVERLAP) -> tuple[Tensor, Tensor]:
    """Join waves [A] and [B] whose last and first ``overlap`` samples are the same moment.

    Triangular weights. Returns the joined wave cut after A samples, and the rest.
    """
    before, after = len(first), len(second)
    ramp = torch.linspace(0, 1, max(before, after) + overlap + 2, dtype=first.dtype, device=first.device)[1:-1]
    weight = 0.5 - (ramp - 0.5).abs()
    joined = first.new_zeros(before + after - overlap)
    total = torch.zeros_like(joined)
    for start, wave, weights in ((0, first, weight[-before:]), (before - overlap, second, weight[:after])):
        joined[start : start + len(wave)] += weights * wave
        total[start : start + len(wave)] += weights
    joined = joined / total
    return joined[:before], joined[before:]
