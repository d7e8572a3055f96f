"""How many sessions can share a step so that none of them notices, to the last bit.

A matrix product of a fixed shape makes each of its rows in the same order of operations, whatever the other rows hold.
That leaves one question, to which no library gives its word: whether it also does so wherever a row stands. On the
processors at hand it does from four rows on, but not for two or three rows of some widths. So a step always has four
rows, and each start tries them out on the weights that are loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from engine.model.decoder import Decoder
from engine.model.kv import KVRows
from engine.model.omni import OmniModel
from engine.model.vision_language import VisionLanguageModel

ROWS = 4
"""Rows of a step: as cheap as one row for a single session, and what four sessions need."""


@torch.inference_mode()
def exact_rows(model: VisionLanguageModel) -> int:
    """:data:`ROWS` where a row comes out the same wherever it stands and whatever stands beside it, else 1."""
    independent = _rows_are_independent(model.llm.model, model.llm.logits)
    if independent and isinstance(model, OmniModel):
        speech = partial(torch.nn.functional.linear, weight=model.tts.tables().heads)
        independent = _rows_are_independent(model.tts.model, speech)
    return ROWS if independent else 1


def _rows_are_independent(decoder: Decoder, head: Callable[[Tensor], Tensor]) -> bool:
    weight, width = decoder.norm.weight, decoder.sizes.hidden_size
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(width, generator=generator)
    outcomes = []
    for place in range(ROWS):
        for size in (0.0, 1.0, 100.0):
            embeds = size * torch.randn(ROWS, 1, width, generator=generator)
            embeds[place, 0] = row
            arena = decoder.arena(slots=ROWS, capacity=1)
            cache = KVRows(tuple(arena.place([slot], [0], [1]) for slot in range(ROWS)), ROWS)
            states = decoder(embeds.to(weight.device, weight.dtype), cache=cache)
            outcomes.append(head(states[:, 0])[place])
    return all(torch.equal(outcome, outcomes[0]) for outcome in outcomes)
