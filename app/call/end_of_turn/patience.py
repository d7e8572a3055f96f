"""How long a silence ends a turn, after what those who were asked have said."""

from __future__ import annotations

import math
from collections.abc import Mapping

from app.call.config import Judging, TurnConfig

MELODY_SHARE = 0.2
"""What the melody's word counts beside the model's."""
SUREST = 1e-4
"""Nobody is believed to be surer than this."""


def done_probability(said: Mapping[Judging, float | None]) -> float | None:
    """How probable it is that the person is done after what was said by whom, None being said by who cannot tell.

    The log-odds of two add up, the melody's for a part: what was said tells more than how it was said, so that the more
    doubtful of the two would often be the wrong one to believe.
    """
    melody, word = said.get("smart_turn"), said.get("model")
    if melody is None or word is None:
        return melody if word is None else word
    return 1 / (1 + math.exp(-_log_odds(word) - MELODY_SHARE * _log_odds(melody)))


def patience_ms(done: float, config: TurnConfig) -> float:
    """Silence after which a turn ends whose person is done with probability ``done``, milliseconds.

    Between the two thresholds it falls with the log-odds, from the longest to the shortest. Silence makes it likelier
    that the person is done: where pauses end at an even rate, the log-odds rise with it in a straight line, and all
    turns end where theirs reach the same value, those of who seemed less likely done later.
    """
    low, high = _log_odds(config.end_of_turn_unlikely), _log_odds(config.end_of_turn_likely)
    shortest, longest = config.end_of_turn_min_ms, 1000 * config.end_of_turn_max_s
    odds = _log_odds(done)
    share = min(1.0, max(0.0, (odds - low) / (high - low))) if high > low else float(odds >= high)
    return float(longest + (shortest - longest) * share)


def _log_odds(probability: float) -> float:
    held = min(1 - SUREST, max(SUREST, probability))
    return math.log(held / (1 - held))
