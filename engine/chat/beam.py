"""Beam search over one key/value storage: the published ``sampling=False``."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import torch
from torch import Tensor

from engine.conversation.sampling import penalize_seen
from engine.model.kv import KVArena
from engine.model.llm import LanguageModel


@torch.inference_mode()
def beam_search(
    llm: LanguageModel,
    arena: KVArena,
    slots: Sequence[int],
    length: int,
    state: Tensor,
    *,
    stop_ids: Sequence[int],
    max_new: int,
    min_new: int = 0,
    penalty: float = 1.0,
) -> list[int]:
    """The likeliest continuation by mean log-probability per token, its stop token included.

    ``slots`` are the beams' places; the first holds a context of ``length`` tokens whose last state is ``state``
    [hidden]. Candidates are ranked as transformers ranks them (length penalty 1, no early stop); the repetition penalty
    sees what the beam has drawn.
    """
    beams, stops = len(slots), torch.tensor(list(stop_ids), device=state.device)
    for slot in slots[1:]:
        arena.copy(slots[0], slot, length)
    rows = torch.tensor(list(slots), device=state.device)
    states = state.expand(beams, -1)
    totals = torch.full((beams,), -1e9, device=state.device)
    totals[0] = 0.0
    drawn = torch.empty(beams, 0, dtype=torch.int64, device=state.device)
    finished: list[tuple[float, list[int]]] = []
    for step in range(max_new):
        scores = llm.logits(states).log_softmax(-1)
        seen = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, drawn, True)
        scores = penalize_seen(scores, seen, penalty)
        if step < min_new:
            scores[:, stops] = float("-inf")
        size = scores.shape[-1]
        best, flat = (scores + totals[:, None]).flatten().topk(beams * max(2, 1 + len(stops)))
        chosen: list[tuple[float, int, int]] = []
        for rank, (total, index) in enumerate(zip(best.tolist(), flat.tolist(), strict=True)):
            beam, token = divmod(index, size)
            if token not in stop_ids:
                chosen.append((total, beam, token))
            elif rank < beams:
                _keep(finished, total / (step + 1), [*drawn[beam].tolist(), token], beams)
            if len(chosen) == beams:
                break
        totals = torch.tensor([total for total, _, _ in chosen], device=state.device)
        order = torch.tensor([beam for _, beam, _ in chosen], device=state.device)
        tokens = torch.tensor([token for _, _, token in chosen], device=state.device)
        drawn = torch.cat([drawn[order], tokens[:, None]], 1)
        if len(finished) == beams and finished[0][0] >= float(totals.max()) / (step + 1):
            break
        if step + 1 == max_new:
            for total, ids in zip(totals.tolist(), drawn.tolist(), strict=True):
                _keep(finished, total / (step + 1), ids, beams)
            break
        # Only what the beams have drawn differs: the context that they share stays where it is.
        for tensor in (*arena.keys, *arena.values):
            tensor[rows, :, length : length + step] = tensor[rows[order], :, length : length + step]
        cache = arena.place(slots, [length + step] * beams, [1] * beams)
        states = llm(llm.embed(tokens)[:, None], cache=cache)[:, 0]
    return max(finished)[1]


def _keep(finished: list[tuple[float, list[int]]], score: float, ids: list[int], beams: int) -> None:
    """Remember a complete answer if it is among the best (a heap with the worst in front)."""
    heapq.heappush(finished, (score, ids))
    if len(finished) > beams:
        heapq.heappop(finished)
