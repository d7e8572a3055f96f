"""The answer's text, drawn token by token: in the published chunks of three, or in blocks over one long answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from engine.conversation.reading import Reading
from engine.conversation.sampling import SpeechSampling, TextSampling
from engine.conversation.session import SessionState
from engine.conversation.speech import TextItem
from engine.conversation.work import Decode, Decoded, Feed, Step
from engine.processing.tokens import SpecialIds, TokenRow

EXACT_STEPS = 3
"""Tokens that the published code draws per call."""


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How to answer. The defaults are the published ones."""

    max_new_tokens: int = 512
    min_new_tokens: int = 0
    text: TextSampling = field(default_factory=TextSampling)
    speech: SpeechSampling | None = None
    """None takes the model's own settings."""
    speak: bool = True


def begin_answer(state: SessionState) -> None:
    """Bookkeeping of a session that starts to answer."""
    state.reading = Reading()
    state.book = replace(state.book, opens_turn=True, answered=True, completed=False, unit=state.book.unit + 1)


class ExactText:
    """Text as the published code draws it, its quirks included (see the table in README.md).

    Calls of three tokens, each with a repetition penalty and a minimum length of its own; the last token of the last
    call never enters the context; ids 0 are removed.
    """

    def __init__(
        self, state: SessionState, prompt: TokenRow, ends: tuple[int, int], tokenizer: Any, stop_ids: Sequence[int],
        options: AnswerOptions, seen: Tensor,
    ) -> None:  # fmt: skip
        """``ends``: how many tokens of the prompt are the last words of the turn before, and how many close it;
        ``seen`` is a blank mask bool [V]."""
        self.state, self.prompt, self.ends = state, prompt, ends
        self.tokenizer, self.stop_ids, self.options = tokenizer, frozenset(stop_ids), options
        self.blank = seen
        self.chunks: list[tuple[int, ...]] = []
        self._input: tuple[int, ...] = tuple(prompt.ids.tolist())
        self._held: tuple[int, ...] = ()
        self._count = 0

    def next(self, most: int | None = None) -> Step[TextItem | None]:
        state = self.state
        if state.book.completed or self._count >= self.options.max_new_tokens:
            return None
        seen = self.blank.clone()
        seen[torch.tensor(self._input, device=seen.device)] = True
        decoded: Decoded = yield Decode(
            state, self._input, EXACT_STEPS, self.options.text, seen, state.noise, self.options.min_new_tokens
        )
        speaker = None
        if not self._count:
            note_prompt(state, len(self._input), self.ends)
            first, last = self.prompt.spk_bounds[-1]
            speaker = decoded.states[first:last]
        else:
            state.note("answer", len(self._input))
        state.note("answer", len(decoded.ids) - 1)
        state.noise = decoded.noise
        state.book = replace(state.book, completed=decoded.stopped)
        self.chunks.append(decoded.ids)
        self._count += len(decoded.ids)
        self._input = decoded.ids[-1:]
        ids, self._held = split_complete((*self._held, *decoded.ids), self.tokenizer)
        return TextItem(self._decode(ids), speaker)

    def _decode(self, ids: Sequence[int]) -> str:
        kept = [token for token in ids if token != 0]
        if kept and kept[0] == self.tokenizer.bos_token_id:
            del kept[0]
        if kept and kept[-1] in self.stop_ids:
            del kept[-1]
        out: str = self.tokenizer.decode(kept)
        return out


class LiveText:
    """Text as a call needs it: blocks of one long answer.

    The repetition penalty and the minimum length look at the whole answer, nothing that was said is missing from the
    context afterwards, and no token is dropped.
    """

    def __init__(
        self, state: SessionState, prompt: TokenRow, ends: tuple[int, int], tokenizer: Any, specials: SpecialIds,
        options: AnswerOptions, seen: Tensor, embed: Callable[[Sequence[int]], Tensor], steps: tuple[int, int],
    ) -> None:  # fmt: skip
        """``ends`` as in :class:`ExactText`; ``steps``: tokens of the first block and of the others; ``embed`` gives
        the embeddings [T, hidden] of ids."""
        self.state, self.prompt, self.ends = state, prompt, ends
        self.tokenizer, self.specials, self.options = tokenizer, specials, options
        self.seen, self.embed, self.steps = seen, embed, steps
        self.ids: list[int] = []
        """What was drawn so far, a stop token included."""
        self.over = False
        self._input: tuple[int, ...] = tuple(prompt.ids.tolist())
        self._held: tuple[int, ...] = ()
        self._said = False

    def next(self, most: int | None = None) -> Step[TextItem | None]:
        if self.over:
            return None
        state, options, first = self.state, self.options, not self.ids
        steps = min(self.steps[0] if first else self.steps[1], options.max_new_tokens - len(self.ids))
        steps = steps if most is None else min(steps, most)
        least = max(0, options.min_new_tokens - len(self.ids))
        decoded: Decoded = yield Decode(state, self._input, steps, options.text, self.seen, state.noise, least)
        speaker = None
        if first:
            note_prompt(state, len(self._input), self.ends)
            begin, end = self.prompt.spk_bounds[-1]
            speaker = decoded.states[begin:end]
        else:
            state.note("answer", 1)
        state.note("answer", len(decoded.ids) - 1)
        state.noise = decoded.noise
        start = state.position - len(decoded.ids) + 1
        self.ids += decoded.ids
        self._input = decoded.ids[-1:]
        if decoded.stopped:
            self.over = True
            state.book = replace(state.book, completed=True)
        elif len(self.ids) >= options.max_new_tokens:
            self.over = True
            yield Feed(state, self.embed(self._input))
            state.note("answer", 1)
        parts = self._parts(decoded.ids, start)
        return TextItem("".join(text for text, _ in parts), speaker, state.position + (not self.over), parts)

    def _parts(self, drawn: Sequence[int], start: int) -> tuple[tuple[str, int], ...]:
        """What the new ids say, up to the end of the spoken text: whole characters, each part with the position at
        which the context holds it. ``start`` is the position of the first of ``drawn``."""
        if self._said:
            return ()
        ends = (*self.specials.stop, self.specials.tts_end)
        end = next((index for index, token in enumerate(drawn) if token in ends), None)
        self._said = end is not None
        ids, held = (*self._held, *drawn[:end]), len(self._held)
        if not self.over and not self._said:
            ids, self._held = split_complete(ids, self.tokenizer)
        whole: str = self.tokenizer.decode(ids)
        parts: list[tuple[str, int]] = []
        done = 0
        for count in range(1, len(ids) + 1):
            text: str = self.tokenizer.decode(ids[:count]) if count < len(ids) else whole
            if len(text) > done and not (text.endswith("\ufffd") and count < len(ids)):
                parts.append((whole[done : len(text)], start + count - held))
                done = len(text)
        return tuple(parts)


def note_prompt(state: SessionState, tokens: int, ends: tuple[int, int]) -> None:
    """Record the tokens that ask for an answer: the first are words of the turn before, some close it, and the others
    open the answer."""
    words, closing = ends
    state.note("audio", words)
    state.note("close", closing)
    state.book = replace(state.book, turn=state.book.turn + 1)
    state.note("open", tokens - words - closing)


def split_complete(ids: Sequence[int], tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split ids so that the first part decodes to whole characters; the second waits for its missing bytes."""
    end = len(ids)
    while end and tokenizer.decode(list(ids[:end])).endswith("\ufffd"):
        end -= 1
    return tuple(ids[:end]), tuple(ids[end:])
