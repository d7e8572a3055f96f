"""Where the talker says which text: a path through what its codes attend to.

A talker that reads while it speaks looks at the token that it says; in mini two heads of sixteen do so almost alone,
and no other head looks anywhere steadily, so that their mean over all layers and heads will do. The most likely path of
tokens over codes that never goes back is found by dynamic programming (Viterbi). Where the attention says nothing, the
path keeps the pace of the answer so far.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FLOOR = 0.003
"""Mean attention that any token may get by chance; what is below is all the same."""

SKIP = 2.0
"""What it costs to pass over a token, in nats."""

LATITUDE_S = 0.5
"""A code that is so far from where the pace puts its token costs one nat, and the square of it further away."""

Attention = NDArray[np.float32]


class Alignment:
    """The tokens of one answer over its codes, kept up while both grow.

    Tokens and codes are counted from the answer's beginning, over all stretches of speech.
    """

    def __init__(self, code_s: float) -> None:
        """``code_s``: seconds that a code lasts."""
        self._latitude = LATITUDE_S / code_s
        self._fixed = [0]
        self._ahead: list[int] = []
        self._rows: list[Attention] = []
        self._code = 0  # codes before it are fixed

    @property
    def token(self) -> int:
        """The last token that has begun."""
        return len(self._fixed) + len(self._ahead) - 1

    def start(self, token: int) -> int | None:
        """The code with which a token begins; None where it has not begun."""
        starts = self._fixed if token < len(self._fixed) else self._ahead
        at = token if token < len(self._fixed) else token - len(self._fixed)
        return starts[at] if at < len(starts) else None

    def follow(
        self, attention: Attention, first: int, lengths: NDArray[np.float64], *, fix: int, last: int | None = None
    ) -> None:
        """Take in the next codes.

        ``attention`` [codes, tokens] is theirs to the tokens of their stretch of speech, ``first`` and those after it;
        ``lengths`` [tokens] how many codes each takes at the pace so far. What begins before code ``fix`` stays as it
        is found now. ``last`` is told at the end of a stretch: the token that it ended with; all is fixed.
        """
        if first == len(self._fixed):
            self._fixed.append(self._code)
        here = len(self._fixed) - 1
        self._rows += list(attention)
        end = self._code + len(self._rows)
        rows = np.zeros((len(self._rows), len(lengths) - (here - first)), np.float32)
        for row, seen in zip(rows, self._rows, strict=True):
            row[: len(seen) - (here - first)] = seen[here - first :]
        path = here + self._path(rows, lengths[here - first :], None if last is None else last - here)
        reached = int(path[-1]) if len(path) else here if last is None else last
        starts = [
            self._code + int(np.argmax(path >= token)) if len(path) else end for token in range(here + 1, reached + 1)
        ]
        fix = end if last is not None else min(max(fix, self._code), end)
        done = sum(start < fix for start in starts)
        self._fixed, self._ahead = self._fixed + starts[:done], starts[done:]
        self._rows, self._code = self._rows[fix - self._code :], fix

    def _path(self, rows: Attention, lengths: NDArray[np.float64], last: int | None) -> NDArray[np.int64]:
        """The best path over ``rows`` [codes, tokens]: int64 [codes], from token 0 or later to ``last`` where given."""
        tokens = np.arange(rows.shape[1])
        begin = self._fixed[-1] + np.concatenate([[0.0], np.cumsum(lengths)])
        times = self._code + np.arange(len(rows))[:, None]
        off = np.maximum(np.maximum(begin[:-1] - times, times - begin[1:]), 0) / self._latitude
        score = np.log(rows + FLOOR) - off**2
        best = np.where(tokens == 0, 0.0, -np.inf)
        came: list[NDArray[np.int64]] = []
        for row in score:
            # From the token itself, or from the best one before it at the price of those between.
            left = best + SKIP * (tokens + 1)
            top = np.maximum.accumulate(left)
            source = np.maximum.accumulate(np.where(left == top, tokens, 0))
            moved = np.concatenate([[-np.inf], top[:-1] - SKIP * tokens[1:]])
            origin = np.concatenate([[0], source[:-1]])
            came.append(np.where(moved > best, origin, tokens))
            best = np.maximum(moved, best) + row
        path = [int(best.argmax()) if last is None else last]
        for source in reversed(came):
            path.append(int(source[path[-1]]))
        return np.array(path[-2::-1] if len(path) > 1 else [])
