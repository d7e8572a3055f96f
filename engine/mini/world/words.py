"""The code between mini's ears and its language: a sound token says which word was just heard.

The input embeddings of the language model are random and stay as they are. The audio encoder and its projector learn,
with CTC over the words (Graves et al., 2006), to put out the embedding of a word where it ends and that of the
placeholder token elsewhere. So a spoken turn looks to the language model almost like a typed one, and everything it
learned from text holds for sound.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.mini.world.known_words import heard_words
from engine.mini.world.scenes import CELLS, SLOTS
from engine.processing.tokens import TokenBuilder

EMBEDDING_STD = 0.4
TONE_STD = 5.5
"""How much the sound tokens of one utterance differ along :func:`voice_direction`."""
GARBAGE = "<reserved_43>"
"""Stands for any word that mini does not know."""


def embedding_table(rows: int, width: int) -> Tensor:
    """The fixed random input embeddings, the same for every stage."""
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(20)) * EMBEDDING_STD


def voice_direction(width: int) -> Tensor:
    """The unit vector along which sound tokens say whose voice it is, a woman's being positive. Words do not use it."""
    direction = torch.randn(width, generator=torch.Generator().manual_seed(21))
    out: Tensor = direction / direction.norm()
    return out


def random_tone(rng: np.random.Generator, high: bool) -> float:
    """How far along :func:`voice_direction` the sound tokens of somebody's voice lie on average."""
    return float(rng.uniform(1, 8)) if high else -float(rng.uniform(1.5, 9))


def place_vectors(slots: int, width: int) -> Tensor:
    """What is added to the words for shapes in a picture, so that they say where the shape is: a vector of its row plus
    one of its column. [slots, width]; zero for picture tokens that say something else."""
    rows, columns = 0.75 * EMBEDDING_STD * torch.randn(2, 3, width, generator=torch.Generator().manual_seed(24))
    places = torch.zeros(slots, width)
    places[CELLS + 1 : SLOTS : 2] = (rows[:, None] + columns).flatten(0, 1)
    return places


class HeardWords:
    """Token ids that sound tokens can mean: the words of the grammar, one for unknown words, and the blank."""

    def __init__(self, builder: TokenBuilder) -> None:
        self.builder = builder
        self.blank = builder.specials.unknown
        self.garbage = int(builder.tokenizer.convert_tokens_to_ids(GARBAGE) or 0)
        self._ids = {w: builder.text(" " + w) for w in heard_words()}
        known = sorted({i for ids in self._ids.values() for i in ids})
        self.vocabulary = [self.blank, self.garbage, *known]
        """Id of every class; class 0 is CTC's blank."""
        self._class = {token: index for index, token in enumerate(self.vocabulary)}

    def encode(self, text: str) -> list[int]:
        """Ids of the words of ``text``."""
        return [i for word in text.split() for i in self._ids.get(word, [self.garbage])]

    def classes(self, text: str) -> list[int]:
        """Classes of the words of ``text``."""
        return [self._class[i] for i in self.encode(text)]

    def labels(self, text: str, ends: Sequence[float], tokens: int, per_second: float) -> list[int]:
        """Class of each sound token: a word where it ends, else the blank; -100 where a word of several ids may end.
        All -100 when ``ends`` are not known."""
        words = text.split()
        if len(ends) != len(words):
            return [-100] * tokens
        out = [0] * tokens
        for word, end in zip(words, ends, strict=True):
            at = min(tokens - 1, int(max(0.0, end - 0.02) * per_second))
            ids = self._ids.get(word, [self.garbage])
            if out[at] > 0 and at:
                out[at - 1] = out[at]
            out[at] = self._class[ids[0]] if len(ids) == 1 else -100
            if len(ids) > 1 and at + 1 < tokens:
                out[at + 1] = -100
        return out

    def text(self, classes: list[int]) -> str:
        """Best path of CTC to words: repeats and blanks removed."""
        kept = [c for i, c in enumerate(classes) if c and (i == 0 or c != classes[i - 1])]
        out: str = self.builder.tokenizer.decode([self.vocabulary[c] for c in kept]).strip()
        return out


class WordHead(nn.Module):
    """Scores of the words for what the projector put out: closeness to their embeddings. Exists in training only."""

    def __init__(self, words: HeardWords, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("targets", table[words.vocabulary].clone(), persistent=False)
        self.direction: Tensor
        self.register_buffer("direction", voice_direction(table.shape[1]), persistent=False)
        self.bias = nn.Parameter(torch.zeros(len(words.vocabulary)))
        self.scale = nn.Parameter(torch.tensor(0.25))

    def forward(self, tokens: Tensor) -> Tensor:
        """Sound tokens [B, N, hidden] → log-probabilities [B, N, classes]."""
        return (self.scale * tokens @ self.targets.T + self.bias).float().log_softmax(-1)  # type: ignore[operator]

    def loss(
        self, tokens: Tensor, lengths: list[int], words: list[list[int]], labels: list[list[int]]
    ) -> dict[str, Tensor]:
        """``word``: CTC per word; ``aligned``: cross-entropy where ``labels`` say what a token is (-100: unknown);
        ``distance``: squared, between each token and the mean embedding that it claims; ``twice``: how many words are
        said by two tokens in a row, per word. CTC does not mind those, but a reader can not tell them from a word
        that was spoken twice."""
        log = self(tokens)
        aims = torch.full(log.shape[:2], -100)
        for row, aim in zip(aims, labels, strict=True):
            row[: len(aim)] = torch.tensor(aim)
        aims = aims.to(log.device)
        aligned = log.new_zeros(())
        if (aims >= 0).any():
            aligned = F.nll_loss(log.flatten(0, 1), aims.flatten(), ignore_index=-100)
        sizes = torch.tensor([len(w) for w in words])
        flat = torch.tensor([c for w in words for c in w], dtype=torch.long, device=log.device)
        ctc = F.ctc_loss(log.transpose(0, 1), flat, torch.tensor(lengths), sizes, zero_infinity=True, reduction="none")
        shares = log.exp()
        inside = (torch.arange(tokens.shape[1]) < torch.tensor(lengths)[:, None]).to(log.device)
        apart = (tokens - shares.detach() @ self.targets)[inside]
        apart = apart - (apart @ self.direction)[:, None] * self.direction
        spoken = shares[..., 1:]
        both = (spoken[:, :-1] * spoken[:, 1:]).sum(-1)[inside[:, 1:]].sum() / sizes.sum().clamp(min=1)
        return {
            "word": (ctc / sizes.clamp(min=1).to(log.device)).mean(),
            "aligned": aligned,
            "distance": apart.float().square().mean(),
            "twice": both,
        }

    def voice(self, tokens: Tensor, lengths: list[int], high: Sequence[bool | None]) -> Tensor:
        """Cross-entropy of whose voice it is, where that is known: the mean of an utterance's sound tokens along
        :func:`voice_direction` is its logit."""
        known = [i for i, value in enumerate(high) if value is not None]
        if not known:
            return tokens.new_zeros(())
        along = tokens.float() @ self.direction
        logits = torch.stack([along[i, : max(1, lengths[i])].mean() for i in known])
        aims = torch.tensor([float(bool(high[i])) for i in known], device=logits.device)
        return F.binary_cross_entropy_with_logits(logits, aims)
