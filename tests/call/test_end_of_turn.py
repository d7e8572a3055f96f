"""Who is asked whether a turn is over: their front end, their answers, and their place among a call's inputs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from app.call.config import CallConfig, Judging, TurnConfig
from app.call.end_of_turn.judge import SoundJudge
from app.call.end_of_turn.patience import done_probability, patience_ms
from app.call.end_of_turn.smart_turn import judge, log_mel
from engine.client import Prefilled, Unit
from engine.serving.scripted import Script, ScriptedSession
from tests.call.talk import QUIET, start
from tests.speechlike import speechlike

SPEECH = sorted((Path(__file__).parents[1] / "data" / "speech").glob("*.flac"))


@pytest.mark.parametrize("seconds", [0.3, 3.0, 11.0])
def test_the_front_end_is_whispers(seconds: float) -> None:
    audio = (3_000 * np.random.default_rng(2).standard_normal(round(seconds * 16_000))).astype(np.int16)
    last = audio[-128_000:].astype(np.float32) / 32768
    padded = np.pad(last, (128_000 - len(last), 0))
    extractor = WhisperFeatureExtractor(chunk_length=8)
    options = {"padding": "max_length", "max_length": 128_000, "do_normalize": True, "return_tensors": "np"}
    expected = extractor(padded, sampling_rate=16_000, **options)["input_features"][0]
    assert log_mel(audio).shape == expected.shape == (80, 800)
    np.testing.assert_allclose(log_mel(audio), expected, atol=2e-4)


def test_whole_utterances_sound_more_finished_than_halves() -> None:
    """On average over a few recorded people; single ones may sound otherwise."""
    whole, halves = [], []
    for path in SPEECH:
        speech, _ = soundfile.read(path, dtype="int16")
        pause = np.zeros(3_200, np.int16)
        whole.append(judge(np.concatenate([speech, pause])))
        halves.append(judge(np.concatenate([speech[: len(speech) // 2], pause])))
    assert np.mean(whole) > 0.5
    assert np.mean(whole) > np.mean(halves)


class Oracle:
    """Somebody who says what they were told to."""

    def __init__(self, *answers: float) -> None:
        self.answers = list(answers)
        self.heard: list[int] = []

    async def probability(self, audio: np.ndarray) -> float:
        self.heard.append(len(audio))
        await asyncio.sleep(0)
        return self.answers.pop(0)


async def test_a_question_is_about_the_turn_alone_and_at_most_its_last_eight_seconds() -> None:
    told: list[tuple[int, float]] = []
    oracle = Oracle(0.25, 0.5)
    turn_judge = SoundJudge(oracle.probability, lambda end, probability: told.append((end, probability)))
    for _ in range(500):
        turn_judge.push(np.zeros(320, np.int16))
    turn_judge.ask(7, 32_000)
    await turn_judge.idle()
    turn_judge.ask(8, 160_000)
    await turn_judge.idle()
    assert oracle.heard == [32_000, 128_000]
    assert told == [(7, 0.25), (8, 0.5)]


async def test_a_question_that_is_overtaken_is_given_up() -> None:
    told: list[tuple[int, float]] = []
    turn_judge = SoundJudge(Oracle(0.25, 0.5).probability, lambda end, probability: told.append((end, probability)))
    turn_judge.push(np.zeros(320, np.int16))
    turn_judge.ask(1, 320)
    turn_judge.ask(2, 320)
    await turn_judge.idle()
    assert [end for end, _ in told] == [2]


@pytest.mark.parametrize(("probability", "turns"), [(0.95, 2), (0.0, 1)])
async def test_a_pause_of_half_a_second_splits_a_turn_or_not(
    probability: float, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.call.ears._listener", lambda: Oracle(*[probability] * 20))
    talk = await start(Script(answers=("one two",)), {"turn": {"end_of_turn": "smart_turn"}, "barge_in": False})
    for sound in (QUIET, speechlike(1.2), 0.5, speechlike(1.2), 4.0):
        await talk.hear(sound)
    assert len(talk.of("response.started")) == turns
    assert any(kind == "judged" for kind, *_ in talk.log.inputs)
    await talk.call.close("done")


async def test_a_judge_who_fails_leaves_it_to_the_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.call.ears._listener", Oracle)  # has no answer at all
    talk = await start(Script(answers=("one two",)), {"turn": {"end_of_turn": "smart_turn"}})
    for sound in (QUIET, speechlike(1.2), 3.0):
        await talk.hear(sound)
    done = talk.of("response.done")[0]["data"]
    assert 400 <= done["timings"]["endpoint_ms"] <= 500
    await talk.call.close("done")


async def test_nothing_of_a_draft_leaves_before_its_turn_is_over() -> None:
    options = {"turn": {"end_of_turn": "silence"}}
    talk = await start(Script(answers=("one", "two", "three")), options)
    for sound in (QUIET, speechlike(1.2), 0.4):
        await talk.hear(sound)
    pause = [event["type"] for event in talk.log.events]
    assert not {"response.started", "assistant.text"} & set(pause)
    assert pause.count("context") == 1  # of the second that was complete
    assert not any(pcm.any() for pcm in talk.log.pcm)
    for sound in (speechlike(1.2), 3.0):
        await talk.hear(sound)
    assert talk.text == "one"  # what was prepared in the pause was never asked for
    assert len(talk.of("response.started")) == 1
    used = [event["data"]["used"] for event in talk.of("context")]
    assert used == sorted(used)
    await talk.call.close("done")


@pytest.mark.parametrize("prepare", [True, False])
async def test_preparing_changes_nothing_but_the_time(prepare: bool) -> None:
    talk = await start(Script(answers=("{units} units, {seconds} s",)), {"turn": {"prepare": prepare}})
    for sound in (QUIET, speechlike(1.2), 0.4, speechlike(1.2), 3.0):
        await talk.hear(sound)
    assert talk.text == "4 units, 3.2 s"
    await talk.call.close("done")


class Opinionated(ScriptedSession):
    """A session whose model thinks that whatever it was fed ends there, with probability ``sure``."""

    sure = 0.0

    async def prefill(self, unit: Unit) -> Prefilled:
        return replace(await super().prefill(unit), end_probability=self.sure)


@pytest.mark.parametrize(("sure", "turns"), [(0.95, 2), (0.0, 1)])
async def test_the_models_own_word_ends_a_turn_or_holds_it_open(
    sure: float, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Opinionated, "sure", sure)
    monkeypatch.setattr("engine.serving.scripted.ScriptedSession", Opinionated)
    talk = await start(Script(answers=("one two",)), {"turn": {"end_of_turn": "model"}, "barge_in": False})
    for sound in (QUIET, speechlike(1.2), 0.5, speechlike(1.2), 4.0):
        await talk.hear(sound)
    assert len(talk.of("response.started")) == turns
    await talk.call.close("done")


def test_the_model_is_not_asked_about_what_it_was_not_given() -> None:
    turn = CallConfig.from_mapping({"turn": {"end_of_turn": "both", "prepare": False}}).turn
    assert not turn.judges


@pytest.mark.parametrize(
    ("said", "done"),
    [
        ({}, None),
        ({"model": None}, None),
        ({"model": 0.8}, 0.8),
        ({"smart_turn": 0.3, "model": None}, 0.3),
        ({"smart_turn": 0.5, "model": 0.8}, pytest.approx(0.8)),
    ],
)
def test_who_cannot_tell_is_not_counted(said: dict[Judging, float | None], done: float | None) -> None:
    assert done_probability(said) == done


def test_what_was_said_weighs_more_than_how() -> None:
    doubts = done_probability({"model": 0.1, "smart_turn": 0.9})
    assert doubts is not None
    assert 0.1 < doubts < 0.5
    surer = done_probability({"model": 0.9, "smart_turn": 0.1})
    assert surer == pytest.approx(1 - doubts)


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_surer_the_person_is_done_the_shorter_is_the_patience(a: float, b: float, c: float, d: float) -> None:
    low, high = sorted((a, b))
    config = TurnConfig(end_of_turn_unlikely=low, end_of_turn_likely=high)
    longer, shorter = (patience_ms(done, config) for done in sorted((c, d)))
    assert 1000 * config.end_of_turn_max_s >= longer >= shorter >= 0.999 * config.end_of_turn_min_ms
    assert patience_ms(high, config) == pytest.approx(config.end_of_turn_min_ms)
