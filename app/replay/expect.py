"""What a call bundle expects of a call, and how far a call met it.

``expect.jsonl`` holds one object per line. Every key of a line but ``turn`` and ``note`` is one expectation, passed or
failed. Keys about an answer look at the answer of ``turn`` (from 1, as in the events), or without ``turn`` at
everything that was answered in the call:

===================  ==================================================================================
``text_any``         the answer holds at least one of these phrases
``text_all``         the answer holds all of these phrases
``text_not``         the answer holds none of these phrases
``text_exact``       the answer consists of these words and no others
``text_regex``       this Python regular expression is found in the answer as it was written (any case)
``no_answer``        true: no word was answered; false: at least one was
``interrupted``      whether the answer was cut off before its end
``end_between_s``    [from, to]: media time, in seconds, at which the turn was found to be over (needs ``turn``)
``turns``            how many of the person's turns were answered in the call
``turns_min``        … at least
``turns_max``        … at most
``frames_min``       how many camera pictures the model was given at least (in the call)
===================  ==================================================================================

A phrase is compared word by word, without case, accents' encoding or punctuation: "seven" is found in "It's SEVEN!",
not in "seventy"; "7" and "seven" are different words. Chinese characters count as words of their own. A turn that was
not answered fails every expectation about its answer but ``no_answer``. Unknown keys are faults, so that a typing
error cannot pass as an expectation that holds.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

TURN_KEYS = ("text_any", "text_all", "text_not", "text_exact", "text_regex", "no_answer", "interrupted")
CALL_KEYS = ("turns", "turns_min", "turns_max", "frames_min")
KEYS = (*TURN_KEYS, "end_between_s", *CALL_KEYS)


class ExpectError(ValueError):
    """A line of ``expect.jsonl`` that says nothing that can be checked. The message is a clause for a sentence."""


@dataclass(slots=True)
class TurnOutcome:
    """What became of one turn of the person."""

    turn: int
    end_s: float
    """Media time at which the turn was found to be over."""
    answered: bool = False
    text: str = ""
    status: str | None = None
    """``completed``, ``cancelled`` or ``failed``; None while the answer was still running."""


@dataclass(slots=True)
class Outcome:
    """What can be read from the event log of a call about its turns."""

    turns: dict[int, TurnOutcome] = field(default_factory=dict)
    frames: int = 0

    @classmethod
    def from_events(cls, events: Iterable[Mapping[str, Any]]) -> Outcome:
        """Read the server's events (envelopes) in order. Unknown types are passed over."""
        outcome = cls()
        for event in events:
            data = event["data"]
            match event["type"]:
                case "frame.used":
                    outcome.frames += 1
                case "turn.state" if data["state"] == "thinking":
                    outcome._turn(event)
                case "response.started":
                    outcome._turn(event).answered = True
                case "assistant.text":
                    outcome._turn(event).text += data["delta"]
                case "response.done":
                    outcome._turn(event).status = data["status"]
        return outcome

    def _turn(self, event: Mapping[str, Any]) -> TurnOutcome:
        """The turn that ``event`` is about, which is over by then."""
        return self.turns.setdefault(event["turn"], TurnOutcome(event["turn"], end_s=event["t"]))

    @property
    def answered(self) -> list[TurnOutcome]:
        """The turns that were answered, in order."""
        return [turn for _, turn in sorted(self.turns.items()) if turn.answered]


