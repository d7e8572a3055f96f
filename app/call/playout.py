"""What the listener hears next, and how much of it was played."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.client import OUTPUT_RATE

GO_BACK_SAMPLES = OUTPUT_RATE * 6 // 10
"""How far an answer that was paused may go back, 600 ms: a word or two."""

QUIET_SAMPLES = OUTPUT_RATE // 50
"""Length of the moments whose loudness is compared for that, 20 ms."""


@dataclass(frozen=True, slots=True)
class Flushed:
    """What became of an answer that was cut off. Samples at 24 kHz."""

    played: int
    dropped: int


class SpeechQueue:
    """The answer's speech on its way to the listener, 24 kHz int16 mono. One answer at a time.

    The track pulls; what it has pulled counts as played. When nothing is there it gets silence, at once. The bound is
    kept by the one who pushes: see ``max_buffered_s`` in :mod:`app.call.config`.
    """

    def __init__(
        self,
        on_played: Callable[[int, int], None],
        on_pulled: Callable[[NDArray[np.int16]], None] | None = None,
        fade_out_ms: float = 5.0,
    ) -> None:
        """``on_played(epoch, samples)`` follows every pull that took samples of an answer, ``on_pulled(pcm)`` every
        pull, with all that it gave."""
        self._on_played = on_played
        self._on_pulled = on_pulled
        self._fade_samples = round(fade_out_ms * OUTPUT_RATE / 1000)
        self._pieces: deque[NDArray[np.int16]] = deque()
        self._tail = np.zeros(0, np.int16)
        self.epoch = 0
        """Of the answer that is in the queue, or was last."""
        self.buffered = 0
        """Samples that wait."""
        self.played = 0
        """Samples of this answer that were pulled."""
        self.underruns = 0
        """How often the listener heard silence in the middle of an answer because its speech came too late."""
        self._dry = False
        self._paused = False
        self._past = np.zeros(0, np.int16)
        """The newest speech that was pulled, to go back to."""

    def push(self, epoch: int, pcm: NDArray[np.int16]) -> None:
        """Append speech of the answer of ``epoch``, int16 [n]. A new epoch starts the count at zero."""
        if epoch != self.epoch:
            self.epoch, self.played, self._dry, self._paused = epoch, 0, False, False
            self._past = self._past[:0]
        if len(pcm):
            self.underruns += self._dry
            self._dry = False
            self._pieces.append(pcm)
            self.buffered += len(pcm)

    def pull(self, n: int) -> NDArray[np.int16]:
        """The next ``n`` samples: int16 [n], filled up with silence. Never waits."""
        out = np.zeros(n, np.int16)
        taken = 0 if self._paused else self._read(out)
        self.played += taken
        self._dry = taken < n and self.played > 0 and not self._paused
        if taken:
            self._past = np.concatenate([self._past, out[:taken]])[-GO_BACK_SAMPLES:]
        if len(self._tail):
            fading, self._tail = self._tail[:n], self._tail[n:]
            mixed = out[: len(fading)].astype(np.int32) + fading  # on top, so that it takes no time from what follows
            out[: len(fading)] = np.clip(mixed, -32768, 32767)
        if self._on_pulled is not None:
            self._on_pulled(out)
        if taken:
            self._on_played(self.epoch, taken)
        return out

    def ring(self, pcm: NDArray[np.int16]) -> None:
        """Give int16 [n] at 24 kHz beside the answers from the next pull on; it counts as played by none."""
        self._tail = pcm

    def hush(self) -> None:
        """End what rings, with a short fade."""
        self._tail = _faded(self._tail[: self._fade_samples])

    def pause(self) -> None:
        """Give silence from the next pull on, after a short fade; nothing is lost."""
        if self._paused:
            return
        self._paused = True
        waiting = np.concatenate([np.zeros(0, np.int16), *self._pieces])[: self._fade_samples]
        self._tail = _faded(waiting)

    def resume(self) -> None:
        """Go on, from the quietest moment shortly before the pause: half a word is hard to listen to."""
        if not self._paused:
            return
        self._paused = False
        again = self._past[_quietest(self._past) :]
        if len(again):
            self._pieces.appendleft(again)
            self.buffered += len(again)
            self.played -= len(again)
            self._past = self._past[: len(self._past) - len(again)]

    def flush(self) -> Flushed:
        """Drop what waits. The next pull begins with a few milliseconds of it that fade out and do not count as
        played: a sudden stop would be heard as a click."""
        dropped = self.buffered
        if not self._paused:  # else it has faded already
            tail = np.zeros(min(self._fade_samples, dropped) if self.played else 0, np.int16)
            self._read(tail)
            self._tail = _faded(tail)
        self._pieces.clear()
        self.buffered, self._dry, self._paused = 0, False, False
        return Flushed(self.played, dropped)

    def _read(self, out: NDArray[np.int16]) -> int:
        done = 0
        while self._pieces and done < len(out):
            piece = self._pieces.popleft()
            part = piece[: len(out) - done]
            out[done : done + len(part)] = part
            done += len(part)
            if len(part) < len(piece):
                self._pieces.appendleft(piece[len(part) :])
        self.buffered -= done
        return done


def _faded(samples: NDArray[np.int16]) -> NDArray[np.int16]:
    """The samples, fading out."""
    return np.rint(samples * np.linspace(1.0, 0.0, len(samples), endpoint=False)).astype(np.int16)


def _quietest(samples: NDArray[np.int16]) -> int:
    """Where the quietest moment begins, the last of several; the end where there is none to compare."""
    moments = len(samples) // QUIET_SAMPLES
    if moments < 2:
        return len(samples)
    first = len(samples) - moments * QUIET_SAMPLES
    energy = (samples[first:].reshape(moments, -1).astype(np.float64) ** 2).sum(axis=1)
    quietest = moments - 1 - int(np.argmin(energy[::-1]))
    return first + quietest * QUIET_SAMPLES
