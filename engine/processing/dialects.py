"""How each model of the family writes a conversation down: its marks, its limits, and what its code does besides.

The models were trained with exactly these, so that they are part of the architecture.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.config_language import Generation


@dataclass(frozen=True, slots=True)
class Dialect:
    """The conventions of one model."""

    stops: tuple[str, ...]
    """Tokens that end an answer."""
    begin: str = "<|im_start|>"
    """The token that begins a text: an answer that repeats it is shown without."""
    cells_apart: bool = True
    """Every cell of a picture that is cut is a ``<slice>`` of its own; else all are pictures within one ``<slice>``."""
    turns: tuple[tuple[str, str], ...] = ()
    """What comes before a message of each role, and nothing comes after it; empty where the tokenizer's own template
    says it."""
    follows_post_processor: bool = True
    """The prompt is encoded with what the tokenizer's file puts in front of every text."""
    one_picture: bool = False
    """A conversation has one picture at most, in front of its first message."""
    skips_id_0: bool = False
    """Tokens of the id 0 in a prompt (Qwen's ``!``) are not looked at, and take no position. That is a slip of the
    published code, with which its answers were measured; a streamed answer does without."""
    whole_words: bool = True
    """An answer has no spaces around it; one that comes in pieces, comes in whole words."""
    max_new_tokens: int = 1024
    """Of an answer, unless asked otherwise."""
    max_inp_length: int = 2048
    """Of a prompt, unless asked otherwise."""

    def turn(self, role: str) -> str | None:
        """What comes before a message of ``role``; None where there is no such role."""
        return dict(self.turns).get(role)


CHATML_STOPS = ("<|im_end|>", "<|endoftext|>")
DIALECTS: dict[Generation, Dialect] = {
    "o-2.6": Dialect(
        CHATML_STOPS, follows_post_processor=False, whole_words=False, max_new_tokens=2048, max_inp_length=32768
    ),
    "v-2.6": Dialect(CHATML_STOPS, skips_id_0=True, max_new_tokens=2048, max_inp_length=8192),
    "v-2.5": Dialect(("<|end_of_text|>", "<|eot_id|>"), "<|begin_of_text|>", cells_apart=False),
    "v-2.0": Dialect(("</s>",), cells_apart=False, turns=(("user", "<用户>"), ("assistant", "<AI>")), one_picture=True),
}