@dataclass(frozen=True, slots=True)
class Expectation:
    """One thing that must hold. ``line`` is its line in ``expect.jsonl``, from 1."""

    line: int
    key: str
    value: Any
    turn: int | None = None

    def __str__(self) -> str:
        where = f"turn {self.turn}: " if self.turn is not None else ""
        return f"{where}{self.key} {self.value!r}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """An expectation and whether it held; ``found`` says what was there instead, in words."""

    expectation: Expectation
    passed: bool
    found: str

    def as_json(self) -> dict[str, Any]:
        e = self.expectation
        return {"line": e.line, "turn": e.turn, "key": e.key, "expected": e.value, "passed": self.passed,
                "found": self.found}  # fmt: skip


def parse_expectations(line: int, raw: object) -> list[Expectation]:
    """The expectations of one line of ``expect.jsonl``, already read as JSON. Raises :class:`ExpectError`."""
    if not isinstance(raw, dict):
        raise ExpectError(f'holds {_kind(raw)} where an object such as {{"turns": 2}} is needed')
    if unknown := sorted(set(raw) - {*KEYS, "turn", "note"}):
        raise ExpectError(f"has the unknown key {unknown[0]!r}; known are {', '.join(KEYS)}, turn and note")
    turn = raw.get("turn")
    if "turn" in raw and not (_is_count(turn) and turn >= 1):
        raise ExpectError(f"has turn {turn!r}; turns are whole numbers from 1")
    keys = [key for key in KEYS if key in raw]
    if not keys:
        raise ExpectError(f"expects nothing; add one of {', '.join(KEYS)}")
    for key in keys:
        if key in CALL_KEYS and turn is not None:
            raise ExpectError(f"gives {key!r}, which is about the whole call, together with a turn; use a line each")
        if key == "end_between_s" and turn is None:
            raise ExpectError("gives 'end_between_s' without the turn that it is about")
        if (fault := _value_fault(key, raw[key])) is not None:
            raise ExpectError(f"has {key} {raw[key]!r}; it must be {fault}")
    return [Expectation(line, key, raw[key], turn) for key in keys]


def check(expectations: Sequence[Expectation], outcome: Outcome) -> list[Verdict]:
    """Hold each expectation against what happened, in their order."""
    return [_check(expectation, outcome) for expectation in expectations]


def words(text: str) -> list[str]:
    """The words of ``text`` for comparison: without case and punctuation, Chinese characters one by one."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = re.sub(r"(?<=\w)['’](?=\w)", "", plain)  # don't = dont, one word
    return re.findall(r"[\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u3400-\u4dbf\u4e00-\u9fff]+", plain)


def has_phrase(text: Sequence[str], phrase: Sequence[str]) -> bool:
    """Whether the words ``phrase`` stand in ``text`` side by side."""
    return any(text[i : i + len(phrase)] == phrase for i in range(len(text) - len(phrase) + 1))


def _check(expectation: Expectation, outcome: Outcome) -> Verdict:
    key, value = expectation.key, expectation.value
    if key in CALL_KEYS:
        found = outcome.frames if key == "frames_min" else len(outcome.answered)
        passed = found == value if key == "turns" else found <= value if key == "turns_max" else found >= value
        return Verdict(expectation, passed, str(found))
    if expectation.turn is None:
        about = outcome.answered
    else:
        about = [outcome.turns[expectation.turn]] if expectation.turn in outcome.turns else []
    if key == "end_between_s":
        if not about:
            return Verdict(expectation, False, "no end of this turn")
        return Verdict(expectation, value[0] <= about[0].end_s <= value[1], f"{about[0].end_s:.3f} s")
    text = " ".join(turn.text.strip() for turn in about if turn.text.strip())
    if key == "no_answer":
        return Verdict(expectation, (not words(text)) == value, repr(text) if words(text) else "no words")
    if not any(turn.answered for turn in about):
        return Verdict(expectation, False, "no answer")
    if key == "interrupted":
        cut = any(turn.status == "cancelled" for turn in about)
        return Verdict(expectation, cut == value, ", ".join(str(turn.status) for turn in about))
    return Verdict(expectation, _text_holds(key, value, text), repr(text))


def _text_holds(key: str, value: Any, text: str) -> bool:
    if key == "text_regex":
        return re.search(value, text, re.IGNORECASE) is not None
    said = words(text)
    if key == "text_exact":
        return said == words(value)
    held = [has_phrase(said, words(phrase)) for phrase in _phrases(value)]
    return any(held) if key == "text_any" else all(held) if key == "text_all" else not any(held)


def _phrases(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else value


def _value_fault(key: str, value: Any) -> str | None:
    """What ``value`` should be, if it is not that."""
    if key in ("text_any", "text_all", "text_not"):
        phrases = _phrases(value)
        good = isinstance(phrases, list) and phrases and all(isinstance(p, str) and words(p) for p in phrases)
        return None if good else 'a list of phrases with at least one word each, such as ["seven"]'
    if key == "text_exact":
        return None if isinstance(value, str) and words(value) else "a text with at least one word"
    if key == "text_regex":
        try:
            re.compile(value)
        except (re.error, TypeError):
            return "a Python regular expression"
        return None
    if key in ("no_answer", "interrupted"):
        return None if isinstance(value, bool) else "true or false"
    if key == "end_between_s":
        good = isinstance(value, list) and len(value) == 2 and all(_is_seconds(v) for v in value)
        return None if good and value[0] <= value[1] else "[from, to] in seconds, the smaller first"
    return None if _is_count(value) else "a whole number, not negative"


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: object) -> str:
    return {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")
