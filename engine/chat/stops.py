"""Texts before which an answer ends."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Lets an answer through piece by piece, up to the first of the stop texts that occurs in it."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = tuple(filter(None, texts))
        self._held = ""
        self.met = False
        """One of them came: the answer is over."""

    def add(self, piece: str) -> str:
        """What can be given out now: not what may be the beginning of a stop text."""
        if self.met:
            return ""
        text = self._held + piece
        places = [place for stop in self._texts if (place := text.find(stop)) >= 0]
        if places:
            self.met, self._held = True, ""
            return text[: min(places)]
        keep = max((_begun(text, stop) for stop in self._texts), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was held back, when no more comes."""
        held, self._held = self._held, ""
        return held


def _begun(text: str, stop: str) -> int:
    """Characters at the end of ``text`` with which ``stop`` begins."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if stop.startswith(text[-size:])), 0)
