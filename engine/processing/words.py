"""The reader's own tokens: byte-level BPE, read back into text. Nothing is ever encoded with it."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer


class WordTokens:
    """What the tokens of a reading stand for."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        """``size``: tokens of the vocabulary. Those that the tokenizer lacks stand for nothing."""
        self._tokenizer = tokenizer
        texts = [tokenizer.decode([token]) for token in range(size)]
        self._begins = [text[:1].isspace() for text in texts]
        self._marks = [
            bool(text.strip()) and not any(map(str.isalnum, text)) and "\ufffd" not in text for text in texts
        ]

    def begins_word(self, token: int) -> bool:
        """Whether a word begins with ``token``: its text has a space in front."""
        return self._begins[token]

    def is_mark(self, token: int) -> bool:
        """Whether ``token`` is punctuation alone."""
        return self._marks[token]

    def text(self, ids: Sequence[int]) -> str:
        """The text of ``ids``; control tokens and what is no whole character are left out."""
        out: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return out.replace("\ufffd", "")
