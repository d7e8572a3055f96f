"""What there is to be heard in a bundle, and what became of it in a replay.

``turns.jsonl`` of a bundle has an object a line with ``kind``, ``begin_s`` and ``end_s`` (media time):

================  ======================================================================================
``turn``          what a person means to say before they are answered, pauses included
``interruption``  speech during an answer that is meant to stop it; if it does, it is a turn as well
``sound``         a cough, an "mhm", a knock: neither is to be answered nor to stop an answer
================  ======================================================================================

``what`` names it more closely: ``cough`` or ``laughter`` for a sound, ``overlap`` for a turn that begins in the last
words of an answer. ``voiced_s`` is where the first of it is voiced: soft consonants before it are no voice to anybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from app.replay.bundle_lines import read_lines
from app.replay.bundle_media import BundleError

Kind = Literal["turn", "interruption", "sound"]

SLACK_S = 0.1
"""How far a decision may lie before the end of what was said: an end is where the last frame was loud."""
FOLLOWS_S = 1.5
"""What an answer begins or ends within this after a sound is put down to the sound."""


@dataclass(frozen=True, slots=True)
class ToBeHeard:
    """Something that there is to be heard in a bundle, seconds of media time."""

    kind: Kind
    begin_s: float
    end_s: float
    what: str = ""
    voiced_s: float | None = None


@dataclass(slots=True)
class Count:
    """How many of how many."""

    part: int = 0
    whole: int = 0

    def add(self, counts: bool) -> None:
        self.part += counts
        self.whole += 1


@dataclass(slots=True)
class Tally:
    """What became of all that was to be heard. Times are seconds."""

    cut_off: Count = field(default_factory=Count)
    unanswered: Count = field(default_factory=Count)
    gaps: list[float] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)
    obeyed: dict[str, Count] = field(default_factory=dict)
    pauses: list[float] = field(default_factory=list)
    """From the first sound of an interruption to the pause of the answer …"""
    voiced_pauses: list[float] = field(default_factory=list)
    """… and from its first voiced sample."""
    stops: list[float] = field(default_factory=list)
    """From that sample to the decision that it is an interruption."""
    overlaps: Count = field(default_factory=Count)
    """Answers that were finished although somebody began to speak in their last words, and who was answered then."""
    survived: dict[str, Count] = field(default_factory=dict)
    """Sounds during an answer that did not end it and were not answered, by what they are."""
    alone: dict[str, Count] = field(default_factory=dict)
    """Sounds outside of an answer that were not answered."""
    false_answers: int = 0
    minutes: float = 0.0
    drafts_kept: int = 0
    drafts_dropped: int = 0


def read_turns(folder: Path) -> tuple[ToBeHeard, ...]:
    """What ``turns.jsonl`` of a bundle says is to be heard, in order. Raises BundleError."""
    path = folder / "turns.jsonl"
    if not path.is_file():
        raise BundleError(path, "is missing", "say in it what there is to be heard")
    heard = []
    for number, line in read_lines(path):
        try:
            voiced = line.get("voiced_s")
            one = ToBeHeard(
                line["kind"],
                float(line["begin_s"]),
                float(line["end_s"]),
                str(line.get("what", "")),
                None if voiced is None else float(voiced),
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise BundleError(path, f"line {number} lacks kind, begin_s or end_s", "correct that line") from None
        if one.kind not in get_args(Kind) or not 0 <= one.begin_s < one.end_s:
            raise BundleError(path, f"line {number} is no sound that can be heard", "correct that line")
        heard.append(one)
    return tuple(sorted(heard, key=lambda one: one.begin_s))


def count(
    heard: Sequence[ToBeHeard],
    events: Sequence[Mapping[str, Any]],
    engine: Mapping[int, float],
    tally: Tally,
    wait_s: float,
) -> None:
    """Add one call to ``tally``. ``engine`` has the seconds to the first sound by epoch; ``wait_s`` of them a prepared
    answer has had when the turn ends at its earliest."""
    begun = [event for event in events if event["type"] == "response.started"]
    ended = [event for event in events if event["type"] == "response.done"]
    paused = [event["t"] for event in events if event["type"] == "response.paused"]
    answers = [event for event in begun if event["data"].get("reason") != "typed"]
    for one, following in zip(heard, [*heard[1:], None], strict=True):
        if one.kind == "sound":
            until = one.end_s + FOLLOWS_S
            _count_sound(
                one, until if following is None else min(until, following.begin_s), answers, begun, ended, tally
            )
            continue
        if one.kind == "interruption" and not _count_interruption(one, ended, paused, tally):
            continue
        early = [e for e in answers if one.begin_s < e["t"] < one.end_s - SLACK_S]
        after = [e for e in answers if e["t"] >= one.end_s - SLACK_S]
        tally.cut_off.add(bool(early))
        tally.unanswered.add(not after and not early)
        if one.what == "overlap":
            before = [e for e in ended if one.begin_s <= e["t"] < one.end_s]
            whole = all(e["data"]["status"] == "completed" for e in before)
            tally.overlaps.add(bool(before) and whole and bool(after) and not early)
        if after and not early:
            gap, epoch = after[0]["t"] - one.end_s, after[0]["epoch"]
            took = engine.get(epoch, 0.0)
            tally.gaps.append(gap + max(0.0, took - max(0.0, gap - wait_s)))
            tally.engine.append(took)
        answers = [e for e in answers if e not in early and e not in after[:1]]
    tally.false_answers += len(answers)


def _count_sound(
    one: ToBeHeard,
    until: float,
    answers: Sequence[Mapping[str, Any]],
    begun: Sequence[Mapping[str, Any]],
    ended: Sequence[Mapping[str, Any]],
    tally: Tally,
) -> None:
    stopped = any(one.begin_s < e["t"] < until and e["data"]["status"] == "cancelled" for e in ended)
    answered = any(one.begin_s < e["t"] < until for e in answers)
    running = sum(e["t"] <= one.begin_s for e in begun) > sum(e["t"] <= one.begin_s for e in ended)
    counts = tally.survived if running else tally.alone
    counts.setdefault(one.what or one.kind, Count()).add(not stopped and not answered)


def _count_interruption(
    one: ToBeHeard, ended: Sequence[Mapping[str, Any]], paused: Sequence[float], tally: Tally
) -> bool:
    """Whether it was obeyed."""
    until = one.end_s + 2 * SLACK_S
    stopped = [e["t"] for e in ended if one.begin_s < e["t"] < until and e["data"]["reason"] == "barge_in"]
    tally.obeyed.setdefault(one.what or one.kind, Count()).add(bool(stopped))
    quiet = [t for t in [*paused, *stopped] if one.begin_s < t < until]
    voiced = one.begin_s if one.voiced_s is None else one.voiced_s
    if quiet:
        tally.pauses.append(min(quiet) - one.begin_s)
        tally.voiced_pauses.append(min(quiet) - voiced)
    if stopped:
        tally.stops.append(min(stopped) - voiced)
    return bool(stopped)
