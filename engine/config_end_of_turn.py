"""How a language model tells that a person's message is over: no keys of the official model."""

from __future__ import annotations

from dataclasses import dataclass

from engine.config_reader import Reader


@dataclass(frozen=True, slots=True)
class EndOfTurnConfig:
    """What :class:`engine.conversation.message_end.MessageEnd` asks for."""

    marks: str
    """Characters that end a sentence (``end_of_turn_marks``), for a model that reads words and was not trained to tell.
    The probability of ``<|im_end|>`` alone means nothing there: Qwen2.5 0.5B gives complete statements 0.02."""
    even: float
    """Probability of the end from which a message is rather over than not (``end_of_turn_even``)."""


def read_end_of_turn(root: Reader) -> EndOfTurnConfig | None:
    """None for a model that cannot tell, without ``tells_end_of_turn``. Raises ConfigError."""
    if not root.get("tells_end_of_turn", False):
        return None
    even = root.get("end_of_turn_even", 0.5)
    if not 0 < even < 1:
        raise root.error("end_of_turn_even", f"is {even}, not a probability between 0 and 1", "use 0.5")
    return EndOfTurnConfig(root.get("end_of_turn_marks", ""), even)
