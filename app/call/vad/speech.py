"""From judged frames to stretches of speech: hysteresis and hold times."""

from __future__ import annotations

from collections import deque

from app.call.media_time import FRAME_MS, FRAME_SAMPLES
from app.call.turn import Lull, LullOver, SpeechEnded, SpeechStarted
from app.call.vad.reach import Reach
from app.call.vad.spoken import SpokenTime

SpeechEvent = SpeechStarted | SpeechEnded | Lull | LullOver

LOUDEST_FRAMES = 50
"""A frame is compared with the loudest of the last second."""


class SpeechTracker:
    """Finds where speech begins and ends.

    It has begun when ``onset_ms`` of the last ``onset_window_ms`` were voiced, and is over when at most the share
    ``end_voiced_share`` of the last ``end_silence_ms`` was, and nothing of the last ``end_quiet_ms``. A frame is
    voiced from probability ``on``; within speech it stays voiced down to ``off``, unless it is ``fall_db`` below the
    loudest of the last second: a detector is sure of speech for some time after its end. Silence of ``lull_ms`` within
    speech is told before it is known whether speech is over. The beginning that is told is up to ``reach_back_ms``
    before the first voiced frame, as far as the sound goes. How much of what is voiced was speech is told with it.
    """

    def __init__(
        self,
        *,
        on: float,
        off: float,
        fall_db: float,
        sure: float,
        onset_ms: int,
        onset_window_ms: int,
        lull_ms: int,
        end_silence_ms: int,
        end_voiced_share: float,
        end_quiet_ms: int,
        reach_back_ms: int,
        now: int = 0,
    ) -> None:
        """``now`` is the media time (samples) at which the first frame begins."""
        self._on, self._off, self._fall_db = on, off, fall_db
        self._levels: deque[float] = deque(maxlen=LOUDEST_FRAMES)
        self._onset_frames = _frames(onset_ms)
        self._onset_window: deque[bool] = deque(maxlen=_frames(onset_window_ms))
        self._lull = lull_ms * FRAME_SAMPLES // FRAME_MS
        self._in_lull = False
        self._spoken = SpokenTime(sure)
        self._reach = Reach(reach_back_ms // FRAME_MS)
        self._end_frames = _frames(end_silence_ms)
        self._end_voiced = int(self._end_frames * end_voiced_share)
        self._end_window: deque[bool] = deque(maxlen=self._end_frames)
        self._end_quiet = end_quiet_ms * FRAME_SAMPLES // FRAME_MS
        self.now = now
        self._ended = now
        """When speech was last over: what comes next begins no earlier."""
        self.speaking = False
        self.voiced_ms = 0
        """Voiced time of the speech that goes on, 0 outside speech."""
        self.last_voiced = now
        """Media time (samples) at which the newest voiced frame ended."""

    @property
    def spoken_ms(self) -> int:
        """How much of ``voiced_ms`` is surely speech."""
        return self._spoken.ms if self.speaking else 0

    def push(self, probability: float, level_dbfs: float) -> SpeechEvent | None:
        """Take in the next 20 ms frame. At most one change per frame."""
        self.now += FRAME_SAMPLES
        self._reach.push(level_dbfs)
        self._levels.append(level_dbfs)
        voiced = probability >= (self._off if self.speaking else self._on)
        if voiced and self.speaking and self._fall_db:
            voiced = level_dbfs > max(self._levels) - self._fall_db
        if voiced:
            self.last_voiced = self.now
        return self._within(voiced, probability) if self.speaking else self._outside(voiced, probability)

    @property
    def stirring(self) -> bool:
        """Outside of speech: what was voiced last may become it."""
        return not self.speaking and any(self._onset_window)

    def end(self) -> None:
        """Whoever was speaking is done: what is voiced from now on is new speech."""
        self.speaking, self.voiced_ms, self._ended = False, 0, self.now

    def _outside(self, voiced: bool, probability: float) -> SpeechStarted | None:
        window = self._onset_window
        window.append(voiced)
        self._spoken.reset()
        self._spoken.push(probability, sum(window))
        if sum(window) < self._onset_frames:
            return None
        voiced_since = len(window) - list(window).index(True)
        sounds_since = voiced_since + self._reach.frames_before(voiced_since - 1)
        onset = max(self._ended, self.now - sounds_since * FRAME_SAMPLES)
        self.speaking, self.voiced_ms, self._in_lull = True, sum(window) * FRAME_MS, False
        self._end_window.extend([True] * self._end_frames)
        window.clear()
        return SpeechStarted(onset)

    def _within(self, voiced: bool, probability: float) -> SpeechEvent | None:
        self._end_window.append(voiced)
        self.voiced_ms += FRAME_MS * voiced
        self._spoken.push(probability, voiced)
        silence = self.now - self.last_voiced
        if not voiced and silence >= self._end_quiet and sum(self._end_window) <= self._end_voiced:
            ended = SpeechEnded(self.last_voiced, self.spoken_ms)
            self.end()
            return ended
        if self._in_lull != (silence >= self._lull):
            self._in_lull = not self._in_lull
            if not self._in_lull:
                return LullOver()
            self._spoken.lull()
            return Lull(self.last_voiced, self.spoken_ms)
        return None


def _frames(milliseconds: int) -> int:
    return max(1, round(milliseconds / FRAME_MS))
