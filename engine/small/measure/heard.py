"""How many words of unseen people are read wrong, second by second as in a call."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.checkpoint.loader import LoadedModel
from engine.client import INPUT_RATE
from engine.conversation.message import Fed
from engine.conversation.streaming import StreamingModel
from engine.conversation.work import Task
from engine.processing.prompts import Message, get_sys_prompt
from engine.small.measure.judge import plain
from engine.small.measure.sounds import SpeechSample, Wave, under, units

ALIKE = {"oh": "0", "ok": "okay", "mr": "mister", "mrs": "missus", "favourite": "favorite", "colour": "color"}
CONTEXT = 1_024


@dataclass(frozen=True, slots=True)
class ReadRecording:
    """One recording as it was read."""

    speaker: str
    condition: str
    text: str
    read: str
    wrong: int
    """Words to change, leave out or put in."""
    words: int
    seconds: float
    """CPU time a second of sound."""


class CallReader:
    """Reads sound as a call with one model does."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.stream = StreamingModel(loaded, context=CONTEXT)

    def read(self, wave: Wave) -> str:
        """The words in a sound, cut into units of one second."""
        stream = self.stream
        state = stream.open()
        try:
            self._feed(stream.prefill(state, get_sys_prompt(None, "omni", "en")))
            said = rest = ""
            for unit in units(wave):
                fed = self._feed(stream.prefill(state, Message("user", [unit])))
                said, rest = said + fed.words, fed.rest
            return (said + rest).strip()
        finally:
            stream.pool.drop(state)

    def _feed(self, task: Task[Fed]) -> Fed:
        fed: Fed = list(self.stream.executor.drive(task))[-1]
        return fed


def hear_all(
    ears: CallReader, recordings: Sequence[SpeechSample], conditions: Sequence[str]
) -> Iterator[ReadRecording]:
    """Each recording under each condition, as it is read."""
    for condition in conditions:
        for recording in recordings:
            wave, begin = under(recording, condition), time.process_time()
            read = ears.read(wave)
            spent = (time.process_time() - begin) / (len(wave) / INPUT_RATE)
            wanted = comparable(recording.text)
            wrong = edit_distance(wanted, comparable(read))
            yield ReadRecording(recording.speaker, condition, recording.text, read, wrong, len(wanted), spent)


def comparable(text: str) -> list[str]:
    """Words, with digits and spelled letters one by one: "8-6-2 GMEF" is 8 6 2 g m e f, and so is how it is spelt."""
    spelled = re.sub(r"(?<![A-Za-z])[A-Z]{2,}(?![a-z])", lambda found: " ".join(found[0]), text)
    words = re.sub(r"(?<=\d)(?=[a-z])|(?<=[a-z])(?=\d)", " ", plain(spelled)).split()
    words = [ALIKE.get(word, word) for word in words]
    return [part for word in words for part in (word if word.isdigit() else [word])]


def edit_distance(wanted: Sequence[str], given: Sequence[str]) -> int:
    """Least number of words to change, leave out or put in."""
    row = list(range(len(given) + 1))
    for index, word in enumerate(wanted, 1):
        before, row = row, [index]
        for place, other in enumerate(given, 1):
            row.append(min(before[place] + 1, row[-1] + 1, before[place - 1] + (word != other)))
    return row[-1]


def table(heard: Sequence[ReadRecording]) -> str:
    """Share of words read wrong, by people and condition, as Markdown."""
    conditions = list(dict.fromkeys(one.condition for one in heard))
    people = list(dict.fromkeys(one.speaker for one in heard))
    lines = ["| voice | n | words | " + " | ".join(conditions) + " |", "|---|---|---|" + "---|" * len(conditions)]
    for name in [*people, *(["all"] if len(people) > 1 else [])]:
        group = [one for one in heard if name in (one.speaker, "all")]
        cells = []
        for condition in conditions:
            here = [one for one in group if one.condition == condition]
            cells.append(f"{100 * sum(one.wrong for one in here) / max(1, sum(one.words for one in here)):.1f} %")
        first = [one for one in group if one.condition == conditions[0]]
        lines.append(f"| {name} | {len(first)} | {sum(one.words for one in first)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
