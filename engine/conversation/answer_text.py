"""What one answer says: its text in pieces, when each is spoken, and where each lies in the context.

It makes the table of :mod:`engine.spoken`, keeps it true to what the talker really does, and tells which part of the
context belongs to what was heard or read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from engine.client import OUTPUT_RATE
from engine.conversation.alignment import Alignment, Attention
from engine.conversation.pace import Pace, usual_s
from engine.spoken import SpokenText, Starts, begins_piece

SLACK = OUTPUT_RATE // 10
"""Samples by which an estimate must be wrong to be told anew."""


class AnswerText:
    """One answer's text. Samples are those of the sound that is handed over, 24 kHz."""

    def __init__(self, samples_per_code: int, pace: Pace) -> None:
        self.spoken = SpokenText()
        self.trimmed = 0
        """Samples that were left out at the beginning."""
        self._size = samples_per_code
        self._pace = pace
        self._alignment = Alignment(samples_per_code / OUTPUT_RATE)
        self._parts: list[tuple[int, int]] = []  # ends of the parts (characters), and the context's length with each
        self._pieces: list[int] = []  # first characters
        self._starts: list[int] = []  # of the pieces, as they were told
        self._final = 0  # pieces whose start is final
        self._made = 0  # samples that are handed over
        self._usual = [0.0]  # seconds that the first characters usually take
        self._ends = [(0, 0)]  # of the portions that went to the talker: characters, tokens
        self._token_s: list[float] = []  # seconds that each token usually takes

    # ------------------------------------------------------------------------------------------------- what happens
    def write(self, parts: Sequence[tuple[str, int]], *, speak: bool = True) -> Starts:
        """Text has been drawn: ``parts`` of it, each with the context's length once it holds the part. Returns where
        the new pieces are going to begin, as far as can be told; nothing where nothing is spoken."""
        for text, position in parts:
            if not text:
                continue
            before = self.spoken.text
            if not before or self._final == len(self._pieces) or begins_piece(before, text):
                self._pieces.append(len(before))
            self.spoken.add(text, ())
            self._parts.append((len(self.spoken.text), position))
            for char in text:
                self._usual.append(self._usual[-1] + usual_s(char))
        return self._tell() if speak else ()

    def admit(self, characters: int, tokens: int) -> None:
        """The next ``characters`` of the text went to the talker as ``tokens`` tokens of its own."""
        before = self._ends[-1][0]
        end = min(before + characters, len(self.spoken.text))
        self._ends.append((end, self._ends[-1][1] + tokens))
        self._token_s += [(self._usual[end] - self._usual[before]) / max(1, tokens)] * tokens

    def follow(self, attention: Attention, first: int, *, fix: int, last: int | None = None) -> None:
        """The talker made codes; see :meth:`engine.conversation.alignment.Alignment.follow`."""
        here = max(0, self._alignment.token)
        pace = self._now(here)
        seconds = np.array(self._token_s[first : first + attention.shape[1]])
        lengths = seconds * (pace.factor * OUTPUT_RATE / self._size)
        self._alignment.follow(attention, first, lengths, fix=fix, last=last)

    def hand_over(self, samples: int, *, last: bool = False) -> Starts:
        """The first ``samples`` of the sound leave now: what begins in them is final, with ``last`` everything. Returns
        the starts that were not told, or told otherwise."""
        told: list[tuple[int, int]] = []
        for index in range(self._final, len(self._pieces)):
            start = max(self._time(self._pieces[index]), self._made, self._starts[index - 1] if index else 0)
            if start >= samples and not last:
                break
            start = min(start, max(samples - 1, self._made))
            if start != self._starts[index]:
                told.append((self._pieces[index], start))
                self._starts[index] = start
            self._final += 1
        self._made = samples
        self.spoken.add("", tuple(told))
        return (*told, *self._tell())

    # ------------------------------------------------------------------------------------------------- what is asked
    def position(self, characters: int) -> int | None:
        """The context's length with the first ``characters`` of the text; None for none of them."""
        known = [position for end, position in self._parts if end <= characters]
        return known[-1] if known else None

    def pace(self, samples: int) -> Pace:
        """The pace once the first ``samples`` were heard, as far as their starts are final."""
        heard = [index for index in range(self._final) if self._starts[index] < samples]
        if not heard:
            return self._pace
        piece, start = self._pieces[heard[-1]], self._starts[heard[-1]]
        return self._pace.after(start / OUTPUT_RATE, self._usual[piece])

    # -------------------------------------------------------------------------------------------------------- times
    def _tell(self) -> Starts:
        """Estimates of the pieces to come that are new or much better than before."""
        told: list[tuple[int, int]] = []
        for index in range(self._final, len(self._pieces)):
            least = max(self._made, self._starts[index - 1] if index else 0)
            start = max(self._time(self._pieces[index]), least)
            if index == len(self._starts):
                self._starts.append(start)
            elif abs(start - self._starts[index]) <= SLACK and self._starts[index] >= least:
                continue
            self._starts[index] = start
            told.append((self._pieces[index], start))
        self.spoken.add("", tuple(told))
        return tuple(told)

    def _time(self, character: int) -> int:
        """Sample at which the sound of the text from ``character`` on begins, as far as is known."""
        text = self.spoken.text
        sign = next((at for at in range(character, len(text)) if not text[at].isspace()), len(text))
        if sign < self._ends[-1][0]:
            code = self._alignment.start(self._token(sign))
            if code is not None:
                return max(0, code * self._size - self.trimmed)
        here = self._alignment.token
        begun = self._character(here)
        wait_s = (self._usual[sign] - self._usual[begun]) * self._now(here).factor
        return max(0, (self._alignment.start(here) or 0) * self._size - self.trimmed + round(wait_s * OUTPUT_RATE))

    def _now(self, token: int) -> Pace:
        """The pace with what was said of this answer until ``token`` began."""
        said = (self._alignment.start(token) or 0) * self._size - self.trimmed
        return self._pace.after(said / OUTPUT_RATE, self._usual[self._character(token)])

    def _token(self, character: int) -> int:
        """The talker's token that says a character which it was given."""
        at = bisect_right(self._ends, character, key=lambda end: end[0])
        (first, token), (last, next_token) = self._ends[at - 1], self._ends[at]
        return token + (character - first) * (next_token - token) // (last - first)

    def _character(self, token: int) -> int:
        """The character that a token of the talker begins with."""
        at = bisect_right(self._ends, token, key=lambda end: end[1])
        if at == len(self._ends):
            return self._ends[-1][0]
        (character, first), (last, next_token) = self._ends[at - 1], self._ends[at]
        return character + (token - first) * (last - character) // (next_token - first)
