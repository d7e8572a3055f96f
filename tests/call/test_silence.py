"""Silence in virtual time: a word of the model, away, the end of a call that was forgotten, and the races of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.call import turn
from app.call.config import CallConfig, OptionError
from app.call.ending import notices_s
from engine.serving.scripted import Script
from tests.call.conversation import Conversation
from tests.call.talk import start
from tests.speechlike import speechlike

LIMITS = {"prompt_after_s": 20, "away_after_s": 40, "idle_end_s": 120}


def talk(**silence: Any) -> Conversation:
    """A conversation that has been silent for as long as it takes to begin."""
    quiet = {"prompt_after_s": 0, "away_after_s": 0, "idle_end_s": 0}
    config = CallConfig.from_mapping({"silence": quiet | silence, "turn": {"prepare": False}})
    return Conversation(config).tell(turn.Present())


def stir(conversation: Conversation, ms: int) -> Conversation:
    """Sound that may become speech."""
    for _ in range(ms // 20):
        conversation.now += 320
        conversation.tell(turn.Tick(0, 0, stirring=True))
    return conversation


# ------------------------------------------------------------------------------------------------- the model's own word
def test_after_long_silence_the_model_says_a_word_once() -> None:
    dialogue = talk(prompt_after_s=20)
    assert dialogue.wait(19_980).take() == []
    assert dialogue.wait(20).take() == ["prepareword"]
    assert dialogue.answer("Hm?", epoch=1, finish=True).take() == []  # not before the next frame has been heard
    assert dialogue.wait(20).take() == ["commit 1/1", "thinking", "play Hm?", "speaking"]
    assert dialogue.drain().wait(600_000).take() == ["completed 1/1 completed", "listening"]


def test_the_next_silence_gets_a_word_of_its_own() -> None:
    dialogue = talk(prompt_after_s=20).wait(20_000).answer("Hm?", epoch=1, finish=True).wait(20).drain()
    dialogue.say().answer("yes", finish=True).drain().take()
    assert dialogue.wait(19_980).take() == []
    assert dialogue.wait(20).take() == ["prepareword"]


def test_a_person_who_speaks_before_the_word_is_there_was_never_spoken_to() -> None:
    dialogue = talk(prompt_after_s=20).wait(20_000)
    dialogue.take()
    assert dialogue.speak(20).take() == ["retract 1", "open", "hearing"]
    assert dialogue.answer("Hm?", epoch=1).take() == []
    assert dialogue.fall_silent().take() == ["close", "generate 1/2", "thinking"]


def test_a_word_that_comes_while_the_person_begins_to_speak_waits_for_whether_they_do() -> None:
    dialogue = talk(prompt_after_s=20).wait(20_000).answer("Hm?", epoch=1)
    dialogue.take()
    assert stir(dialogue, 80).take() == []
    assert dialogue.speak(20).take() == ["retract 1", "open", "hearing"]


def test_a_click_only_delays_the_word() -> None:
    dialogue = talk(prompt_after_s=20).wait(20_000).answer("Hm?", epoch=1)
    assert stir(dialogue, 80).wait(20).phase == "speaking"
    assert stir(talk(prompt_after_s=20).wait(19_900), 200).wait(20).take() == ["prepareword"]


@pytest.mark.parametrize("sign", [turn.Present(), turn.Typed("hello"), turn.Muted(True)])
def test_any_sign_of_life_takes_the_word_back(sign: turn.Event) -> None:
    dialogue = talk(prompt_after_s=20).wait(20_000).answer("Hm?", epoch=1)
    dialogue.take()
    assert dialogue.tell(sign).take()[0] == "retract 1"


def test_nobody_is_asked_whose_microphone_is_muted() -> None:
    assert talk(prompt_after_s=20).tell(turn.Muted(True)).wait(60_000).take() == ["paused"]


def test_a_word_that_fails_or_is_empty_is_not_asked_for_again() -> None:
    failed = talk(prompt_after_s=20).wait(20_000).tell(turn.AnswerFailed(1)).wait(60_000)
    empty = talk(prompt_after_s=20).wait(20_000).answer("", epoch=1, finish=True).wait(60_000)
    assert failed.take() == empty.take() == ["prepareword", "retract 1"]


def test_the_word_can_be_interrupted_like_any_answer() -> None:
    dialogue = talk(prompt_after_s=20).wait(20_000).answer("Hm?", epoch=1).wait(20)
    dialogue.take()
    assert dialogue.speak(640).wait(20, 760).take()[:4] == ["pause", "flush", "cancel 1", "cancelled 1/1 barge_in"]


# ----------------------------------------------------------------------------------------------------------------- away
def test_who_says_nothing_is_away_and_back_at_the_first_voice() -> None:
    dialogue = talk(away_after_s=40)
    assert dialogue.wait(39_980).take() == []
    assert dialogue.wait(20).take() == ["away"]
    assert dialogue.speak(20).take() == ["open", "hearing"]
    assert talk(away_after_s=40).wait(40_000).tell(turn.Present()).phase == "listening"
    assert talk(away_after_s=40).wait(40_000).tell(turn.Typed("hello")).phase == "thinking"


def test_a_muted_person_is_shown_as_muted_and_the_time_goes_on() -> None:
    dialogue = talk(away_after_s=40, idle_end_s=120).tell(turn.Muted(True)).wait(119_980)
    assert dialogue.phase == "paused"
    assert dialogue.wait(20).state.closed


def test_the_same_switch_told_again_by_a_new_connection_is_no_sign_of_life() -> None:
    assert talk(away_after_s=40).wait(20_000).tell(turn.Muted(False)).wait(20_000).phase == "away"


def test_a_lost_microphone_stops_the_time() -> None:
    dialogue = talk(away_after_s=40).wait(39_980).tell(turn.MicrophoneLost())
    dialogue.now += 3_600 * 16_000
    assert dialogue.phase == "paused"
    assert dialogue.wait(20).phase == "away"


# ------------------------------------------------------------------------------------------------------ the end, idle
def test_an_idle_call_ends_after_two_warnings() -> None:
    dialogue = talk(idle_end_s=120)
    assert dialogue.wait(59_980).take() == []
    assert dialogue.wait(20).take() == ["ends in 60"]
    assert dialogue.wait(29_980).take() == []
    assert dialogue.wait(20).take() == ["ends in 30"]
    assert dialogue.wait(29_980).take() == []
    assert dialogue.wait(20).take() == ["idle", "endcall"]
    assert dialogue.say().take() == []


def test_voice_at_the_very_frame_of_the_end_keeps_the_call() -> None:
    dialogue = talk(idle_end_s=120).wait(119_980)
    dialogue.take()
    assert dialogue.speak(20).take() == ["stay", "open", "hearing"]


def test_the_end_waits_for_a_sound_that_may_become_voice_but_not_for_a_crackle() -> None:
    dialogue = talk(idle_end_s=120).wait(119_900)
    assert stir(dialogue, 200).take() == ["ends in 60", "ends in 30"]
    assert dialogue.speak(20).take() == ["stay", "open", "hearing"]
    assert stir(talk(idle_end_s=120).wait(119_900), 1_100).take()[-1] == "endcall"


def test_text_typed_during_the_warning_is_answered_and_the_next_silence_is_warned_of_anew() -> None:
    dialogue = talk(idle_end_s=120).wait(100_000)
    dialogue.take()
    assert dialogue.tell(turn.Typed("wait")).take() == ["stay", "prefilltext", "generate 1/1", "thinking"]
    dialogue.answer("yes", finish=True).drain().take()
    assert dialogue.wait(60_000).take() == ["ends in 60"]


def test_the_time_stands_still_while_an_answer_is_being_spoken() -> None:
    dialogue = talk(idle_end_s=120).tell(turn.Typed("a long story")).answer("Once")
    dialogue.take()
    assert dialogue.wait(600_000).take() == []
    assert dialogue.answer("end", finish=True).drain().wait(59_980).take()[-1] == "listening"
    assert dialogue.wait(20).take() == ["ends in 60"]


def test_the_models_own_word_does_not_keep_a_forgotten_call_alive() -> None:
    dialogue = talk(**LIMITS).wait(20_000).answer("Hm?", epoch=1, finish=True).wait(5_020).drain()
    dialogue.take()
    assert dialogue.wait(40_000 - 20_020).take() == ["away"]
    assert dialogue.wait(20_000).take() == ["ends in 60"]
    assert dialogue.wait(60_000).take() == ["ends in 30", "idle", "endcall"]


def test_a_word_that_is_not_there_yet_ends_with_the_call() -> None:
    assert talk(prompt_after_s=119.98, idle_end_s=120).wait(120_000).take()[-4:] == [
        "prepareword", "retract 1", "idle", "endcall",
    ]  # fmt: skip


def test_a_short_limit_is_announced_at_half_and_a_quarter_of_it() -> None:
    assert notices_s(900) == (60, 30)
    assert notices_s(40) == (20, 10)
    assert talk(idle_end_s=40).wait(40_000).take() == ["ends in 20", "ends in 10", "idle", "endcall"]


def test_a_word_needs_a_text_to_ask_for_it() -> None:
    with pytest.raises(OptionError, match="prompt_text is empty"):
        CallConfig.from_mapping({"silence": {"prompt_after_s": 20, "prompt_text": " "}})


# ---------------------------------------------------------------------------------------------------------- whole calls
SHORT = {"prompt_after_s": 1.0, "away_after_s": 2.0, "idle_end_s": 8.0, "prompt_text": "say something"}


async def test_a_word_is_asked_for_and_said_and_the_call_ends_in_the_end() -> None:
    dialogue = await start(Script(answers=("Are you there?",)), {"silence": SHORT})
    await dialogue.hear(20.0)
    assert [event["data"]["reason"] for event in dialogue.of("response.started")] == ["silence"]
    assert dialogue.text == "Are you there?"
    assert dialogue.states == ["listening", "thinking", "speaking", "listening", "away", "idle"]
    ends = [(event["data"]["in_s"], event["data"]["reason"]) for event in dialogue.of("session.ending")]
    assert ends == [(4.0, "idle"), (2.0, "idle"), (0, "idle")]
    assert dialogue.ended == ["idle"]
    await dialogue.call.close("idle")


async def test_the_person_who_is_there_says_so_and_the_end_is_withdrawn() -> None:
    dialogue = await start(Script(), {"silence": {"away_after_s": 2, "idle_end_s": 8}})
    await dialogue.hear(5.0)
    await dialogue.send("input.present")
    assert [event["data"] for event in dialogue.of("session.ending_withdrawn")] == [{"reason": "idle"}]
    assert dialogue.states[-2:] == ["away", "listening"]
    await dialogue.hear(3.0)
    await dialogue.send("session.update", silence={"idle_end_s": 1})  # no limit shrinks under a silence that goes on
    await dialogue.hear(0.5)
    assert dialogue.ended == []
    await dialogue.hear(0.6)
    assert dialogue.ended == ["idle"]
    await dialogue.call.close("idle")


async def test_whenever_the_person_begins_to_speak_a_word_is_said_or_leaves_no_trace() -> None:
    """The engine takes 140 ms of media time, and speech begins at any frame in or after it."""
    begun_in, asked, answered = range(12), 15_680, 15_680 + 7 * 320
    said, dropped = 0, 0
    for frame in begun_in:
        options = {"silence": SHORT | {"away_after_s": 0, "idle_end_s": 0}, "turn": {"prepare": False}}
        dialogue = await start(Script(answers=("fed {seconds} s, {typed}.",)), options)
        sound = np.concatenate([np.zeros(16_000 + 320 * frame, np.int16), speechlike(1.5), np.zeros(32_000, np.int16)])
        await dialogue.hear(sound[:asked])
        dialogue.call.microphone.push(sound[asked:answered], 16_000, asked)
        await dialogue.hear(sound[answered:])
        reasons = [event["data"]["reason"] for event in dialogue.of("response.started")]
        assert reasons.count("end_of_speech") == 1
        dialogue.call.metrics({})
        if "silence" in reasons:
            said += 1
        else:
            dropped += dialogue.wire[-1]["data"]["drafts_dropped"]
            assert "say something" not in dialogue.text
        await dialogue.call.close("done")
    assert said
    assert dropped == len(begun_in) - said


async def test_a_call_with_long_silence_replays_to_the_identical_events() -> None:
    live = await start(Script(answers=("Hm, {typed}?", "yes")), {"silence": SHORT})
    for sound in (3.0, speechlike(1.0), 6.5):
        await live.hear(sound)
    await live.send("input.present")
    await live.hear(8.5)
    await live.call.close("idle")
    again = await start(Script(answers=("Hm, {typed}?", "yes")), {"silence": SHORT}, held=True)
    for kind, *value in live.log.inputs:
        match kind:
            case "audio":
                again.call.microphone.push(value[0], 16_000, again.call.t_samples)
            case "result":
                assert await again.call.link.release(value[0])
            case "played":
                again.call.output.pull(value[0])
            case "command":
                again.call.receive(value[0])
            case "closed":
                await again.call.close("idle")
    assert again.log.events == live.log.events
    assert {event["type"] for event in live.log.events} >= {"session.ending", "session.ending_withdrawn"}
