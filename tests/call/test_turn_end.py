"""When a turn is over, and the answer that is prepared in the pause: scripted conversations in virtual time."""

from __future__ import annotations

from app.call import turn
from app.call.config import CallConfig
from tests.call.conversation import Conversation

PREPARING = CallConfig.from_mapping({"turn": {"end_of_turn": "silence"}})
BY_MODEL = {"end_of_turn": "model", "end_of_turn_min_ms": 200, "end_of_turn_max_s": 1.5}
JUDGED = CallConfig.from_mapping({"turn": BY_MODEL})
BY_BOTH = CallConfig.from_mapping({"turn": BY_MODEL | {"end_of_turn": "both"}})


def test_a_cough_is_no_turn_and_is_not_answered() -> None:
    talk = Conversation(PREPARING).speak(400, spoken=False).fall_silent(500, spoken=False)
    assert talk.take() == ["open", "hearing", "drop sound", "listening"]


def test_a_cough_before_a_sentence_does_not_split_it() -> None:
    talk = Conversation(JUDGED).speak(200, spoken=False).hush(340, 300, spoken=False)
    assert talk.take() == ["open", "hearing"]
    assert talk.tell(turn.LullOver()).wait(600, 300).hush(160).judge(0.98).hush(40).take() == [
        "prepare 1", "judge", "commit 1/1", "thinking",
    ]  # fmt: skip


def test_an_answer_is_prepared_in_the_pause_and_shown_when_the_turn_ends() -> None:
    talk = Conversation(PREPARING).speak(1_000)
    talk.take()
    assert talk.hush(160).take() == ["prepare 1"]
    assert talk.answer("yes", epoch=1).answer("", epoch=1, finish=True).take() == []
    assert talk.phase == "hearing"
    assert talk.tell(turn.SpeechEnded(talk.lull, 1_000)).take() == [
        "commit 1/1", "thinking", "play yes", "play ", "speaking",
    ]  # fmt: skip


def test_who_goes_on_was_never_answered() -> None:
    talk = Conversation(PREPARING).speak(1_000).hush(160).answer("too soon", epoch=1)
    talk.take()
    assert talk.tell(turn.LullOver()).take() == ["retract 1"]
    assert talk.answer("too late", epoch=1).take() == []
    assert talk.wait(400, 1_100).hush(160).take() == ["prepare 2"]
    assert talk.tell(turn.SpeechEnded(talk.lull, 1_400)).take() == ["commit 1/2", "thinking"]


def test_a_draft_that_fails_is_asked_for_again() -> None:
    talk = Conversation(PREPARING).speak(1_000).hush(160).tell(turn.AnswerFailed(1))
    assert talk.take()[-1] == "retract 1"
    assert talk.tell(turn.SpeechEnded(talk.lull, 1_000)).take() == ["close", "generate 1/2", "thinking"]


def test_nothing_is_prepared_while_the_engine_is_behind() -> None:
    talk = Conversation(PREPARING).speak(1_000)
    talk.take()
    talk.tell(turn.Lull(talk.now, 1_000, ready=False))
    assert talk.take() == []
    assert talk.tell(turn.SpeechEnded(talk.now, 1_000)).take() == ["close", "generate 1/1", "thinking"]


def test_typing_takes_the_place_of_a_draft() -> None:
    talk = Conversation(PREPARING).speak(1_000).hush(160)
    talk.take()
    assert talk.tell(turn.Typed("this")).take() == ["retract 1", "close", "prefilltext", "generate 1/2", "thinking"]


def test_who_is_done_is_answered_after_the_shortest_silence() -> None:
    talk = Conversation(JUDGED).speak(1_000).hush(160)
    assert talk.judge(0.98).phase == "hearing"
    assert talk.hush(40).phase == "thinking"  # 200 ms


def test_who_is_not_done_is_waited_for() -> None:
    talk = Conversation(JUDGED).speak(1_000).hush(160).judge(0.1)
    talk.take()
    talk.tell(turn.SpeechEnded(talk.lull, 1_000)).wait(800)
    assert talk.phase == "hearing"
    assert talk.speak(400).take() == ["retract 1"]
    assert talk.hush(160).judge(0.98).hush(40).take() == ["prepare 2", "judge", "commit 1/2", "thinking"]


