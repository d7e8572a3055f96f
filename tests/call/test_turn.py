"""How turns follow one another: scripted conversations in virtual time."""

from __future__ import annotations

import pytest

from app.call import turn
from app.call.config import CallConfig
from tests.call.conversation import PUSH_TO_TALK, Conversation


def test_question_and_answer() -> None:
    talk = Conversation().say()
    assert talk.take() == ["open", "hearing", "close", "generate 1/1", "thinking"]
    assert talk.answer().answer("", finish=True).take() == ["play yes", "speaking", "play "]
    assert talk.drain().take() == ["completed 1/1 completed", "listening"]


def test_a_click_is_no_turn() -> None:
    talk = Conversation().speak(20).fall_silent(voiced_ms=80)
    assert talk.take() == ["open", "hearing", "drop sound", "listening"]
    assert talk.say().take()[-2:] == ["generate 1/1", "thinking"]


def test_a_word_as_short_as_two_is_a_turn() -> None:
    """Of a quiet one the detector is sure for little more than its vowel."""
    assert Conversation().speak(20).fall_silent(voiced_ms=100).take()[-2:] == ["generate 1/1", "thinking"]


def test_typing_while_speaking_is_one_turn() -> None:
    talk = Conversation().speak(600).tell(turn.Typed("this"))
    assert talk.take() == ["open", "hearing", "close", "prefilltext", "generate 1/1", "thinking"]
    assert talk.wait(400, 700).take() == []  # the same breath does not interrupt what it asked for


def test_the_stop_button_leaves_time_to_the_engine() -> None:
    talk = Conversation().say().answer().tell(turn.CancelAnswer())
    assert talk.phase == "interrupted"
    assert talk.tell(turn.AnswerStopped(1)).phase == "listening"
    assert talk.tell(turn.CancelAnswer()).take()[-1] == "listening"


def test_the_stop_button_after_the_last_chunk() -> None:
    talk = Conversation().say().answer(finish=True)
    talk.take()
    talk.tell(turn.CancelAnswer())
    assert "cancel 1" not in talk.take()
    assert talk.phase == "listening"


def test_a_failed_answer_ends_its_turn() -> None:
    talk = Conversation().say()
    talk.take()
    assert talk.tell(turn.AnswerFailed(1)).take() == ["flush", "failed 1/1 engine_error", "listening"]


@pytest.mark.parametrize(("choice", "follows"), [("answer", "thinking"), ("drop", "listening")])
def test_noise_that_never_ends_is_a_turn_of_bounded_length(choice: str, follows: str) -> None:
    talk = Conversation(CallConfig.from_mapping({"turn": {"max_turn_s": 5, "on_max_turn": choice}})).speak(6_000)
    assert talk.phase == follows
    talk.answer(finish=True).drain().wait(10_000, 6_000)
    assert talk.phase == "listening"  # the noise goes on and is no new turn


def test_muting_ends_the_turn_and_pauses() -> None:
    talk = Conversation().speak(600).tell(turn.Muted(True))
    assert talk.phase == "thinking"
    assert talk.answer(finish=True).drain().phase == "paused"
    assert talk.tell(turn.Muted(False)).phase == "listening"


def test_a_lost_microphone_holds_the_turn() -> None:
    talk = Conversation().speak(600).tell(turn.MicrophoneLost())
    assert talk.phase == "paused"
    talk.wait(20, 700)
    assert talk.phase == "hearing"
    assert talk.fall_silent().phase == "thinking"


def test_push_to_talk() -> None:
    talk = Conversation(PUSH_TO_TALK)
    assert talk.phase == "idle"
    assert talk.speak(500).take() == []
    assert talk.tell(turn.Muted(False)).wait(500).tell(turn.Commit()).take() == [
        "open", "hearing", "close", "generate 1/1", "thinking",
    ]  # fmt: skip
    assert talk.tell(turn.Muted(True)).answer().tell(turn.Muted(False)).phase == "hearing"
    assert talk.wait(500).tell(turn.Discard()).phase == "interrupted"
    assert talk.tell(turn.AnswerStopped(1)).phase == "idle"


def test_closing_ends_everything() -> None:
    talk = Conversation().say().answer()
    talk.take()
    assert talk.tell(turn.Close("bye")).take()[2:] == ["cancelled 1/1 bye", "interrupted", "idle"]
    assert talk.say().take() == []
