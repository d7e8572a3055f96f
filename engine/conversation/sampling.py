"""From scores to token ids: batched, on the device, without waiting for it.

Randomness is a value: a session's noise is (seed, counter), so a fork draws what its parent would have drawn, and
who shares the batch changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class TextSampling:
    """How text tokens are drawn. The defaults are those of the reference's streaming answer."""

    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 100
    repetition_penalty: float = 1.05
    greedy: bool = False
    longest: int = 4_096
    """Tokens of the longest answer that the checkpoint is meant to give; a call may ask for less."""


@dataclass(frozen=True, slots=True)
class SpeechSampling:
    """How audio codes are drawn. The defaults are those of the reference's speech model."""

    temperature: tuple[float, ...] = (0.1, 0.3, 0.1, 0.3)
    top_p: float = 0.7
    top_k: int = 20
    repetition_penalty: float = 1.0
    window: int = 16
    """Codes back that the repetition penalty counts."""
    min_keep: int = 3
    """Candidates that top-p and top-k always leave."""
    min_tokens: int = 10
    """Codes before which the end of speech is not allowed."""
    greedy: bool = False


@dataclass(frozen=True, slots=True)
class Noise:
    """A stream of uniform numbers that is a plain value."""

    seed: int
    drawn: int = 0

    def draw(self, *shape: int) -> tuple[Tensor, Noise]:
        """Uniform numbers in [0, 1), float32 [*shape] on the CPU, and the stream that follows them."""
        generator = torch.Generator().manual_seed((self.seed * 0x9E3779B97F4A7C15 + self.drawn) % (1 << 63))
        return torch.rand(*shape, generator=generator), self.after()

    def after(self) -> Noise:
        """The stream behind the next draw, whatever its shape."""
        return replace(self, drawn=self.drawn + 1)


def penalize_seen(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make ids less likely that occurred: scores [..., V], ``seen`` bool [..., V] (CTRL, arXiv 1909.05858)."""
    if penalty == 1.0:
        return scores
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def penalize_counts(scores: Tensor, history: Tensor, penalty: float, window: int) -> Tensor:
    """Like :func:`penalize_seen`, once for every occurrence among the last ``window`` ids.

    ``scores`` [..., V]; ``history`` int64 [..., T], negative entries are no id.
    """
    if penalty == 1.0:
        return scores
    recent = history[..., -window:]
    size = scores.shape[-1]
    counts = F.one_hot(torch.where(recent < 0, size, recent), size + 1)[..., :size].sum(-2)
    factor = torch.pow(penalty, counts)
    return torch.where(scores < 0, scores * factor, scores / factor)


def top_p(scores: Tensor, mass: float, min_keep: int = 1) -> Tensor:
    """Keep the smallest set of ids whose probability exceeds ``mass`` (nucleus sampling, arXiv 1904.09751)."""
    ordered, order = scores.sort(dim=-1)
    outside = ordered.softmax(-1).cumsum(-1) <= 1 - mass
    outside[..., -min_keep:].fill_(False)
    return scores.masked_fill(outside.scatter(-1, order, outside), float("-inf"))


def top_k(scores: Tensor, count: int, min_keep: int = 1) -> Tensor:
    """Keep the ``count`` best ids and what ties with the last of them."""
    least = scores.topk(min(max(count, min_keep), scores.shape[-1])).values[..., -1:]
    return scores.masked_fill(scores < least, float("-inf"))


def top_p_k(scores: Tensor, mass: float, count: int, min_keep: int = 1) -> Tensor:
    """:func:`top_k` of :func:`top_p`, with one sort for both."""
    ordered, order = scores.sort(dim=-1)
    outside = ordered.softmax(-1).cumsum(-1) <= 1 - mass
    outside[..., -min_keep:].fill_(False)
    least = ordered[..., -min(max(count, min_keep), scores.shape[-1]), None]
    return scores.masked_fill(outside.scatter(-1, order, outside | (ordered < least)), float("-inf"))


def pick(probabilities: Tensor, uniform: Tensor | None) -> Tensor:
    """Ids int64 [...] from probabilities [..., V]: the distribution inverted at ``uniform`` [...], or the best."""
    if uniform is None:
        return probabilities.argmax(-1)
    climb = probabilities.cumsum(-1)
    total = climb[..., -1:]
    # Rounding can bring the target up to the total: the last id that is possible at all is then meant.
    return torch.minimum((climb <= uniform[..., None].to(climb) * total).sum(-1), (climb < total).sum(-1))


@cache  # a recorded step goes on using them
def temperatures(values: tuple[float, ...], device: torch.device) -> Tensor:
    """[num_vq, 1] on the device, where it stays: copying it there for every step would make the host wait."""
    return torch.tensor(values, device=device)[:, None]


def speech_probabilities(
    logits: Tensor, history: Tensor, sampling: SpeechSampling, *, warp: Tensor, allow_end: Tensor
) -> Tensor:
    """Probabilities of the next codes.

    ``logits`` float32 [B, num_vq, V], the last id of V being the end of speech; ``history`` int64 [B, num_vq, T]
    (negative: none); ``warp`` bool [B]: False at the very first code of an utterance, where only temperature applies;
    ``allow_end`` bool [B]. Returns [B, num_vq, V].
    """
    scores = logits / temperatures(sampling.temperature, logits.device)
    warped = penalize_counts(scores, history, sampling.repetition_penalty, sampling.window)
    warped = top_p_k(warped, sampling.top_p, sampling.top_k, sampling.min_keep)
    scores = torch.where(warp[:, None, None], warped, scores)
    scores[..., -1].masked_fill_(~allow_end[:, None], float("-inf"))
    return scores.softmax(-1)
