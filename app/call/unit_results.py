"""What became of the units that the engine was given, and what the client is told of it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from app.call.config import CallConfig
from app.call.engine_link import UnitPrefilled, UnitRefused
from app.call.feeder import UnitFeeder
from app.call.outbox import Outbox
from app.call.transcript import CallTranscript

MAX_THUMBNAIL_BYTES = 8 * 1024

UnitResult = UnitPrefilled | UnitRefused


class UnitResults:
    """Takes the engine's results of units in. Those of units on trial are withheld until it is known whether they
    count."""

    def __init__(
        self, config: CallConfig, feeder: UnitFeeder, outbox: Outbox, settled: Callable[[UnitResult], None]
    ) -> None:
        """``settled(result)`` hears of every result that counts, before the client does."""
        self._config = config
        self._feeder = feeder
        self._outbox = outbox
        self._settled = settled
        self._withheld: list[UnitResult] = []
        self.transcript = CallTranscript(outbox)
        self.end_probability: float | None = None
        """The model's word after the newest unit: how probable it is that the person is done."""

    def configure(self, config: CallConfig) -> None:
        """New options take effect at once."""
        self._config = config

    def take(self, result: UnitResult) -> bool:
        """The engine has prefilled or refused a unit; False if that was taken back meanwhile."""
        counts = self._feeder.settled(result.index)
        if isinstance(result, UnitPrefilled):
            self.end_probability = result.prefilled.end_probability
        if counts and self._feeder.is_on_trial(result.index):
            self._withheld.append(result)
        elif counts:
            self._tell(result)
        return counts

    def commit(self) -> None:
        """The units on trial count."""
        withheld, self._withheld = self._withheld, []
        for result in withheld:
            self._tell(result)

    def forget(self) -> None:
        """The units on trial were never fed."""
        self._withheld.clear()

    def _tell(self, result: UnitResult) -> None:
        self._settled(result)
        self.transcript.unit(result)
        if isinstance(result, UnitRefused):
            return
        unit, prefilled = result.unit, result.prefilled
        if result.frame_error is not None:
            self._outbox.warn("bad_frame", result.frame_error.message)
        if unit.frame is not None and prefilled.picture_tokens:  # a model without eyes uses none
            used: dict[str, Any] = {"unit": result.index, "hd": unit.hd}
            if self._config.media.thumbnails and len(unit.frame) <= MAX_THUMBNAIL_BYTES:
                used["thumbnail"] = base64.b64encode(unit.frame).decode()
            self._outbox.event("frame.used", used)
        action = "dropped" if prefilled.dropped_tokens else "none"
        context = {"used": prefilled.context_used, "limit": prefilled.context_limit, "action": action}
        self._outbox.event("context", context | {"dropped": prefilled.dropped_tokens})