def test_even_who_is_not_done_is_answered_in_the_end() -> None:
    talk = Conversation(JUDGED).speak(1_000).hush(160).judge(0.0).tell(turn.SpeechEnded(0, 1_000))
    assert talk.wait(1_320).phase == "hearing"
    assert talk.wait(60).phase == "thinking"


def test_where_nobody_is_asked_silence_ends_the_turn() -> None:
    assert Conversation(PREPARING).say().phase == "thinking"
    behind = Conversation(JUDGED).speak(1_000).tell(turn.Lull(0, 1_000, ready=False))
    assert behind.tell(turn.SpeechEnded(0, 1_000)).phase == "thinking"


def test_the_word_of_a_model_that_is_slow_is_waited_for() -> None:
    """Without it, the rest of the turn is not in the context yet, and nothing could be answered."""
    talk = Conversation(JUDGED).say()
    assert talk.phase == "hearing"
    assert talk.judge(0.98).phase == "thinking"
    unsure = Conversation(JUDGED).say().judge(0.1)
    assert unsure.wait(400).phase == "hearing"
    cannot = Conversation(JUDGED).say().judge(None)
    assert cannot.wait(20).phase == "thinking"
    failed = Conversation(JUDGED).say().tell(turn.AnswerFailed(1))
    assert failed.wait(20).phase == "thinking"
    mute = Conversation(JUDGED).say()
    assert mute.wait(900).phase == "hearing"
    assert mute.wait(60).phase == "thinking"  # 1.5 s


def test_who_goes_on_while_the_word_is_awaited_has_one_turn() -> None:
    talk = Conversation(JUDGED).say()
    talk.take()
    assert talk.speak(400).take() == ["retract 1"]
    assert talk.hush(160).judge(0.98).hush(40).take() == ["prepare 2", "judge", "commit 1/2", "thinking"]


def test_a_judgement_about_an_earlier_pause_is_void() -> None:
    talk = Conversation(JUDGED).speak(1_000).hush(160)
    early = talk.lull
    talk.tell(turn.LullOver()).wait(400, 1_100).hush(160).tell(turn.Judged(early, "model", 1.0)).hush(100)
    assert talk.phase == "hearing"


def test_the_melody_is_asked_for_where_the_model_is_not_sure() -> None:
    sure = Conversation(BY_BOTH).speak(1_000).hush(160).judge(0.9).hush(40)
    assert sure.phase == "thinking"
    assert sure.take().count("judge") == 1
    unsure = Conversation(BY_BOTH).speak(1_000).hush(160)
    unsure.take()
    assert unsure.judge(0.6).take() == ["judge"]
    assert unsure.hush(100).phase == "hearing"
    assert unsure.judge(0.98, "smart_turn").phase == "thinking"
    doubted = Conversation(BY_BOTH).speak(1_000).hush(160).judge(0.1).judge(0.98, "smart_turn").hush(100)
    assert doubted.phase == "hearing"


def test_a_melody_that_is_late_leaves_it_to_the_model() -> None:
    talk = Conversation(BY_BOTH).speak(1_000).hush(160).judge(0.1)
    talk.tell(turn.SpeechEnded(talk.lull, 1_000)).wait(800)
    assert talk.phase == "hearing"
    assert talk.wait(600).phase == "thinking"


def test_a_model_that_cannot_tell_leaves_it_to_silence() -> None:
    nobody = Conversation(BY_BOTH).speak(1_000).hush(160).judge(None)
    assert nobody.take().count("judge") == 1
    assert nobody.wait(340, 1_000).phase == "hearing"
    assert nobody.tell(turn.SpeechEnded(nobody.lull, 1_000)).phase == "thinking"
    alone = Conversation(JUDGED).speak(1_000).hush(160).judge(None)
    assert alone.wait(340, 1_000).phase == "hearing"
    assert alone.tell(turn.SpeechEnded(alone.lull, 1_000)).phase == "thinking"


def test_speech_right_after_the_end_of_a_turn_is_new() -> None:
    """The detector must not count what was said before: it would take the first frame for an interruption."""
    talk = Conversation(JUDGED).speak(1_000).hush(160).judge(0.98).hush(40)
    assert talk.state.speech is None
    assert talk.answer().tell(turn.SpeechStarted(talk.now)).wait(20, 100).phase == "speaking"
