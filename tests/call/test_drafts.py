"""What drafts cost, as the metrics tell it."""

from __future__ import annotations

import numpy as np

from app.call.drafts import DraftCosts
from engine.client import Chunk


def test_what_was_in_vain_is_counted_until_it_was_finished_or_dropped() -> None:
    costs = DraftCosts()
    costs.begin(16_000)
    costs.chunk(Chunk(1, 0, "You said", np.zeros(2_400, np.int16)), 24_000)
    costs.drop(32_000, finished=False)  # a second of work
    costs.begin(48_000)
    costs.chunk(Chunk(2, 0, "two.", np.zeros(2_400, np.int16), finish="stop"), 56_000)
    costs.drop(80_000, finished=True)  # half a second, and then it waited
    costs.begin(96_000)
    costs.chunk(Chunk(3, 0, "It is three."), 100_000)
    costs.keep()
    assert costs.figures(160_000) == {
        "drafts_kept": 1, "drafts_dropped": 2, "drafts_dropped_chars": 12, "drafts_dropped_speech_ms": 200,
        "drafts_dropped_share": 0.15,
    }  # fmt: skip
