"""What is certain of what was read, as pure functions; and a session that reads."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import LoadedModel, load_checkpoint
from engine.conversation.reading import (
    LEAST_LOG_PROBABILITY,
    Reading,
    Transcribed,
    agreed,
    believable,
    last_words_of,
    read_on,
    read_rest,
    rest_of,
)
from engine.conversation.sampling import TextSampling
from engine.conversation.session import SessionState
from engine.conversation.streaming import StreamingModel
from engine.conversation.text import AnswerOptions
from engine.processing.prompts import Message, TypedText
from engine.processing.words import WordTokens
from tests.engine_stream.conftest import begin, feed
from tests.reading_model import LETTERS, words, write_reading_model

WORDS = WordTokens(words(), 48)
SPACED, PLAIN, STOP, COMMA = 0, len(LETTERS), 2 * len(LETTERS), 2 * len(LETTERS) + 1


def spelled(text: str) -> tuple[int, ...]:
    """Tokens of a text in which every word begins with a space."""
    ids: list[int] = []
    for before, letter in pairwise(text):
        if letter == " ":
            continue
        ids.append(STOP + ".,".index(letter) if letter in ".," else LETTERS.index(letter) + PLAIN * (before != " "))
    return tuple(ids)


def sure(text: str) -> Transcribed:
    return Transcribed(spelled(text), 0.0)


def test_tokens_are_read_back() -> None:
    assert WORDS.text(spelled(" ab c. d")) == " ab c. d"


@pytest.mark.parametrize(
    ("before", "after", "certain"),
    [
        ("", " a b", ""),
        (" a b.", " a b c", " a b"),
        (" a b", " a bc", " a"),
        (" a b.", " a b.", " a b"),
        (" a b", " a b.", " a b"),
        (" a, b", " a b", " a"),
        (" a b", " a, b", ""),
        (" d b", " a b", ""),
    ],
)
def test_whole_words_of_two_readings_are_certain_and_the_last_mark_waits(before: str, after: str, certain: str) -> None:
    ids = spelled(after)
    assert WORDS.text(ids[: agreed(spelled(before), ids, 0, WORDS)]) == certain


@given(st.lists(st.tuples(st.text("abc ., ", max_size=12), st.floats(-3, 0)), max_size=8))
def test_what_is_certain_never_changes(readings: list[tuple[str, float]]) -> None:
    reading, said = Reading(), ""
    for text, chance in readings:
        kept = reading.ids[: reading.certain]
        ids = kept + spelled(" " + text)
        reading, new = read_on(reading, Transcribed(ids, chance), WORDS)
        said += new
        assert reading.ids[: len(kept)] == kept
        assert reading.certain >= len(kept)
        assert said == WORDS.text(reading.ids[: reading.certain]).lstrip()
    whole = said + rest_of(reading, WORDS)
    reading, rest = read_rest(reading, WORDS)
    assert said + rest == whole
    assert rest_of(reading, WORDS) == ""


def test_what_was_not_said_is_not_believed() -> None:
    guess = Transcribed(spelled(" a b"), LEAST_LOG_PROBABILITY - 0.1)
    assert believable(guess, 0, 9.0, WORDS) == ()
    assert believable(guess, 1, 9.0, WORDS) == guess.ids[:1]
    assert believable(sure(" . ."), 0, 9.0, WORDS) == ()
    said = sure(" a" + " b c d" * 20)
    assert WORDS.text(believable(said, 0, 99.0, WORDS)) == " a b c d"
    assert believable(sure(" a b c a b d"), 0, 9.0, WORDS) == spelled(" a b c a b d")


@pytest.mark.parametrize(
    ("read", "seconds", "believed"),
    [
        (" a, a, a, a, a, a, a, a, a, a,", 1.0, " a,"),  # a short sound, of which the decoder saw no end
        (" a, a, a, a, a, a, a, a, a", 1.0, " a,"),  # and stopped in the middle of a round
        (" a b, a b, a b, a b, a b,", 1.0, " a b,"),
        (" d a b c a b c a b c a b", 1.0, " d a b c"),
        (" a b c d e f g h", 1.0, ""),  # no circle, and more than can be said
        (" a b c d e f", 1.0, " a b c d e f"),
        (" a a a a", 1.5, " a a a a"),  # said four times, slowly enough
        (" a b c d e f g h", 1.5, " a b c d e f g h"),
    ],
)
def test_nobody_says_more_words_than_there_is_time_for(read: str, seconds: float, believed: str) -> None:
    ids = believable(sure(read), 0, seconds, WORDS)
    assert WORDS.text(ids) == believed
    kept = spelled(read)[:2]
    assert believable(sure(read), 2, seconds, WORDS)[:2] == kept  # what is certain stays


# -------------------------------------------------------------------------------------------------------- sessions
@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder: Path = write_reading_model(tmp_path_factory.mktemp("reading") / "model")
    return load_checkpoint(folder, LoadOptions(device="cpu", dtype="float32", progress=False))


@pytest.fixture
def reads(reader: LoadedModel) -> StreamingModel:
    return StreamingModel(reader, sessions=4)


@pytest.fixture
def said(reads: StreamingModel) -> SessionState:
    """A session in which something was said that has certain words and others."""
    state = begin(reads)
    for seed in range(3):
        feed(reads, state, voice(seed))
    assert 0 < state.reading.certain < len(state.reading.ids)
    return state


def voice(seed: int, samples: int = 16_000) -> Message:
    return Message("user", [np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)])


def context(reads: StreamingModel, state: SessionState) -> torch.Tensor:
    """All keys and values of a session."""
    arena = reads.pool.llm
    return torch.stack([tensor[state.slot, :, : state.length] for tensor in (*arena.keys, *arena.values)])


def answer(reads: StreamingModel, state: SessionState) -> list[str]:
    options = AnswerOptions(max_new_tokens=4, speak=False, text=TextSampling(greedy=True))
    return [piece.text for piece in reads.executor.drive(reads.generate(state, options).task())]


def test_what_was_said_stands_in_the_context_as_if_it_had_been_typed(reads: StreamingModel) -> None:
    state, text = begin(reads), ""
    for seed in range(4):
        fed = feed(reads, state, voice(seed))
        text += fed.words
        assert fed.rest == reads.rest(state)
    text += reads.rest(state)
    assert text
    spoken = answer(reads, state)
    written = begin(reads)
    feed(reads, written, Message("user", [TypedText(text)]))
    assert answer(reads, written) == spoken
    kinds = {span.kind for span in state.spans if span.turn == 1}
    assert kinds == {"open", "audio", "close"}


def test_a_rewound_session_is_the_one_it_was(reads: StreamingModel, said: SessionState) -> None:
    mark, before, spans = said.mark(), context(reads, said).clone(), list(said.spans)
    reading = copy.copy(said.reading)
    feed(reads, said, voice(7))
    answer(reads, said)
    reads.pool.truncate(said, mark)
    assert said.reading == reading
    assert all(map(torch.equal, said.reading.sound, reading.sound))
    assert said.spans == spans
    assert torch.equal(context(reads, said), before)
    twin = reads.pool.fork(said)
    first, second = feed(reads, said, voice(8)), feed(reads, twin, voice(8))
    assert (first.words, first.rest) == (second.words, second.rest)


def test_the_end_of_the_message_is_judged_behind_all_that_was_read(reads: StreamingModel, said: SessionState) -> None:
    mark = said.mark()
    plain = list(reads.executor.drive(reads.feed(said, reads.prepare(said, voice(9)))))[-1]
    length = said.length
    reads.pool.truncate(said, mark)
    asked = list(reads.executor.drive(reads.feed(said, reads.prepare(said, voice(9)), ask_end=True)))[-1]
    assert (asked.words, asked.rest, asked.tokens) == (plain.words, plain.rest, plain.tokens)
    assert said.length == length
    assert reads.words is not None
    last = last_words_of(said.reading, reads.words)
    assert len(asked.states) == asked.tokens + len(reads.builder.typed(last))
    assert said.reading.state is not None
    assert torch.equal(said.reading.state, asked.states[-1])


def test_what_was_asked_holds_until_other_words_are_read() -> None:
    read, state = replace(Reading(), ids=spelled(" a b.")), torch.ones(3)
    assert last_words_of(read, WORDS) == "a b"
    asked = read.ask(state, WORDS)
    assert asked.state is state
    assert replace(asked, ids=spelled(" a b"), certain=2).ask(None, WORDS).state is state
    assert replace(asked, ids=spelled(" a")).ask(None, WORDS).state is None
    assert replace(asked, ids=()).ask(None, WORDS).state is None


def test_the_rest_comes_before_what_is_typed(reads: StreamingModel, said: SessionState) -> None:
    rest = reads.rest(said)
    fed = feed(reads, said, Message("user", [TypedText("and this")]))
    assert fed.words == rest + " "
    assert fed.rest == ""
    assert [span.kind for span in said.spans][-2:] == ["audio", "text"]


def test_a_message_longer_than_the_ears_goes_on(reads: StreamingModel) -> None:
    state = begin(reads)
    limit = reads.config.audio.max_positions
    seconds = limit // 50 + 3
    text = "".join(feed(reads, state, voice(seed)).words for seed in range(seconds))
    assert 0 < state.reading.frames < limit
    assert len(text) > 0
    assert state.reading.begun


def test_nothing_is_answered_where_nothing_was_said(reads: StreamingModel) -> None:
    state = begin(reads)
    feed(reads, state, voice(0))
    state.reading = Reading(state.reading.sound)  # as of a cough
    length = state.length
    live = reads.generate(state, AnswerOptions(max_new_tokens=4, speak=False))
    assert list(reads.executor.drive(live.task())) == []
    assert live.finish == "stop"
    assert state.length == length
    assert not state.book.opens_turn
    assert state.reading == Reading()
