"""How far back the sound goes that turned out to be speech."""

from __future__ import annotations

from collections import deque

from app.call.media_time import FRAME_MS

WINDOW_FRAMES = 2_500 // FRAME_MS
"""The quietest moment of this stretch is the room."""

SMOOTHING_FRAMES = 4
MARGIN_DB = 6.0
"""Sound stands out from the room if it is this much louder."""

PAUSE_FRAMES = 15
"""The first sound may be a letter that is spelled, 300 ms before the next; what lies before a longer pause is something
else."""


COVERED_FRAMES = 10
"""A beginning that was noticed at most 200 ms late stays as it is: the pre-roll covers it, and more of the room before
the speech would only be more for the model to hear."""


class Reach:
    """Remembers levels, to tell where a sound began that a detector only became sure of later.

    Detectors notice quiet voices and soft consonants late: at −42 dBFS in one of ten utterances by more than the
    pre-roll, so that the turn begins without its first sound. Looking back does not make noise pass for speech, as
    raising the level of what the detector hears does.
    """

    def __init__(self, most_frames: int) -> None:
        """``most_frames`` is how far back it looks at most; 0 not at all."""
        self._most = most_frames
        self._levels: deque[float] = deque(maxlen=max(WINDOW_FRAMES, most_frames))

    def push(self, level_dbfs: float) -> None:
        """Take in the level of the newest frame."""
        self._levels.append(level_dbfs)

    def frames_before(self, onset: int) -> int:
        """How many frames before the one that is ``onset`` frames old (0: the newest) the sound began, less those that
        the pre-roll covers."""
        levels = list(self._levels)
        loud = room_level(levels) + MARGIN_DB
        first = len(levels) - 1 - onset
        began = first
        for frame in range(first - 1, max(-1, first - self._most - 1), -1):
            if levels[frame] >= loud:
                began = frame
            elif began - frame > PAUSE_FRAMES:
                break
        return max(0, first - began - COVERED_FRAMES)


def room_level(levels: list[float]) -> float:
    """The quietest 80 ms of ``levels``, dBFS."""
    size = min(SMOOTHING_FRAMES, len(levels))
    return min(sum(levels[k : k + size]) / size for k in range(len(levels) - size + 1))
