"""What is said during an answer: scripted conversations in virtual time."""

from __future__ import annotations

from app.call import turn
from app.call.config import CallConfig
from tests.call.conversation import Conversation


def test_barge_in_cuts_in_the_right_order() -> None:
    talk = Conversation().say().answer()
    talk.take()
    assert talk.speak(640).take() == ["pause"]
    assert talk.wait(20, 760).take() == [
        "flush", "cancel 1", "cancelled 1/1 barge_in", "interrupted", "open", "hearing",
    ]  # fmt: skip
    assert talk.answer("late", epoch=1).tell(turn.AnswerStopped(1)).take() == []
    assert talk.fall_silent().take() == ["close", "generate 2/3", "thinking"]


def test_an_okay_pauses_the_answer_and_does_not_cut_it() -> None:
    talk = Conversation().say().answer()
    talk.take()
    assert talk.speak(20).take() == ["pause"]
    assert talk.wait(400, 120).hush(300, voiced_ms=520).take() == ["understand"]
    assert talk.hush(20, voiced_ms=520).phase == "speaking"
    assert talk.hush(20, voiced_ms=520).take() == ["resume"]


def test_a_laugh_of_any_length_does_not_interrupt() -> None:
    talk = Conversation().say().answer()
    talk.take()
    assert talk.speak(3_000, spoken=False).take() == ["pause"]
    assert talk.fall_silent(3_100, spoken=False).take() == ["resume"]
    assert talk.phase == "speaking"


def test_who_pauses_between_words_interrupts_all_the_same() -> None:
    talk = Conversation().say().answer().speak(400).hush(200, voiced_ms=500)
    talk.take()
    assert talk.tell(turn.LullOver()).wait(240, 500).take() == []
    assert talk.wait(40, 740).phase == "hearing"


def test_after_an_answer_went_on_a_click_does_not_pause_it_again() -> None:
    talk = Conversation().say().answer().speak(300).hush(340, voiced_ms=400)
    assert talk.take()[-1] == "resume"
    assert talk.tell(turn.LullOver()).wait(60, 420).take() == []
    assert talk.wait(40, 500).take() == ["pause"]


def test_who_says_stop_again_insists() -> None:
    talk = Conversation().say().answer().speak(200).fall_silent(300)
    assert talk.take()[-2:] == ["understand", "resume"]
    assert talk.wait(600).speak(120).phase == "speaking"
    assert talk.wait(20, 220).take()[-1] == "hearing"


def test_a_word_that_means_stop_stops_the_answer_at_once() -> None:
    talk = Conversation().say().answer().speak(200).hush(180, voiced_ms=300)
    assert talk.take()[-2:] == ["pause", "understand"]
    assert talk.mean(True).take() == ["flush", "cancel 1", "cancelled 1/1 barge_in", "interrupted", "open", "hearing"]
    assert talk.mean(True).take() == []
    assert talk.fall_silent(300).take() == ["close", "generate 2/3", "thinking"]


def test_a_word_that_means_something_else_lets_the_answer_go_on() -> None:
    talk = Conversation().say().answer().speak(200).hush(180, voiced_ms=300).mean(False)
    talk.take()
    assert talk.wait(160, 300).take() == ["resume"]
    assert talk.phase == "speaking"


def test_a_word_that_is_understood_late_is_answered_all_the_same() -> None:
    talk = Conversation().say().answer().speak(200).fall_silent(300)
    assert talk.take()[-1] == "resume"
    heard = talk.wait(200).mean(True).take()
    assert heard[:4] == ["flush", "cancel 1", "cancelled 1/1 barge_in", "interrupted"]
    assert heard[4:] == ["open", "close", "generate 2/3", "thinking"]


def test_what_was_meant_before_somebody_went_on_is_no_word_any_more() -> None:
    talk = Conversation().say().answer().speak(200).hush(180, voiced_ms=300)
    assert talk.tell(turn.LullOver()).wait(100, 300).mean(True).phase == "speaking"


def test_a_word_under_another_answer_stops_nothing() -> None:
    talk = Conversation().say().answer("all", finish=True).speak(200).fall_silent(300).drain()
    talk.tell(turn.Typed("and then?")).answer()
    assert talk.mean(True).phase == "speaking"


def test_without_words_nobody_is_asked_what_was_meant() -> None:
    talk = Conversation(CallConfig.from_mapping({"turn": {"prepare": False, "barge_in_words": ""}})).say().answer()
    assert "understand" not in talk.speak(200).fall_silent(300).take()


def test_who_coughs_after_an_okay_does_not_insist() -> None:
    talk = Conversation().say().answer().speak(500).fall_silent(600).wait(600)
    talk.take()
    assert talk.speak(900, spoken=False).fall_silent(1_000, spoken=False).take() == ["pause", "resume"]


def test_two_backchannels_far_apart_do_not_add_up() -> None:
    talk = Conversation().say().answer().speak(300).fall_silent(400).wait(1_500)
    talk.take()
    assert talk.speak(400).fall_silent(500).take() == ["pause", "understand", "resume"]


def test_nobody_insists_under_another_answer() -> None:
    talk = Conversation().say().answer("all", finish=True).speak(300).fall_silent(400).drain()
    talk.tell(turn.Typed("and then?")).answer()
    assert talk.speak(400).phase == "speaking"


def test_who_begins_in_the_last_words_waits_for_them_and_has_the_turn() -> None:
    talk = Conversation().say().answer("all", finish=True)
    talk.take()
    assert talk.speak(300, ending=True).take() == []
    onset = talk.state.speech
    assert talk.drain().take() == ["completed 1/1 completed", "open", "hearing"]
    assert talk.state.opened == onset


def test_an_answer_does_not_wait_for_a_lost_microphone() -> None:
    talk = Conversation().say().answer().speak(60)
    talk.take()
    assert talk.tell(turn.MicrophoneLost()).take() == ["resume"]


def test_a_paused_answer_that_was_all_said_is_done() -> None:
    talk = Conversation().say().answer("all", finish=True).speak(60)
    talk.take()
    assert talk.drain().take()[0] == "completed 1/1 completed"


def test_without_barge_in_speech_counts_from_the_end_of_the_answer() -> None:
    config = CallConfig.from_mapping({"barge_in": False, "turn": {"prepare": False}})
    talk = Conversation(config).say().answer("all", finish=True)
    talk.take()
    assert talk.speak(1_000).take() == []
    assert talk.drain().take() == ["completed 1/1 completed", "open", "hearing"]
    assert talk.state.opened == talk.now


def test_speech_that_began_under_the_answer_is_kept() -> None:
    talk = Conversation().say().answer("all", finish=True).speak(60)
    onset = talk.state.speech
    talk.drain()
    assert talk.phase == "hearing"
    assert talk.state.opened == onset


def test_typing_interrupts_an_answer() -> None:
    talk = Conversation().say().answer()
    talk.take()
    assert talk.tell(turn.Typed("stop that")).take() == [
        "flush", "cancel 1", "cancelled 1/1 typed", "interrupted", "prefilltext", "generate 2/3", "thinking",
    ]  # fmt: skip
