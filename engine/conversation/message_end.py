"""Whether a person's message is over, as the language model has it.

A model that was trained to tell gives the token that closes a message its probability. One that only knows written
text tells as well where it reads words: how probable it is that a mark comes next that ends a sentence ("what is the" –
"what is the time"). Its reader's own marks do not count, since it takes the end of every sound for one of a sentence.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from engine.config import OmniConfig
from engine.config_end_of_turn import EndOfTurnConfig


def make_message_end(
    tokenizer: PreTrainedTokenizerBase, config: OmniConfig, closing: int, device: torch.device
) -> MessageEnd | None:
    """What tells of the messages that the token ``closing`` closes; None for a model that cannot."""
    return None if config.end_of_turn is None else MessageEnd(tokenizer, config.end_of_turn, closing, device)


class MessageEnd:
    """What one model says. Keeps nothing of any call."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: EndOfTurnConfig,
        closing: int,
        device: torch.device | None = None,
    ) -> None:
        """``device`` is where the scores are."""
        marks = tuple(config.marks)
        ids = {closing, *(i for token, i in tokenizer.get_vocab().items() if _is_end(token, marks))}
        self._ids = torch.tensor(sorted(ids), device=device)
        self._even = config.even

    def probability(self, scores: Tensor) -> float:
        """That the message ends, from the scores [vocabulary] of what comes after its last word."""
        end = float(scores.float().softmax(-1)[self._ids].sum())
        over, on = end * (1 - self._even), (1 - end) * self._even
        return float(over / (over + on))


def _is_end(token: str, marks: tuple[str, ...]) -> bool:
    """Whether ``token``, in the letters of byte-level BPE, is one of ``marks`` with nothing but line breaks behind."""
    return token.startswith(marks) and not token[1:].strip("Ċč")
