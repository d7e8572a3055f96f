"""The fixed questions, typed or said to a model: how many are answered right, by kind."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from engine.checkpoint.loader import LoadedModel
from engine.conversation.streaming import StreamingModel
from engine.conversation.text import AnswerOptions
from engine.conversation.work import Task, Work
from engine.processing.prompts import Message, Part, TypedText, get_sys_prompt
from engine.serving.checks import MAX_PROMPT_CHARS
from engine.serving.live_engine import read_sampling, read_text
from engine.small.measure.judge import BRIEF_WORDS, Question, plain
from engine.small.measure.sounds import Wave, units

T = TypeVar("T")
Conversation = Generator[Work, Any, tuple[str, ...]]
Turn = str | Wave
"""What is typed, or said: float32 [n] at 16 kHz."""
ABREAST = 8
"""Conversations at a time."""
CONTEXT = 1_024


@dataclass(frozen=True, slots=True)
class AnsweredQuestion:
    """One question with what was said to it."""

    question: Question
    answers: tuple[str, ...]
    right: bool


class Typist:
    """Asks a model by its keys, as calls do, without a voice: several at once, which changes no answer."""

    def __init__(self, loaded: LoadedModel, folder: Path, *, prompt: str | None = None) -> None:
        """``folder`` is the model's, for how its text is drawn and for what it is told at the start, unless that is
        ``prompt``."""
        self.stream = StreamingModel(loaded, sessions=ABREAST, context=CONTEXT)
        told = read_text(folder / "prompt.txt", MAX_PROMPT_CHARS) if prompt is None else prompt
        self.opening = Message("system", [TypedText(told)]) if told else get_sys_prompt(None, "omni", "en")
        sampling = read_sampling(folder)
        self.options = AnswerOptions(max_new_tokens=min(64, sampling.longest), text=sampling, speak=False)

    def ask_all(
        self,
        questions: Sequence[Question],
        said: Sequence[Sequence[Turn]] | None = None,
        *,
        shown: Sequence[Part] = (),
    ) -> Iterator[AnsweredQuestion]:
        """Each question in a conversation of its own, as they are done; ``shown`` comes first in each. ``said`` are the
        turns of each, unless they are typed as they stand."""
        turns = [question.turns for question in questions] if said is None else said
        waiting = deque(zip(questions, turns, strict=True))
        held: list[tuple[Question, Conversation, Work]] = []
        while waiting or held:
            while waiting and len(held) < ABREAST:
                question, own = waiting.popleft()
                conversation = self._conversation(own, shown)
                held.append((question, conversation, next(conversation)))
            results = self.stream.executor.run([work for _, _, work in held])
            going = []
            for (question, conversation, _), result in zip(held, results, strict=True):
                try:
                    going.append((question, conversation, conversation.send(result)))
                except StopIteration as end:
                    answers: tuple[str, ...] = end.value
                    yield AnsweredQuestion(question, answers, question.holds(answers[-1]))
            held = going

    def _conversation(self, turns: Sequence[Turn], shown: Sequence[Part]) -> Conversation:
        """The answers to what is typed, or said second by second, in turn."""
        stream, answers = self.stream, []
        state = stream.open()
        try:
            yield from _outputs(stream.prefill(state, self.opening))
            for turn in turns:
                pieces: list[Part] = [TypedText(turn)] if isinstance(turn, str) else [*units(turn)]
                for piece in pieces:
                    parts, shown = [*shown, piece], ()
                    yield from _outputs(stream.prefill(state, Message("user", parts)))
                chunks = yield from _outputs(stream.generate(state, self.options).task())
                answers.append("".join(chunk.text for chunk in chunks).strip())
        finally:
            stream.pool.drop(state)
        return tuple(answers)


def _outputs(task: Task[T]) -> Generator[Work, Any, list[T]]:
    """What a task gives, once its work was done."""
    given: list[T] = []
    try:
        item = next(task)
        while True:
            if isinstance(item, Work):
                item = task.send((yield item))
            else:
                given.append(item)
                item = task.send(None)
    except StopIteration:
        return given


def table(asked: Sequence[AnsweredQuestion]) -> str:
    """Right answers by kind, and how many answers are short enough to be spoken, as Markdown."""
    kinds = list(dict.fromkeys(one.question.kind for one in asked))
    lines = ["| kind | right | short |", "|---|---|---|"]
    for name in [*kinds, "all"]:
        group = [one for one in asked if name in (one.question.kind, "all")]
        right, short = (sum(map(test, group)) for test in (lambda one: one.right, is_short))
        lines.append(f"| {name} | {share(right, len(group))} | {share(short, len(group))} |")
    return "\n".join(lines)


def is_short(asked: AnsweredQuestion) -> bool:
    """Two sentences at most, and no more than :data:`BRIEF_WORDS` words."""
    said = asked.answers[-1]
    ends = sum(said.count(mark) for mark in (". ", "? ", "! ", "\n"))
    return ends <= 1 and len(plain(said).split()) <= BRIEF_WORDS


def share(part: int, whole: int) -> str:
    """``85 % (34/40)``."""
    return f"{100 * part / whole:.0f} % ({part}/{whole})" if whole else "–"
