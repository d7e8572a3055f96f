"""The turn machine: scripted conversations in virtual time, and what holds in any order of events."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.call import turn, turn_machine
from app.call.config import CallConfig, Judging
from app.call.turn_state import TurnState
from engine.client import INPUT_RATE, Chunk

CONFIG = CallConfig.from_mapping({"turn": {"prepare": False}})
PREPARING = CallConfig.from_mapping({"turn": {"end_of_turn": "silence"}})
BY_MODEL = {"end_of_turn": "model", "end_of_turn_min_ms": 200, "end_of_turn_max_s": 1.5}
JUDGED = CallConfig.from_mapping({"turn": BY_MODEL})
BY_BOTH = CallConfig.from_mapping({"turn": BY_MODEL | {"end_of_turn": "both"}})
PUSH_TO_TALK = CallConfig.from_mapping({"turn": {"detection": "push_to_talk"}})


class Talk:
    """A conversation in virtual time. Every method is one thing that happens; ``log`` tells what followed."""

    def __init__(self, config: CallConfig = CONFIG) -> None:
        self.config = config
        self.state = TurnState(muted=config.turn.detection == "push_to_talk")
        self.now = self.lull = 0
        self.log: list[str] = []
        self.wait(20)
        self.log.clear()

    @property
    def phase(self) -> str:
        return self.state.phase(self.config.turn.detection == "push_to_talk")

    def tell(self, event: turn.Event) -> Talk:
        self.state, actions = turn_machine.step(self.state, event, self.now, self.config)
        self.log += [word for action in actions if (word := describe(action))]
        return self

    def wait(self, ms: int, voiced_ms: int | None = None, *, spoken: bool = True) -> Talk:
        for i in range(ms // 20):
            self.now += 320
            voiced = 0 if voiced_ms is None else voiced_ms + 20 * i
            self.tell(turn.Tick(voiced, voiced * spoken))
        return self

    def speak(self, ms: int, *, spoken: bool = True, ending: bool = False) -> Talk:
        """Speech that goes on for ``ms`` after the VAD has noticed it, 100 ms into it. What is not ``spoken`` is voice
        that may be a cough."""
        self.now += 320
        self.tell(turn.SpeechStarted(self.now - 1_600, ending)).wait(ms, 100, spoken=spoken)
        return self

    def hush(self, ms: int, voiced_ms: int = 1_000, *, spoken: bool = True) -> Talk:
        """Silence, of at most 540 ms: the VAD tells of a lull after 160."""
        for i in range(1, ms // 20 + 1):
            self.now += 320
            if i == 8:
                self.lull = self.now - 160 * 16
                self.tell(turn.Lull(self.lull, voiced_ms * spoken))
            self.tell(turn.Tick(voiced_ms, voiced_ms * spoken))
        return self

    def judge(self, probability: float | None, by: Judging = "model") -> Talk:
        return self.tell(turn.Judged(self.lull, by, probability))

    def mean(self, stop: bool) -> Talk:
        return self.tell(turn.Meant(self.lull, stop))

    def fall_silent(self, voiced_ms: int = 1_000, *, spoken: bool = True) -> Talk:
        self.hush(540, voiced_ms, spoken=spoken)
        self.now += 320
        return self.tell(turn.SpeechEnded(self.now - 560 * 16, voiced_ms * spoken))

    def say(self, ms: int = 1_000) -> Talk:
        return self.speak(ms).fall_silent(ms)

    def answer(self, text: str = "yes", epoch: int | None = None, finish: bool = False) -> Talk:
        epoch = self.state.epoch if epoch is None else epoch
        return self.tell(turn.AnswerChunk(Chunk(epoch, 0, text, finish="stop" if finish else None)))

    def drain(self) -> Talk:
        return self.tell(turn.Drained(self.state.epoch))

    def take(self) -> list[str]:
        log, self.log = self.log, []
        return log


def describe(action: turn.Action) -> str:
    match action:
        case turn.Show(phase, _):
            return phase
        case turn.Generate(number, epoch, prepared=prepared):
            return f"{'commit' if prepared else 'generate'} {number}/{epoch}"
        case turn.Prepare(epoch):
            return f"prepare {epoch}"
        case turn.Retract(epoch):
            return f"retract {epoch}"
        case turn.Done(number, epoch, status, reason):
            return f"{status} {number}/{epoch} {reason}"
        case turn.Play(chunk):
            return f"play {chunk.text}"
        case turn.CancelGeneration(epoch):
            return f"cancel {epoch}"
        case turn.DropTurn(reason):
            return f"drop {reason}"
        case turn.EndSpeech():
            return ""
        case turn.AnnounceEnd(in_s):
            return f"ends in {in_s:g}"
        case turn.WithdrawEnd():
            return "stay"
        case _:
            return type(action).__name__.removesuffix("Turn").lower()


def test_question_and_answer() -> None:
    talk = Talk().say()
    assert talk.take() == ["open", "hearing", "close", "generate 1/1", "thinking"]
    assert talk.answer().answer("", finish=True).take() == ["play yes", "speaking", "play "]
    assert talk.drain().take() == ["completed 1/1 completed", "listening"]


def test_barge_in_cuts_in_the_right_order() -> None:
    talk = Talk().say().answer()
    talk.take()
    assert talk.speak(640).take() == ["pause"]
    assert talk.wait(20, 760).take() == [
        "flush", "cancel 1", "cancelled 1/1 barge_in", "interrupted", "open", "hearing",
    ]  # fmt: skip
    assert talk.answer("late", epoch=1).tell(turn.AnswerStopped(1)).take() == []
    assert talk.fall_silent().take() == ["close", "generate 2/3", "thinking"]


def test_an_okay_pauses_the_answer_and_does_not_cut_it() -> None:
    talk = Talk().say().answer()
    talk.take()
    assert talk.speak(20).take() == ["pause"]
    assert talk.wait(400, 120).hush(300, voiced_ms=520).take() == ["understand"]
    assert talk.hush(20, voiced_ms=520).phase == "speaking"
    assert talk.hush(20, voiced_ms=520).take() == ["resume"]


def test_a_laugh_of_any_length_does_not_interrupt() -> None:
    talk = Talk().say().answer()
    talk.take()
    assert talk.speak(3_000, spoken=False).take() == ["pause"]
    assert talk.fall_silent(3_100, spoken=False).take() == ["resume"]
    assert talk.phase == "speaking"


def test_who_pauses_between_words_interrupts_all_the_same() -> None:
    talk = Talk().say().answer().speak(400).hush(200, voiced_ms=500)
    talk.take()
    assert talk.tell(turn.LullOver()).wait(240, 500).take() == []
    assert talk.wait(40, 740).phase == "hearing"


def test_after_an_answer_went_on_a_click_does_not_pause_it_again() -> None:
    talk = Talk().say().answer().speak(300).hush(340, voiced_ms=400)
    assert talk.take()[-1] == "resume"
    assert talk.tell(turn.LullOver()).wait(60, 420).take() == []
    assert talk.wait(40, 500).take() == ["pause"]


def test_who_says_stop_again_insists() -> None:
    talk = Talk().say().answer().speak(200).fall_silent(300)
    assert talk.take()[-2:] == ["understand", "resume"]
    assert talk.wait(600).speak(120).phase == "speaking"
    assert talk.wait(20, 220).take()[-1] == "hearing"


def test_a_word_that_means_stop_stops_the_answer_at_once() -> None:
    talk = Talk().say().answer().speak(200).hush(180, voiced_ms=300)
    assert talk.take()[-2:] == ["pause", "understand"]
    assert talk.mean(True).take() == ["flush", "cancel 1", "cancelled 1/1 barge_in", "interrupted", "open", "hearing"]
    assert talk.mean(True).take() == []
    assert talk.fall_silent(300).take() == ["close", "generate 2/3", "thinking"]


def test_a_word_that_means_something_else_lets_the_answer_go_on() -> None:
    talk = Talk().say().answer().speak(200).hush(180, voiced_ms=300).mean(False)
    talk.take()
    assert talk.wait(160, 300).take() == ["resume"]
    assert talk.phase == "speaking"


def test_a_word_that_is_understood_late_is_answered_all_the_same() -> None:
    talk = Talk().say().answer().speak(200).fall_silent(300)
    assert talk.take()[-1] == "resume"
    heard = talk.wait(200).mean(True).take()
    assert heard[:4] == ["flush", "cancel 1", "cancelled 1/1 barge_in", "interrupted"]
    assert heard[4:] == ["open", "close", "generate 2/3", "thinking"]


def test_what_was_meant_before_somebody_went_on_is_no_word_any_more() -> None:
    talk = Talk().say().answer().speak(200).hush(180, voiced_ms=300)
    assert talk.tell(turn.LullOver()).wait(100, 300).mean(True).phase == "speaking"


def test_a_word_under_another_answer_stops_nothing() -> None:
    talk = Talk().say().answer("all", finish=True).speak(200).fall_silent(300).drain()
    talk.tell(turn.Typed("and then?")).answer()
    assert talk.mean(True).phase == "speaking"


def test_without_words_nobody_is_asked_what_was_meant() -> None:
    talk = Talk(CallConfig.from_mapping({"turn": {"prepare": False, "barge_in_words": ""}})).say().answer()
    assert "understand" not in talk.speak(200).fall_silent(300).take()


def test_who_coughs_after_an_okay_does_not_insist() -> None:
    talk = Talk().say().answer().speak(500).fall_silent(600).wait(600)
    talk.take()
    assert talk.speak(900, spoken=False).fall_silent(1_000, spoken=False).take() == ["pause", "resume"]


def test_two_backchannels_far_apart_do_not_add_up() -> None:
    talk = Talk().say().answer().speak(300).fall_silent(400).wait(1_500)
    talk.take()
    assert talk.speak(400).fall_silent(500).take() == ["pause", "understand", "resume"]


def test_nobody_insists_under_another_answer() -> None:
    talk = Talk().say().answer("all", finish=True).speak(300).fall_silent(400).drain()
    talk.tell(turn.Typed("and then?")).answer()
    assert talk.speak(400).phase == "speaking"


def test_who_begins_in_the_last_words_waits_for_them_and_has_the_turn() -> None:
    talk = Talk().say().answer("all", finish=True)
    talk.take()
    assert talk.speak(300, ending=True).take() == []
    onset = talk.state.speech
    assert talk.drain().take() == ["completed 1/1 completed", "open", "hearing"]
    assert talk.state.opened == onset


def test_an_answer_does_not_wait_for_a_lost_microphone() -> None:
    talk = Talk().say().answer().speak(60)
    talk.take()
    assert talk.tell(turn.MicrophoneLost()).take() == ["resume"]


def test_a_cough_is_no_turn_and_is_not_answered() -> None:
    talk = Talk(PREPARING).speak(400, spoken=False).fall_silent(500, spoken=False)
    assert talk.take() == ["open", "hearing", "drop sound", "listening"]


def test_a_cough_before_a_sentence_does_not_split_it() -> None:
    talk = Talk(JUDGED).speak(200, spoken=False).hush(340, 300, spoken=False)
    assert talk.take() == ["open", "hearing"]
    assert talk.tell(turn.LullOver()).wait(600, 300).hush(160).judge(0.98).hush(40).take() == [
        "prepare 1", "judge", "commit 1/1", "thinking",
    ]  # fmt: skip


def test_a_paused_answer_that_was_all_said_is_done() -> None:
    talk = Talk().say().answer("all", finish=True).speak(60)
    talk.take()
    assert talk.drain().take()[0] == "completed 1/1 completed"


def test_an_answer_is_prepared_in_the_pause_and_shown_when_the_turn_ends() -> None:
    talk = Talk(PREPARING).speak(1_000)
    talk.take()
    assert talk.hush(160).take() == ["prepare 1"]
    assert talk.answer("yes", epoch=1).answer("", epoch=1, finish=True).take() == []
    assert talk.phase == "hearing"
    assert talk.tell(turn.SpeechEnded(talk.lull, 1_000)).take() == [
        "commit 1/1", "thinking", "play yes", "play ", "speaking",
    ]  # fmt: skip


def test_who_goes_on_was_never_answered() -> None:
    talk = Talk(PREPARING).speak(1_000).hush(160).answer("too soon", epoch=1)
    talk.take()
    assert talk.tell(turn.LullOver()).take() == ["retract 1"]
    assert talk.answer("too late", epoch=1).take() == []
    assert talk.wait(400, 1_100).hush(160).take() == ["prepare 2"]
    assert talk.tell(turn.SpeechEnded(talk.lull, 1_400)).take() == ["commit 1/2", "thinking"]


def test_a_draft_that_fails_is_asked_for_again() -> None:
    talk = Talk(PREPARING).speak(1_000).hush(160).tell(turn.AnswerFailed(1))
    assert talk.take()[-1] == "retract 1"
    assert talk.tell(turn.SpeechEnded(talk.lull, 1_000)).take() == ["close", "generate 1/2", "thinking"]


def test_nothing_is_prepared_while_the_engine_is_behind() -> None:
    talk = Talk(PREPARING).speak(1_000)
    talk.take()
    talk.tell(turn.Lull(talk.now, 1_000, ready=False))
    assert talk.take() == []
    assert talk.tell(turn.SpeechEnded(talk.now, 1_000)).take() == ["close", "generate 1/1", "thinking"]


def test_typing_takes_the_place_of_a_draft() -> None:
    talk = Talk(PREPARING).speak(1_000).hush(160)
    talk.take()
    assert talk.tell(turn.Typed("this")).take() == ["retract 1", "close", "prefilltext", "generate 1/2", "thinking"]


def test_who_is_done_is_answered_after_the_shortest_silence() -> None:
    talk = Talk(JUDGED).speak(1_000).hush(160)
    assert talk.judge(0.98).phase == "hearing"
    assert talk.hush(40).phase == "thinking"  # 200 ms


def test_who_is_not_done_is_waited_for() -> None:
    talk = Talk(JUDGED).speak(1_000).hush(160).judge(0.1)
    talk.take()
    talk.tell(turn.SpeechEnded(talk.lull, 1_000)).wait(800)
    assert talk.phase == "hearing"
    assert talk.speak(400).take() == ["retract 1"]
    assert talk.hush(160).judge(0.98).hush(40).take() == ["prepare 2", "judge", "commit 1/2", "thinking"]


def test_even_who_is_not_done_is_answered_in_the_end() -> None:
    talk = Talk(JUDGED).speak(1_000).hush(160).judge(0.0).tell(turn.SpeechEnded(0, 1_000))
    assert talk.wait(1_320).phase == "hearing"
    assert talk.wait(60).phase == "thinking"


def test_where_nobody_says_silence_ends_the_turn() -> None:
    assert Talk(JUDGED).say().phase == "thinking"


def test_a_judgement_about_an_earlier_pause_is_void() -> None:
    talk = Talk(JUDGED).speak(1_000).hush(160)
    early = talk.lull
    talk.tell(turn.LullOver()).wait(400, 1_100).hush(160).tell(turn.Judged(early, "model", 1.0)).hush(100)
    assert talk.phase == "hearing"


def test_the_melody_is_asked_for_where_the_model_is_not_sure() -> None:
    sure = Talk(BY_BOTH).speak(1_000).hush(160).judge(0.9).hush(40)
    assert sure.phase == "thinking"
    assert sure.take().count("judge") == 1
    unsure = Talk(BY_BOTH).speak(1_000).hush(160)
    unsure.take()
    assert unsure.judge(0.6).take() == ["judge"]
    assert unsure.hush(100).phase == "hearing"
    assert unsure.judge(0.98, "smart_turn").phase == "thinking"
    doubted = Talk(BY_BOTH).speak(1_000).hush(160).judge(0.1).judge(0.98, "smart_turn").hush(100)
    assert doubted.phase == "hearing"


def test_a_melody_that_is_late_leaves_it_to_the_model() -> None:
    talk = Talk(BY_BOTH).speak(1_000).hush(160).judge(0.1)
    talk.tell(turn.SpeechEnded(talk.lull, 1_000)).wait(800)
    assert talk.phase == "hearing"
    assert talk.wait(600).phase == "thinking"


def test_a_model_that_cannot_tell_leaves_it_to_silence() -> None:
    nobody = Talk(BY_BOTH).speak(1_000).hush(160).judge(None)
    assert nobody.take().count("judge") == 1
    assert nobody.hush(340).phase == "hearing"
    assert nobody.fall_silent().phase == "thinking"
    assert Talk(JUDGED).speak(1_000).hush(160).judge(None).hush(340).phase == "hearing"
    assert Talk(JUDGED).speak(1_000).hush(160).judge(None).fall_silent().phase == "thinking"


def test_speech_right_after_the_end_of_a_turn_is_new() -> None:
    """The detector must not count what was said before: it would take the first frame for an interruption."""
    talk = Talk(JUDGED).speak(1_000).hush(160).judge(0.98).hush(40)
    assert talk.state.speech is None
    assert talk.answer().tell(turn.SpeechStarted(talk.now)).wait(20, 100).phase == "speaking"


def test_without_barge_in_speech_counts_from_the_end_of_the_answer() -> None:
    talk = Talk(CallConfig.from_mapping({"barge_in": False})).say().answer("all", finish=True)
    talk.take()
    assert talk.speak(1_000).take() == []
    assert talk.drain().take() == ["completed 1/1 completed", "open", "hearing"]
    assert talk.state.opened == talk.now


def test_speech_that_began_under_the_answer_is_kept() -> None:
    talk = Talk().say().answer("all", finish=True).speak(60)
    onset = talk.state.speech
    talk.drain()
    assert talk.phase == "hearing"
    assert talk.state.opened == onset


def test_a_click_is_no_turn() -> None:
    talk = Talk().speak(20).fall_silent(voiced_ms=80)
    assert talk.take() == ["open", "hearing", "drop sound", "listening"]
    assert talk.say().take()[-2:] == ["generate 1/1", "thinking"]


def test_a_word_as_short_as_two_is_a_turn() -> None:
    """Of a quiet one the detector is sure for little more than its vowel."""
    assert Talk().speak(20).fall_silent(voiced_ms=100).take()[-2:] == ["generate 1/1", "thinking"]


def test_typing_interrupts_an_answer() -> None:
    talk = Talk().say().answer()
    talk.take()
    assert talk.tell(turn.Typed("stop that")).take() == [
        "flush", "cancel 1", "cancelled 1/1 typed", "interrupted", "prefilltext", "generate 2/3", "thinking",
    ]  # fmt: skip


def test_typing_while_speaking_is_one_turn() -> None:
    talk = Talk().speak(600).tell(turn.Typed("this"))
    assert talk.take() == ["open", "hearing", "close", "prefilltext", "generate 1/1", "thinking"]
    assert talk.wait(400, 700).take() == []  # the same breath does not interrupt what it asked for


def test_the_stop_button_leaves_time_to_the_engine() -> None:
    talk = Talk().say().answer().tell(turn.CancelAnswer())
    assert talk.phase == "interrupted"
    assert talk.tell(turn.AnswerStopped(1)).phase == "listening"
    assert talk.tell(turn.CancelAnswer()).take()[-1] == "listening"


def test_the_stop_button_after_the_last_chunk() -> None:
    talk = Talk().say().answer(finish=True)
    talk.take()
    talk.tell(turn.CancelAnswer())
    assert "cancel 1" not in talk.take()
    assert talk.phase == "listening"


def test_a_failed_answer_ends_its_turn() -> None:
    talk = Talk().say()
    talk.take()
    assert talk.tell(turn.AnswerFailed(1)).take() == ["flush", "failed 1/1 engine_error", "listening"]


@pytest.mark.parametrize(("choice", "follows"), [("answer", "thinking"), ("drop", "listening")])
def test_noise_that_never_ends_is_a_turn_of_bounded_length(choice: str, follows: str) -> None:
    talk = Talk(CallConfig.from_mapping({"turn": {"max_turn_s": 5, "on_max_turn": choice}})).speak(6_000)
    assert talk.phase == follows
    talk.answer(finish=True).drain().wait(10_000, 6_000)
    assert talk.phase == "listening"  # the noise goes on and is no new turn


def test_muting_ends_the_turn_and_pauses() -> None:
    talk = Talk().speak(600).tell(turn.Muted(True))
    assert talk.phase == "thinking"
    assert talk.answer(finish=True).drain().phase == "paused"
    assert talk.tell(turn.Muted(False)).phase == "listening"


def test_a_lost_microphone_holds_the_turn() -> None:
    talk = Talk().speak(600).tell(turn.MicrophoneLost())
    assert talk.phase == "paused"
    talk.wait(20, 700)
    assert talk.phase == "hearing"
    assert talk.fall_silent().phase == "thinking"


def test_push_to_talk() -> None:
    talk = Talk(PUSH_TO_TALK)
    assert talk.phase == "idle"
    assert talk.speak(500).take() == []
    assert talk.tell(turn.Muted(False)).wait(500).tell(turn.Commit()).take() == [
        "open", "hearing", "close", "generate 1/1", "thinking",
    ]  # fmt: skip
    assert talk.tell(turn.Muted(True)).answer().tell(turn.Muted(False)).phase == "hearing"
    assert talk.wait(500).tell(turn.Discard()).phase == "interrupted"
    assert talk.tell(turn.AnswerStopped(1)).phase == "idle"


def test_closing_ends_everything() -> None:
    talk = Talk().say().answer()
    talk.take()
    assert talk.tell(turn.Close("bye")).take()[2:] == ["cancelled 1/1 bye", "interrupted", "idle"]
    assert talk.say().take() == []


def chunks(epoch: int) -> st.SearchStrategy[turn.Event]:
    pcm = np.zeros(0, np.int16)
    finishes = st.sampled_from([None, None, "stop"])
    return st.builds(lambda text, finish: turn.AnswerChunk(Chunk(epoch, 0, text, pcm, finish=finish)),
                     st.sampled_from(["", "a"]), finishes)  # fmt: skip


EPOCHS = st.integers(0, 12)
EVENTS = st.one_of(
    st.just("speak"), st.just("silence"), st.just("last words"), st.just("tick"), st.just("tick"),
    st.just("cough"), st.just("long tick"),
    st.builds(turn.MicrophoneLost), st.builds(turn.Muted, st.booleans()), st.just(turn.Typed("hello")),
    st.just(turn.Commit()), st.just(turn.Discard()), st.just(turn.CancelAnswer()), EPOCHS.flatmap(chunks),
    st.just("lull"), st.just("lull"), st.just("over"), st.just("done"), st.just("not done"), st.just("word"),
    st.just("no word"), st.just("stop"), st.just("okay"), st.just("draft chunk"),
    st.just("chunk"), st.just("finish"), st.just("drained"), st.builds(turn.AnswerFailed, EPOCHS),
    st.just("quiet"), st.just("quiet"), st.just("stirring"), st.just(turn.Present()),
    st.builds(turn.AnswerStopped, EPOCHS), st.builds(turn.Drained, EPOCHS),
)  # fmt: skip


POLICIES = st.sampled_from(["silence", "smart_turn", "both"])


@given(st.lists(EVENTS, max_size=60), st.booleans(), st.booleans(), POLICIES)
@settings(max_examples=400, deadline=None)
def test_rules_that_hold_in_any_order(events: list[object], barge_in: bool, push_to_talk: bool, policy: str) -> None:
    detection = "push_to_talk" if push_to_talk else "vad"
    options = {"detection": detection, "max_turn_s": 20, "end_of_turn": policy}
    limits = {"prompt_after_s": 0.06, "away_after_s": 0.12, "idle_end_s": 0.2}
    config = CallConfig.from_mapping({"barge_in": barge_in, "turn": options, "silence": limits})
    draft: int | None = None
    words = warnings = 0  # since the last sign of life
    ended = False
    paused, lull = False, 0
    state, now, speaking, voiced, spoken = TurnState(muted=push_to_talk), 0, False, 0, 0
    answering: int | None = None
    turn_open = False
    used: set[int] = set()
    shown = state.phase(push_to_talk)
    for item in [*chain.from_iterable(["tick"] * 6 if item == "quiet" else [item] for item in events), turn.Close()]:
        now += 320
        event: turn.Event
        match item:
            case "speak":
                voiced = voiced if speaking else 100
                event = turn.Tick(voiced, spoken) if speaking else turn.SpeechStarted(now - 1_600)
                speaking = True
            case "last words":
                voiced = voiced if speaking else 100
                event = turn.Tick(voiced, spoken) if speaking else turn.SpeechStarted(now - 1_600, True)
                speaking = True
            case "silence":
                event = turn.SpeechEnded(now, spoken) if speaking else turn.Tick(0, 0)
                speaking, voiced, spoken = False, 0, 0
            case "tick" | "cough" | "long tick":
                now += 7 * INPUT_RATE if item == "long tick" else 0
                voiced = voiced + 200 if speaking else 0
                spoken = spoken + 200 * (item != "cough") if speaking else 0
                event = turn.Tick(voiced, spoken)
            case "lull":
                lull = now
                event = turn.Lull(now, spoken) if speaking else turn.Tick(0, 0)
            case "over":
                event = turn.LullOver() if speaking else turn.Tick(0, 0)
            case "done" | "not done":
                event = turn.Judged(lull, "smart_turn", 1.0 if item == "done" else 0.1)
            case "stop" | "okay":
                event = turn.Meant(lull, item == "stop")
            case "word" | "no word":
                event = turn.Judged(lull, "model", 0.9 if item == "word" else None)
            case "stirring":
                event = turn.Tick(voiced, spoken, stirring=not speaking)
            case "draft chunk":
                event = turn.AnswerChunk(Chunk(draft or 0, 0, "c"))
            case "chunk" | "finish":
                event = turn.AnswerChunk(Chunk(state.epoch, 0, "b", finish="stop" if item == "finish" else None))
            case "drained":
                event = turn.Drained(state.epoch)
            case _:
                event = item  # type: ignore[assignment]
        alive = isinstance(event, turn_machine.SIGNS_OF_LIFE) or (
            isinstance(event, turn.Muted) and event.muted != state.muted
        )
        words = 0 if alive else words
        state, actions = turn_machine.step(state, event, now, config)
        assert not (ended and actions), "something happens after the end"
        for action in actions:
            match action:
                case turn.PrepareWord(epoch):
                    assert words == 0, "a second word in one silence"
                    assert draft is None, "two drafts at once"
                    assert answering is None, "a word beside an answer"
                    assert not turn_open, "a word beside the person's turn"
                    assert not speaking, "a word while somebody speaks"
                    assert epoch not in used, "an epoch is used twice"
                    words, draft = 1, epoch
                    used.add(epoch)
                case turn.AnnounceEnd():
                    assert (turn_open, speaking, answering) == (False, False, None), (
                        "time goes on though nobody is silent"
                    )
                    warnings += 1
                case turn.WithdrawEnd():
                    assert alive, "an end is withdrawn for no reason"
                    assert warnings, "an end is withdrawn that was not announced"
                    warnings = 0
                case turn.EndCall():
                    assert warnings, "an end that was not announced"
                    assert (turn_open, speaking, answering) == (False, False, None), "an end in the middle of something"
                    ended = True
                case turn.Prepare(epoch):
                    assert draft is None, "two drafts at once"
                    assert answering is None, "a draft beside an answer"
                    assert turn_open, "a draft outside of a turn"
                    assert epoch not in used, "an epoch is used twice"
                    draft = epoch
                    used.add(epoch)
                case turn.Retract(epoch):
                    assert draft == epoch, "a draft is taken back that was not there"
                    draft = None
                case turn.Generate(_, epoch, prepared=prepared):
                    assert answering is None, "two answers at once"
                    assert draft == (epoch if prepared else None), "a draft is left over"
                    assert (epoch in used) == prepared, "an epoch is used twice"
                    turn_open, draft = turn_open and not prepared, None
                    assert not turn_open, "the person still has the turn"
                    answering = epoch
                    used.add(epoch)
                case turn.Pause():
                    assert answering is not None
                    assert not paused
                    paused = True
                case turn.Resume():
                    assert answering is not None
                    assert paused
                    paused = False
                case turn.EndSpeech():
                    speaking, voiced, spoken = False, 0, 0
                case turn.Done(_, epoch):
                    assert answering == epoch, "done without an answer, or twice"
                    answering, paused = None, False
                case turn.Play(chunk):
                    assert chunk.epoch == answering, "a chunk of an old epoch passed"
                case turn.OpenTurn():
                    assert not turn_open
                    assert answering is None
                    turn_open = True
                case turn.CloseTurn() | turn.DropTurn():
                    assert turn_open
                    turn_open = False
                case turn.Show(phase):
                    assert phase != shown, "the same phase is shown twice"
                    shown = phase
        assert not (paused and not speaking), "an answer waits for nobody"
        assert paused == (state.answer is not None and state.answer.paused)
        assert not (alive and not ended and warnings), "an announced end is not withdrawn"
        assert shown == state.phase(push_to_talk)
        assert (state.answer is not None) == (answering is not None)
    assert answering is None, "an answer never ended"
    assert not paused, "an answer was left paused"
    assert draft is None, "a draft never ended"
    assert not turn_open, "a turn never ended"
