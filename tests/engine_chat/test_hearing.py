"""Sounds in a conversation: vectors for a model that hears, words for one that reads; and mini, which learnt by ear."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from engine.chat.hearing import hear_words
from engine.chat.media import load_sound
from engine.chat.offline import Chat
from engine.checkpoint.loader import LoadedModel, load_checkpoint
from engine.conversation.streaming import StreamingModel
from engine.conversation.work import result_of
from engine.processing.prompts import Message, TypedText
from engine.serving.live_engine import MINI
from tests.reading_model import LETTERS, write_reading_model

SPEECH = Path(__file__).parents[1] / "data" / "speech" / "digits-woman.flac"


def said(text: str, role: str = "user") -> Message:
    return Message(role, [TypedText(text)])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def mini() -> Chat:
    return Chat(load_checkpoint(MINI))


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> StreamingModel:
    return StreamingModel(load_checkpoint(write_reading_model(tmp_path_factory.mktemp("reader") / "model")))


def test_a_model_that_reads_has_the_words_of_a_sound_in_its_place(reads: StreamingModel) -> None:
    seconds = (np.random.default_rng(3).normal(size=40_000) / 8).astype(np.float32)
    messages = [Message("user", [TypedText("listen"), seconds]), said("no", "assistant"), Message("user", [seconds])]
    heard = result_of(reads.executor.drive(hear_words(reads, messages)))
    texts = [[part.text if isinstance(part, TypedText) else part for part in message.content] for message in heard]
    assert texts[0] == ["listen", *texts[2]]
    assert texts[1] == ["no"]
    assert isinstance(texts[2][0], str)
    assert set(texts[2][0]) <= set(LETTERS) | set(" .,")
    assert texts[2][0].strip()
    reads.pool.drop(reads.pool.open())  # the only place is free again


def test_the_words_of_a_long_sound_go_on_when_the_ears_are_full(reads: StreamingModel) -> None:
    rng = np.random.default_rng(5)
    long = (rng.normal(size=16_000 * 33) / 8).astype(np.float32)
    message = Message("user", [long])
    [heard] = result_of(reads.executor.drive(hear_words(reads, [message])))
    [first] = result_of(reads.executor.drive(hear_words(reads, [Message("user", [long[: 29 * 16_000]])])))
    whole, beginning = (part.content[0].text for part in (heard, first))  # type: ignore[union-attr]
    assert whole.startswith(beginning)
    assert len(whole) > len(beginning)


def test_a_model_that_hears_keeps_its_sounds(loaded: LoadedModel) -> None:
    stream, sound = StreamingModel(loaded), np.zeros(16_000, np.float32)
    [message] = result_of(stream.executor.drive(hear_words(stream, [Message("user", [sound])])))
    assert message.content[0] is sound


def test_mini_answers_what_is_written_shown_and_said(mini: Chat) -> None:
    picture = Image.new("RGB", (448, 448), "white")
    ImageDraw.Draw(picture).ellipse((120, 120, 330, 330), fill="red")
    assert mini.answer([said("What is three plus four?")]).text == "Three plus four is seven."
    assert mini.answer([Message("user", [picture, TypedText("What do you see?")])]).text == "I see a red circle."
    assert mini.answer([Message("user", [load_sound(SPEECH)])]).text.startswith("You said ")


def test_mini_knows_the_turns_before(mini: Chat) -> None:
    turns = [said("Remember the number seven."), said("I will remember seven.", "assistant")]
    assert mini.answer([*turns, said("Which number did I tell you?")]).text == "The number is seven."
