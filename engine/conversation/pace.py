"""How long text usually takes to be said: what is expected of speech that is not made yet."""

from __future__ import annotations

from dataclasses import dataclass

from engine.spoken import is_spaced

CHARACTER_S, SIGN_S, DIGIT_S = 0.062, 0.21, 0.30
"""Seconds per character of a spaced script (16 a second, its spaces and marks among them), per sign of one without
spaces, and per digit, which is said as a word."""

TRUST_S = 2.0
"""So much speech weighs as much as the usual pace."""


def usual_s(char: str) -> float:
    """Seconds that a character of text usually takes."""
    if char.isdigit():
        return DIGIT_S
    return CHARACTER_S if is_spaced(char) else SIGN_S


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a voice speaks, learned from what it said: text that usually takes ``usual_s`` took it ``said_s``."""

    said_s: float = 0.0
    usual_s: float = 0.0

    @property
    def factor(self) -> float:
        """How many times as long as usual text takes."""
        return (TRUST_S + self.said_s) / (TRUST_S + self.usual_s)

    def after(self, said_s: float, usual_s: float) -> Pace:
        """The pace with more speech known."""
        return Pace(self.said_s + max(0.0, said_s), self.usual_s + max(0.0, usual_s))
