"""What holds of the turn machine in any order of events."""

from __future__ import annotations

from itertools import chain

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.call import turn, turn_machine
from app.call.config import CallConfig
from app.call.turn_state import TurnState
from engine.client import INPUT_RATE, Chunk


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
