"""The one table of what an answer says and when: it decides what was heard.

The engine makes the table while it speaks and sends it along with the answer; the call keeps a copy, and its client one
in milliseconds. A piece is as little text as can be told apart: a word with what follows it, or a sign of a script that
puts no spaces between words. Its start is an estimate until its sound is made, and final from then on: a chunk with
sound brings the final starts of all pieces that begin in it, and no later piece begins before its end. So everybody
who has the chunks up to a sample agrees on what was heard up to that sample, however much more of the answer is there.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

Starts = tuple[tuple[int, int], ...]
"""Pieces as pairs: the piece's first character, counted from the answer's beginning in code points; and the sample of
the answer's sound (24 kHz) at which it begins."""


class SpokenText:
    """The text of an answer in pieces, and the sample at which each begins. Both only grow along the answer."""

    def __init__(self) -> None:
        self.text = ""
        self._characters: list[int] = []
        self._samples: list[int] = []

    def add(self, text: str, starts: Starts) -> None:
        """More of the answer: its next text, and the starts of pieces that are new or have changed."""
        self.text += text
        for character, sample in starts:
            at = bisect_left(self._characters, character)
            if at < len(self._characters) and self._characters[at] == character:
                self._samples[at] = sample
            else:
                self._characters.insert(at, character)
                self._samples.insert(at, sample)

    @property
    def starts(self) -> Starts:
        """All pieces, as far as is known now."""
        return self.between(0, len(self.text))

    def start(self, character: int) -> int | None:
        """Sample at which the piece that holds ``character`` begins; None where no piece is known."""
        at = bisect_right(self._characters, character)
        return self._samples[at - 1] if at else None

    def between(self, begin: int, end: int) -> Starts:
        """The pieces that begin with one of the characters ``begin`` to ``end - 1``."""
        first, last = bisect_left(self._characters, begin), bisect_left(self._characters, end)
        return tuple(zip(self._characters[first:last], self._samples[first:last], strict=True))

    def heard_chars(self, samples: int) -> int:
        """Characters of the pieces that have begun in the first ``samples`` (24 kHz); none without a sample."""
        for character, start in zip(self._characters, self._samples, strict=True):
            if start >= samples:
                return character
        return len(self.text) if samples > 0 else 0


def is_spaced(char: str) -> bool:
    """Whether ``char`` belongs to a script that puts spaces between words."""
    return not "\u3040" <= char <= "\u9fff"


def begins_piece(before: str, text: str) -> bool:
    """Whether ``text`` begins a new piece where it follows on ``before``; neither is empty. Marks stay with the word
    that they follow, and so do the spaces at a word's end: a piece begins with its space."""
    last, first = before[-1], text[0]
    if first.isspace() or last.isspace():
        return True
    return first.isalnum() and not (is_spaced(first) and is_spaced(last))
