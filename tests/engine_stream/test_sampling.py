"""Drawing tokens: each rule by its definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.conversation.sampling import (
    Noise,
    SpeechSampling,
    TextSampling,
    penalize_counts,
    penalize_seen,
    pick,
    speech_probabilities,
    top_k,
    top_p,
    top_p_k,
)
from engine.conversation.text_steps import TextRows, draw_text

ROWS = st.integers(0, 2**31 - 1)


def scores_of(seed: int, shape: tuple[int, ...] = (2, 30)) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


@settings(max_examples=40, deadline=None)
@given(ROWS, st.floats(0.05, 0.99), st.integers(1, 5))
def test_the_nucleus_is_the_smallest_set_with_enough_mass(seed: int, mass: float, least: int) -> None:
    scores = scores_of(seed)
    kept = top_p(scores, mass, least).isfinite()
    chances = scores.softmax(-1)
    for row, keep in zip(chances, kept, strict=True):
        order = row.argsort(descending=True)
        count = int(keep.sum())
        assert keep[order[:count]].all()
        if count > least:
            assert row[order[: count - 1]].sum() < mass + 1e-4
        assert count >= least
        assert row[keep].sum() > mass - 1e-4 or count == least


@settings(max_examples=20, deadline=None)
@given(ROWS, st.integers(1, 40), st.integers(1, 5))
def test_the_best_k_stay(seed: int, count: int, least: int) -> None:
    kept = top_k(scores_of(seed), count, least).isfinite()
    assert (kept.sum(-1) == min(30, max(count, least))).all()


@settings(max_examples=60, deadline=None)
@given(ROWS, st.floats(0.05, 1.0), st.integers(1, 40), st.integers(1, 5), st.integers(1, 4))
def test_both_limits_in_one_sort_keep_what_one_after_the_other_keeps(
    seed: int, mass: float, count: int, least: int, grain: int
) -> None:
    """Ties included: scores are rounded to few values."""
    scores = (scores_of(seed) * grain).round() / grain
    assert torch.equal(top_p_k(scores, mass, count, least), top_k(top_p(scores, mass, least), count, least))


def test_penalties() -> None:
    scores = torch.tensor([[2.0, -2.0, 2.0]])
    assert penalize_seen(scores, torch.tensor([[True, True, False]]), 2.0).tolist() == [[1.0, -4.0, 2.0]]
    history = torch.tensor([[9, 0, 0, 1, -1]])
    counted = penalize_counts(torch.tensor([[8.0, -1.0, 3.0] + [0.0] * 7]), history, 2.0, 4)
    assert counted[0, :3].tolist() == [2.0, -2.0, 3.0]
    assert torch.equal(penalize_counts(scores, history[:, :1], 1.0, 4), scores)


def test_picking_follows_the_distribution_and_never_takes_the_impossible() -> None:
    chances = torch.tensor([0.0, 0.5, 0.0, 0.25, 0.25, 0.0]).expand(4000, 6)
    uniform = torch.linspace(0, 1, 4001)[:-1] + 1 / 8000
    counts = torch.bincount(pick(chances, uniform), minlength=6)
    assert counts.tolist() == [0, 2000, 0, 1000, 1000, 0]
    assert pick(chances[:1], torch.tensor([1.0])).tolist() == [4]
    assert pick(chances[:2], None).tolist() == [1, 1]


def test_noise_is_a_value() -> None:
    start = Noise(7)
    first, after = start.draw(3, 2)
    assert torch.equal(first, start.draw(3, 2)[0])
    assert not torch.equal(first, after.draw(3, 2)[0])
    assert not torch.equal(first, Noise(8).draw(3, 2)[0])


def test_text_tokens_are_drawn_row_by_row() -> None:
    scores = scores_of(1, (3, 50))

    def draw(scores: Tensor, first: int, sampling: TextSampling) -> list[int]:
        rows = TextRows.make(len(scores), 1, 50, scores.device)
        rows.uniform.copy_(torch.tensor([[0.1], [0.5], [0.9]])[first : first + len(scores)])
        draw_text(scores, rows, torch.tensor([0]), sampling)
        return rows.ids.tolist()

    alone = [draw(scores[i : i + 1], i, TextSampling())[0] for i in range(3)]
    assert draw(scores, 0, TextSampling()) == alone
    assert draw(scores, 0, TextSampling(greedy=True)) == scores.argmax(-1).tolist()


@pytest.mark.parametrize("allowed", [True, False])
def test_the_end_of_speech_waits_until_it_is_allowed(allowed: bool) -> None:
    logits = torch.zeros(1, 4, 626)
    logits[..., -1] = 50.0
    history = torch.full((1, 4, 1), -1)
    chances = speech_probabilities(
        logits, history, SpeechSampling(), warp=torch.tensor([True]), allow_end=torch.tensor([allowed])
    )
    assert bool((chances[..., -1] > 0.99).all()) is allowed
    assert torch.allclose(chances.sum(-1), torch.ones(1, 4))


def test_the_first_code_is_drawn_from_all() -> None:
    logits = scores_of(3, (2, 4, 626)) / 10
    history = torch.full((2, 4, 1), -1)
    chances = speech_probabilities(
        logits, history, SpeechSampling(), warp=torch.tensor([False, True]), allow_end=torch.ones(2, dtype=torch.bool)
    )
    assert (chances[0] > 0).sum(-1).min() > 20
    assert (chances[1] > 0).sum(-1).max() <= 20
