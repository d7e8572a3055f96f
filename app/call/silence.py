"""How long nobody has said or done anything, and what has come of it."""

from __future__ import annotations

from dataclasses import dataclass

from app.call.config import SilenceConfig
from app.call.ending import notices_s
from app.call.media_time import FRAME_SAMPLES
from engine.client import INPUT_RATE

STIRRING_S = 1.0
"""For so long at most the end waits for a sound that may become speech."""


@dataclass(frozen=True, slots=True)
class Silence:
    """The silence since the person's last sign of life. Time in which an answer is given does not count."""

    samples: int = 0
    """Its length at 16 kHz."""
    word_due: bool = False
    """It is time for a word of the model."""
    away: bool = False
    """The person is taken to be away."""
    announced: int = 0
    """How often the end of the call was announced."""
    over: bool = False
    """The call is to end."""

    def longer(self, config: SilenceConfig, *, stirring: bool) -> Silence:
        """The silence after 20 ms more. While somebody may be beginning to speak (``stirring``), nothing is asked of
        the model, and the call does not end."""
        samples = self.samples + FRAME_SAMPLES
        length_s = samples / INPUT_RATE
        end_s = config.idle_end_s
        announced = sum(length_s >= end_s - notice_s for notice_s in notices_s(end_s)) if end_s else 0
        return Silence(
            samples,
            word_due=self.word_due or (0 < config.prompt_after_s <= length_s and not stirring),
            away=self.away or 0 < config.away_after_s <= length_s,
            announced=max(self.announced, announced),
            over=0 < end_s <= length_s - (STIRRING_S if stirring else 0.0),
        )
