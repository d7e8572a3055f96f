"""What the engine is fed with while a person has the turn: seconds of sound, each with the newest picture."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from app.call.config import CallConfig
from app.call.engine_link import EngineLink
from app.call.frames import NewestPicture
from app.call.outbox import Outbox
from app.call.units import UnitCutter
from engine.client import INPUT_RATE, Unit

log = logging.getLogger(__name__)


class UnitFeeder:
    """Cuts the person's turn into units and has the engine prefill them.

    Every second of a turn goes out as soon as it is complete, and what is left at the turn's end. An engine that is too
    far behind is given no more sound: what was said then is lost, and the caller is told once.

    In a pause the rest of the turn is fed on trial: if the person goes on, it is taken back, and fed again when it is a
    whole second.
    """

    def __init__(
        self,
        config: CallConfig,
        link: EngineLink,
        outbox: Outbox,
        on_picture: Callable[[int, bytes], None] | None,
    ) -> None:
        """``on_picture(t_samples, jpeg)`` is called when a picture goes with a unit for the first time."""
        self.camera = NewestPicture(on_picture)
        self._units_of_turn = 0  # that the engine was asked to prefill
        self._config = config
        self._link = link
        self._outbox = outbox
        self._behind = False
        self._newest = self._settled = 0
        self._trial: range | None = None  # numbers of the units that are fed on trial
        self._taken_back: set[int] = set()  # numbers of those that were, in vain, and have not been answered yet
        self._cutter = UnitCutter(samples_of(config.turn.preroll_ms), samples_of(config.turn.hangover_ms))

    @property
    def awaited(self) -> int:
        """Number of the last unit that the session does not hold yet; 0 for none."""
        return self._newest if self._newest > self._settled else 0

    def configure(self, config: CallConfig) -> None:
        """New options take effect at once."""
        self._config = config
        self._cutter.preroll = samples_of(config.turn.preroll_ms)
        self._cutter.hangover = samples_of(config.turn.hangover_ms)

    def push(self, frame: NDArray[np.int16]) -> None:
        """Microphone audio, int16 [n] at 16 kHz."""
        self._cutter.push(frame)

    def open(self, onset: int) -> None:
        """A turn begins at media time ``onset`` (samples)."""
        self._units_of_turn = 0
        self._cutter.open(onset)

    @property
    def is_idle(self) -> bool:
        """The engine has nothing to do, or just the newest second."""
        return self._link.pending_units <= 1

    def cut(self, last_voiced: int) -> None:
        """Feed the seconds that are complete; see :meth:`UnitCutter.cut`. Not during a trial, which has fed them."""
        if self._trial is None:
            self._feed(self._cutter.cut(last_voiced), final=False)

    def try_end(self, last_voiced: int) -> None:
        """Feed the rest of the turn on trial, as if it had ended at ``last_voiced``."""
        first = self._newest + 1
        self._feed(self._cutter.tail(last_voiced), final=True)
        self._trial = range(first, self._newest + 1)

    def try_text(self, text: str) -> None:
        """Feed text that nobody typed, on trial."""
        first = self._newest + 1
        self.feed_text(text)
        self._trial = range(first, self._newest + 1)

    def keep_text(self) -> None:
        """It counts."""
        self._trial = None

    def take_back(self) -> range:
        """The person goes on: the units that were fed on trial, which the session has to forget."""
        assert self._trial is not None
        units, self._trial = self._trial, None
        self._units_of_turn -= len(units)
        self._taken_back.update(index for index in units if index > self._settled)
        return units

    def is_on_trial(self, index: int) -> bool:
        """Whether it is not yet known if unit number ``index`` counts."""
        return self._trial is not None and index in self._trial

    def close(self, last_voiced: int | None) -> None:
        """The turn ends: feed the rest of it, unless that was done on trial; see :meth:`UnitCutter.close`."""
        rest = self._cutter.close(last_voiced)
        if self._trial is None:
            self._feed(rest, final=True)
        self._trial = None

    def drop(self) -> None:
        """Forget what was not fed yet."""
        self._cutter.drop()

    def warn_discarded(self) -> None:
        """The person discards a turn: say so if the model has heard some of it."""
        if self._units_of_turn:
            message = f"The model had already heard {self._units_of_turn} seconds of what was discarded."
            self._outbox.warn("discarded_late", message)

    def feed_text(self, text: str) -> None:
        """Typed text goes with the newest picture."""
        self._prefill(Unit(frame=self.camera.take(), text=text, hd=self._config.hd_video))

    def settled(self, index: int) -> bool:
        """The engine has prefilled or refused unit number ``index``; False if that was taken back meanwhile."""
        self._settled = index
        counts = index not in self._taken_back
        self._taken_back.discard(index)
        return counts

    def _feed(self, units: list[NDArray[np.int16]], *, final: bool) -> None:
        for i, audio in enumerate(units):
            pending = self._link.pending_units
            if pending < self._config.media.max_pending_units:
                self._behind = False
                hd = self._config.hd_video and final and i == len(units) - 1
                ask_end = "model" in self._config.turn.judges  # any may turn out to be the last
                self._prefill(Unit(audio, frame=self.camera.take(), hd=hd, ask_end=ask_end))
                continue
            if not self._behind:
                self._behind = True
                self._warn_behind(pending)
            log.warning("%d samples were not given to the engine, which is behind", len(audio))

    def _warn_behind(self, units: int) -> None:
        message = (
            f"The model is {units} units behind and does not hear what is said now. "
            "Wait for its answer, or run it on a faster machine."
        )
        self._outbox.warn("engine_behind", message)

    def _prefill(self, unit: Unit) -> None:
        self._units_of_turn += 1
        self._newest = self._link.prefill(unit)


def samples_of(milliseconds: float) -> int:
    """Samples at 16 kHz."""
    return round(milliseconds * INPUT_RATE / 1000)
