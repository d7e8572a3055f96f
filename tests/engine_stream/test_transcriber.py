"""Ears that read beside a model that does not: the golden model, and the ears of the tiny one that reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import LoadedModel, load_checkpoint
from engine.checkpoint.reader import load_reader
from engine.conversation.message import Fed
from engine.conversation.overheard import Overheard
from engine.conversation.sampling import TextSampling
from engine.conversation.session import SessionState
from engine.conversation.streaming import StreamingModel
from engine.conversation.text import AnswerOptions
from engine.conversation.transcriber import Transcriber
from engine.errors import ConfigError
from engine.processing.prompts import Message
from tests.engine_stream.conftest import PUBLIC, begin, feed, sound
from tests.reading_model import write_reading_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reading_model(tmp_path_factory.mktemp("ears") / "model")


@pytest.fixture(scope="module")
def overhears(folder: Path, loaded: LoadedModel) -> StreamingModel:
    ears = Transcriber(load_reader(folder, torch.device("cpu"), progress=False))
    return StreamingModel(loaded, sessions=8, transcriber=ears)


def say(stream: StreamingModel, state: SessionState, seeds: range) -> list[Fed]:
    return [feed(stream, state, Message("user", [sound(seed, 9_600)])) for seed in seeds]


def texts(fed: list[Fed]) -> list[tuple[str, str]]:
    return [(one.words, one.rest) for one in fed]


def test_others_words_are_those_that_a_reading_model_reads(folder: Path, overhears: StreamingModel) -> None:
    loaded = load_checkpoint(folder, LoadOptions(device="cpu", dtype="float32", progress=False))
    reads = StreamingModel(loaded, sessions=1)
    own, others = begin(reads), begin(overhears)
    expected = texts(say(reads, own, range(5)))
    assert any(words for words, _ in expected)
    assert texts(say(overhears, others, range(5))) == expected


def test_the_model_knows_nothing_of_it(overhears: StreamingModel, stream: StreamingModel) -> None:
    states = begin(overhears), begin(stream)
    for one, other in zip(say(overhears, states[0], range(3)), say(stream, states[1], range(3)), strict=True):
        assert torch.equal(one.states, other.states)
        assert (other.words, other.rest) == ("", "")
    options = AnswerOptions(max_new_tokens=4, speak=False, text=TextSampling(greedy=True))
    answers = [
        [piece.text for piece in model.executor.drive(model.generate(state, options).task())]
        for model, state in zip((overhears, stream), states, strict=True)
    ]
    assert answers[0] == answers[1]
    assert states[0].overheard == Overheard()


def test_a_rewound_session_reads_the_same_again(overhears: StreamingModel) -> None:
    state = begin(overhears)
    say(overhears, state, range(2))
    mark, twin = state.mark(), overhears.pool.fork(state)
    first = texts(say(overhears, state, range(7, 10)))
    overhears.pool.truncate(state, mark)
    assert texts(say(overhears, state, range(7, 10))) == first
    assert texts(say(overhears, twin, range(7, 10))) == first


def test_longer_messages_than_the_ears_hold_go_on(folder: Path, loaded: LoadedModel) -> None:
    ears = Transcriber(load_reader(folder, torch.device("cpu"), progress=False), limit=120)
    stream = StreamingModel(loaded, transcriber=ears)
    state = begin(stream)
    fed = say(stream, state, range(6))
    assert state.overheard.reading.frames < 120
    assert "".join(one.words for one in fed)


def test_a_model_that_does_not_read_has_no_such_ears() -> None:
    with pytest.raises(ConfigError, match="this model does not read"):
        load_reader(PUBLIC, torch.device("cpu"), progress=False)
