"""Watching a call: all that went in and came out, in one order.

A call is deterministic: given the same inputs in the same order it gives the same events. A tap sees both. The inputs
that a replay has to repeat are ``audio``, ``frame``, ``command``, ``result``, ``fault``, ``judged``, ``meant``,
``played`` and ``paused``, each with the media time at which it happened: after the 20 ms frame of microphone audio that
ends there, before the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.client import EngineError


class CallTap(Protocol):
    """Called on the event loop, in order; must not block and must not call back into the call.

    Times ``t_samples`` are media time: samples at 16 kHz.
    """

    def audio(self, pcm: NDArray[np.int16]) -> None:
        """One 20 ms frame of the microphone, int16 [320] at 16 kHz: gaps filled, zeros while muted. Called before
        anything that follows from it."""
        ...

    def unit_frame(self, t_samples: int, jpeg: bytes) -> None:
        """A camera picture went into a unit. ``t_samples`` is the media time at which the picture came in (before the
        call that is being made now); called once per picture, with its first unit."""
        ...

    def command(self, t_samples: int, raw: str) -> None:
        """A client event came in, as it was received."""
        ...

    def result(self, t_samples: int, n: int) -> None:
        """The engine's result number ``n`` (gapless, from 0) takes effect now."""
        ...

    def fault(self, t_samples: int, epoch: int | None, error: EngineError) -> None:
        """The engine has failed at the answer of ``epoch``, or for good, where that is None."""
        ...

    def judged(self, t_samples: int, end: int, probability: float) -> None:
        """Somebody who was asked whether the person was done at media time ``end`` has said so."""
        ...

    def meant(self, t_samples: int, end: int, stop: bool) -> None:
        """The model, which was asked what was said until media time ``end`` during an answer, says whether it means to
        stop."""
        ...

    def played(self, t_samples: int, epoch: int, samples: int) -> None:
        """``samples`` (24 kHz) of the answer of ``epoch`` were handed to the listener; never zero."""
        ...

    def paused(self, t_samples: int) -> None:
        """No audio packet for more than a second. The next ``audio`` ends the pause."""
        ...

    def event(self, envelope: Mapping[str, Any]) -> None:
        """An event of the server, without secrets. Its ``seq`` counts the events that a replay repeats, from 1;
        what depends on the network (``metrics``) is not among them."""
        ...

    def speech(self, pcm: NDArray[np.int16]) -> None:
        """What was pulled for the listener, int16 at 24 kHz, silence included."""
        ...

    def closed(self, reason: str) -> None:
        """The last call: nothing follows."""
        ...
