"""How the context of a session is shared out: what a prompt, a typed text and an answer may take, in tokens."""

from __future__ import annotations

from dataclasses import dataclass

from engine.client import EngineError


@dataclass(frozen=True, slots=True)
class Room:
    """The context holds the prompt for ever, the unit that was fed last, and the answer to it; the window lets go of
    whatever else there is."""

    context: int
    prompt: int
    answer: int
    """Of the longest answer, with what asks for it."""
    header: int
    """Of what opens a turn."""
    picture: int
    """Of the most detailed picture that a unit brings."""

    @property
    def unit(self) -> int:
        return self.context - self.prompt - self.answer

    @property
    def text(self) -> int:
        """A text comes with a picture as a rule, which must have its place; half of the unit is the text's own."""
        return self.unit - self.header - min(self.picture, self.unit // 2)

    def check_prompt(self) -> None:
        """Raise EngineError ``prompt_too_long`` unless a quarter of the context is left for what is said."""
        limit = self.context - self.context // 4 - self.answer
        if self.prompt > limit:
            raise EngineError(
                "prompt_too_long",
                f"The prompt, with the voice, takes {self.prompt} tokens, and {limit} of the model's context of "
                f"{self.context} are free for it; shorten it.",
            )

    def check_text(self, tokens: int) -> None:
        """Raise EngineError ``text_too_long`` if a typed text of so many tokens does not fit."""
        if tokens > self.text:
            raise EngineError(
                "text_too_long",
                f"The text takes {tokens} tokens where {self.text} can be taken in at once; shorten it.",
            )

    def check_unit(self, tokens: int, *, has_text: bool) -> None:
        """Raise EngineError ``text_too_long`` or ``bad_unit`` if a unit of so many tokens does not fit."""
        if tokens > self.unit:
            message = f"The unit takes {tokens} tokens where {self.unit} can be taken in at once"
            remedy = "shorten its text" if has_text else "send a smaller picture, or take a model with a larger context"
            raise EngineError("text_too_long" if has_text else "bad_unit", f"{message}; {remedy}.")
