"""What the engine is fed with while a person has the turn: seconds of sound, each with the newest picture."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from app.call.config import CallConfig
from app.call.engine_link import EngineLink
from app.call.frames import NewestPicture
from app.call.units import UnitCutter
from engine.client import INPUT_RATE, Unit

log = logging.getLogger(__name__)


class UnitFeeder:
    """Cuts the person's turn into units and has the engine prefill them.

    Every second of a turn goes out as soon as it is complete, and what is left at the turn's end. An engine that is too
    far behind is given no more sound: what was said then is lost, and the caller is told once.
    """

    def __init__(
        self,
        config: CallConfig,
        link: EngineLink,
        on_behind: Callable[[int], None],
        on_picture: Callable[[int, bytes], None] | None,
    ) -> None:
        """``on_behind(units)`` is called when the engine falls so many units behind that sound is dropped,
        ``on_picture(t_samples, jpeg)`` when a picture goes with a unit for the first time."""
        self.camera = NewestPicture(on_picture)
        self.units_of_turn = 0
        """Units of this turn that the engine was asked to prefill."""
        self._config = config
        self._link = link
        self._on_behind = on_behind
        self._behind = False
        self._newest = self._settled = 0
        self._cutter = UnitCutter(_samples(config.turn.preroll_ms), _samples(config.turn.hangover_ms))

    @property
    def awaited(self) -> int:
        """Number of the last unit that the session does not hold yet; 0 for none."""
        return self._newest if self._newest > self._settled else 0

    def configure(self, config: CallConfig) -> None:
        """New options take effect at once."""
        self._config = config
        self._cutter.preroll = _samples(config.turn.preroll_ms)
        self._cutter.hangover = _samples(config.turn.hangover_ms)

    def push(self, frame: NDArray[np.int16]) -> None:
        """Microphone audio, int16 [n] at 16 kHz."""
        self._cutter.push(frame)

    def open(self, onset: int) -> None:
        """A turn begins at media time ``onset`` (samples)."""
        self.units_of_turn = 0
        self._cutter.open(onset)

    def cut(self, last_voiced: int) -> None:
        """Feed the seconds that are complete; see :meth:`UnitCutter.cut`."""
        self._feed(self._cutter.cut(last_voiced), final=False)

    def close(self, last_voiced: int | None) -> None:
        """The turn ends: feed the rest of it; see :meth:`UnitCutter.close`."""
        self._feed(self._cutter.close(last_voiced), final=True)

    def drop(self) -> None:
        """Forget what was not fed yet."""
        self._cutter.drop()

    def feed_text(self, text: str) -> None:
        """Typed text goes with the newest picture."""
        self._prefill(Unit(frame=self.camera.take(), text=text, hd=self._config.hd_video))

    def settled(self, index: int) -> None:
        """The engine has prefilled or refused unit number ``index``."""
        self._settled = index

    def _feed(self, units: list[NDArray[np.int16]], *, final: bool) -> None:
        for i, audio in enumerate(units):
            pending = self._link.pending_units
            if pending < self._config.media.max_pending_units:
                self._behind = False
                hd = self._config.hd_video and final and i == len(units) - 1
                self._prefill(Unit(audio, frame=self.camera.take(), hd=hd))
                continue
            if not self._behind:
                self._behind = True
                self._on_behind(pending)
            log.warning("%d samples were not given to the engine, which is behind", len(audio))

    def _prefill(self, unit: Unit) -> None:
        self.units_of_turn += 1
        self._newest = self._link.prefill(unit)


def _samples(milliseconds: float) -> int:
    return round(milliseconds * INPUT_RATE / 1000)
