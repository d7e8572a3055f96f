"""Whether a word stops an answer is asked of the model, and what it says is an input of the call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from app.call.call import Call
from app.call.config import CallConfig
from app.call.stop_words import StopWords, words_of
from app.replay.bundle import read_bundle
from app.replay.record import Recordings
from app.replay.replay_call import replay_call
from engine.client import ChatMessage, ChatPart, ChatRequest, ChatStream
from engine.serving.scripted import Script, ScriptedEngine
from tests.call.talk import QUIET, start
from tests.replay.recorded import events_of
from tests.speechlike import speechlike

WORDS = words_of("stop, wait, Hold on,")
WORD = speechlike(0.4)
LONG = Script(answers=("one two three four five six seven eight nine ten",), chunk_s=0.0)


class Hearing(ScriptedEngine):
    """Answers a sound with ``heard`` and a typed word with what ``typed`` has for it, or with "What?"."""

    def __init__(self, heard: str, typed: Mapping[str, str] | None = None) -> None:
        super().__init__(Script(answers=("{typed}",)))
        self.heard, self.typed = heard, typed or {}
        self.asked: list[str] = []

    def chat(self, request: ChatRequest) -> ChatStream:
        (part,) = request.messages[0].parts
        self.asked.append(part.text)
        assert part.kind == "text" or part.data.startswith(b"RIFF")
        answer = self.typed.get(part.text, "What?") if part.kind == "text" else self.heard
        return super().chat(ChatRequest((ChatMessage("user", (ChatPart("text", answer),)),), request.max_new_tokens))


async def words_of_an_engine(heard: str, typed: Mapping[str, str] | None = None) -> StopWords:
    engine = Hearing(heard, typed)
    await engine.start()
    return StopWords(engine)


def test_the_words_are_listed_with_commas() -> None:
    assert WORDS == ("stop", "wait", "hold on")
    assert words_of("") == ()


@pytest.mark.parametrize(
    ("answer", "stops"),
    [
        ("You said Stop.", True),
        ("Well, hold on then.", True),
        ("What?", False),  # what it says to everything, to "wait" and to "mhm"
        ("You wander and unstoppable.", False),  # in the middle of another word
    ],
)
async def test_an_answer_that_names_the_word_has_understood_it(answer: str, stops: bool) -> None:
    assert await (await words_of_an_engine(answer)).are_meant(WORD, WORDS) is stops


async def test_an_answer_that_only_a_typed_word_gets_has_understood_it() -> None:
    waits = {"wait": "I am here."}
    assert await (await words_of_an_engine("I am here.", waits)).are_meant(WORD, WORDS)
    anything = waits | {"mhm": "I am here."}
    assert not await (await words_of_an_engine("I am here.", anything)).are_meant(WORD, WORDS)


async def test_a_typed_word_is_asked_about_once() -> None:
    engine = Hearing("Okay.")
    await engine.start()
    words = StopWords(engine)
    for _ in range(2):
        assert not await words.are_meant(WORD, WORDS)
    assert engine.asked == ["okay", "yes", "mhm", "stop", "wait", "hold on", "", ""]


@pytest.mark.parametrize(("answer", "reason"), [("You said stop.", "barge_in"), ("Okay.", "completed")])
async def test_one_word_stops_an_answer_if_it_means_that(answer: str, reason: str) -> None:
    talk = await start(LONG, stop_words=await words_of_an_engine(answer))
    for sound in (QUIET, speechlike(1.2), 1.2, WORD, 6.0):
        await talk.hear(sound)
    first = talk.of("response.done")[0]["data"]
    assert first["reason"] == reason
    assert [kind for kind, *_ in talk.log.inputs if kind == "meant"] == ["meant"]
    assert len(talk.of("response.started")) == 1 + (reason == "barge_in")  # who says "stop" is answered
    await talk.call.close("done")


async def test_a_recorded_call_replays_what_was_meant(tmp_path: Path) -> None:
    engine = ScriptedEngine(LONG)
    info = await engine.start()
    config = CallConfig()
    recordings = Recordings(tmp_path)
    recorder = recordings.begin("call", config, info, lambda code, message: None)
    stop_words = await words_of_an_engine("You said stop.")
    session = await engine.open(config.session_options())
    call = Call("call", config, session, recorder, engine=info, stop_words=stop_words)
    second = np.zeros(16_000, np.int16)
    for pcm in (second, speechlike(1.2), second, WORD, second, second, second):
        for begin in range(0, len(pcm) - 319, 320):
            call.microphone.push(pcm[begin : begin + 320], 16_000, call.t_samples)
            await call.idle()
            call.output.pull(480)
    await call.close("hung_up")
    assert recordings.finish(10)
    events = events_of(recorder.folder)
    assert any(event["type"] == "response.done" and event["data"]["reason"] == "barge_in" for event in events)
    replayed = await replay_call(read_bundle(recorder.folder), engine)
    assert replayed.notes == []
    assert replayed.events == events
