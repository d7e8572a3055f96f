"""How much of what is voiced was surely said: coughs, knocks and most laughter are voice to a detector only in part."""

from __future__ import annotations

from collections import deque

from app.call.media_time import FRAME_MS

SUREST_FRAMES = 10
"""A burst of voice is judged by its surest 200 ms: no word is shorter, and most coughs are."""


class SpokenTime:
    """Counts the voiced time of those bursts of voice that were speech. A lull ends a burst.

    People who say one word, even a short one, even quietly, make a detector sure of it for 200 ms; a cough or a laugh
    mostly does not, however long it is. So the contour of the detector's probability says what an own network for
    such sounds would have to be trained for.
    """

    def __init__(self, sure: float) -> None:
        """A burst is speech whose surest 200 ms are so probable on average; with 0 every burst is."""
        self._sure = sure
        self._newest: deque[float] = deque(maxlen=SUREST_FRAMES)
        self.reset()

    @property
    def ms(self) -> int:
        """Spoken time since :meth:`reset`, milliseconds, the burst that goes on included once it is sure."""
        return self._spoken_ms + (self._burst_ms if self._surest >= self._sure else 0)

    def reset(self) -> None:
        """New speech begins, with what was heard last."""
        self._spoken_ms = self._burst_ms = 0
        self._surest = 0.0

    def push(self, probability: float, voiced_frames: int) -> None:
        """The next frame; ``voiced_frames`` more of the speech that goes on count as voiced."""
        self._newest.append(probability)
        self._burst_ms += voiced_frames * FRAME_MS
        self._surest = max(self._surest, sum(self._newest) / SUREST_FRAMES)

    def lull(self) -> None:
        """The burst is over."""
        self._spoken_ms, self._burst_ms, self._surest = self.ms, 0, 0.0
        self._newest.clear()
