"""A session cut back, forked or cancelled equals one that was only ever fed what was kept."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.checkpoint.loader import LoadedModel
from engine.conversation.sampling import SpeechSampling, TextSampling
from engine.conversation.session import SessionError, SessionState
from engine.conversation.streaming import StreamingModel
from engine.conversation.text import AnswerOptions
from engine.conversation.work import Feed, Work
from engine.errors import InputError
from engine.processing.prompts import Message
from tests.engine_stream.conftest import assert_close, begin, feed, logits, unit

OPTIONS = AnswerOptions(
    max_new_tokens=10, text=TextSampling(greedy=True), speech=SpeechSampling(greedy=True), speak=False
)
SPOKEN = AnswerOptions(max_new_tokens=14, text=TextSampling(greedy=True), speech=SpeechSampling(greedy=True))
ANSWER = -1
"""In a script: let the model answer; other numbers are units."""

SCRIPT = st.lists(st.one_of(st.integers(0, 7), st.just(ANSWER)), min_size=1, max_size=5)
SLOW = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def act(stream: StreamingModel, state: SessionState, step: int) -> None:
    if step == ANSWER:
        list(stream.executor.drive(stream.generate(state, OPTIONS).task()))
    else:
        feed(stream, state, unit(step))


def assert_equal(stream: StreamingModel, left: SessionState, right: SessionState) -> None:
    """Both remember the same: bookkeeping to the letter; caches and the next unit's logits within the tolerance."""
    assert (left.length, left.book, left.hearing.length) == (right.length, right.book, right.hearing.length)
    assert [(span.kind, len(span)) for span in left.spans] == [(span.kind, len(span)) for span in right.spans]
    for arena, slots, length in (
        (stream.pool.llm, (left.slot, right.slot), left.length),
        (stream.pool.audio, (left.audio_slot, right.audio_slot), left.hearing.length),
    ):
        for tensor in (*arena.keys, *arena.values):
            assert_close(tensor[slots[0], :, :length], tensor[slots[1], :, :length])
    message = Message("user", [*unit(0).content])
    assert_close(logits(stream, feed(stream, left, message)), logits(stream, feed(stream, right, message)))


@SLOW
@given(kept=SCRIPT, dropped=SCRIPT)
def test_truncating_leaves_no_trace(loaded: LoadedModel, kept: list[int], dropped: list[int]) -> None:
    stream = StreamingModel(loaded, sessions=2)
    state, fresh = begin(stream), begin(stream)
    for step in kept:
        act(stream, state, step)
        act(stream, fresh, step)
    mark = state.mark()
    # The audio cache of one earlier turn is kept, so what is dropped may hold one answer at most.
    answers = [at for at, step in enumerate(dropped) if step == ANSWER]
    for step in dropped[: answers[1] if len(answers) > 1 else None]:
        act(stream, state, step)
    stream.pool.truncate(state, mark)
    assert_equal(stream, state, fresh)


@SLOW
@given(shared=SCRIPT, own=SCRIPT)
def test_a_fork_does_not_disturb_its_parent(loaded: LoadedModel, shared: list[int], own: list[int]) -> None:
    stream = StreamingModel(loaded, sessions=3)
    state, fresh = begin(stream), begin(stream)
    for step in shared:
        act(stream, state, step)
        act(stream, fresh, step)
    fork = stream.pool.fork(state)
    for step in own:
        act(stream, fork, step)
    assert_equal(stream, state, fresh)
    assert fork.length > 0
    stream.pool.drop(fork)


@SLOW
@given(works=st.integers(0, 9), heard=st.sampled_from([0, 0, 2_000, 9_000, 10**9]), step=st.integers(0, 3))
def test_a_cancelled_answer_is_cut_to_what_was_heard(loaded: LoadedModel, works: int, heard: int, step: int) -> None:
    """Stopped after any piece of work; unheard, it is as if it had never begun, else its beginning stays."""
    stream = StreamingModel(loaded, sessions=2)
    state, fresh = begin(stream), begin(stream)
    for session in (state, fresh):
        act(stream, session, step)
    answer = stream.generate(state, SPOKEN)
    task = answer.task()
    item: Any = next(task)
    for _ in range(works):
        result = stream.executor.run([item])[0]
        item = task.send(result)
        while not isinstance(item, Work):
            item = task.send(None)
    task.close()
    list(stream.executor.drive(answer.cut(answer.said.spoken.heard_chars(heard))))
    assert stream.pool.speech.allocate() == 0, "the voice was given back"
    if not answer.said.spoken.heard_chars(heard):
        assert_equal(stream, state, fresh)
    elif answer.text is not None and answer.text.ids:
        said = answer.text.ids[: state.length - fresh.length - len(stream.answer_prompt)]
        known = [*stream.answer_prompt.ids.tolist(), *said]
        stream.executor.run([Feed(fresh, stream.embed(known))])
        assert state.length == fresh.length + len(known)
        for tensor in stream.pool.llm.keys:
            assert_close(tensor[state.slot, :, : state.length], tensor[fresh.slot, :, : state.length])


def test_a_prefill_that_is_closed_half_way_leaves_the_session_as_it_was(stream: StreamingModel) -> None:
    state, fresh = begin(stream), begin(stream)
    for stop in range(3):
        task = stream.prefill(state, unit(0))
        item: Any = next(task)
        for _ in range(stop):
            item = task.send(stream.executor.run([item])[0])
        task.close()
    feed(stream, state, unit(1))
    feed(stream, fresh, unit(1))
    assert_equal(stream, state, fresh)


def test_the_audio_cache_comes_back_from_before_its_reset(stream: StreamingModel) -> None:
    state, fresh = begin(stream), begin(stream)
    for session in (state, fresh):
        feed(stream, session, unit(1))
    mark = state.mark()
    act(stream, state, ANSWER)
    feed(stream, state, unit(5))
    stream.pool.truncate(state, mark)
    assert_equal(stream, state, fresh)


def test_marks_that_cannot_be_reached_are_refused(stream: StreamingModel) -> None:
    state = begin(stream)
    feed(stream, state, unit(1))
    early = state.mark()
    for step in (ANSWER, 1, ANSWER, 1, ANSWER):
        act(stream, state, step)
    with pytest.raises(SessionError, match="older than the audio cache"):
        stream.pool.truncate(state, early)
    ahead = state.mark()
    feed(stream, state, unit(2))
    stream.pool.truncate(state, ahead)
    later = begin(stream)
    with pytest.raises(SessionError, match="the session has only"):
        stream.pool.truncate(later, ahead)


def test_spans_cover_the_context(stream: StreamingModel) -> None:
    state = begin(stream)
    for step in (0, 1, ANSWER, 2, ANSWER, 0):
        act(stream, state, step)
    assert sum(map(len, state.spans)) == state.length == state.position
    assert [span.start for span in state.spans[1:]] == [span.end for span in state.spans[:-1]]
    kinds = {span.kind for span in state.spans}
    assert kinds == {"prompt", "open", "text", "image", "audio", "answer", "close"}
    assert [span.kind for span in state.spans[:4]] == ["prompt", "open", "text", "image"]
    assert max(span.turn for span in state.spans) == 5


def test_a_pool_says_when_it_is_full(loaded: LoadedModel) -> None:
    stream = StreamingModel(loaded, sessions=1)
    state = stream.open()
    with pytest.raises(SessionError, match="session slots are taken"):
        stream.open()
    stream.pool.drop(state)
    stream.open()


def test_input_that_makes_no_sense_gets_a_sentence(stream: StreamingModel) -> None:
    state = stream.open()
    with pytest.raises(InputError, match="prefill a message first"):
        stream.generate(state)
    with pytest.raises(InputError, match="role"):
        stream.prefill(state, Message("robot", ["hi"]))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a part is"):
        stream.prefill(state, Message("user", [3.5]))  # type: ignore[list-item]
    begun = begin(stream)
    feed(stream, begun, unit(2))
    with pytest.raises(InputError, match="empty"):
        stream.prefill(begun, Message("user", []))


def test_noise_goes_on_from_where_a_mark_was_set(stream: StreamingModel) -> None:
    """Sampled answers are the same again after a cut, and the same in a fork."""
    options = AnswerOptions(max_new_tokens=12, speak=False, text=TextSampling(temperature=3.0))

    def ids(state: SessionState) -> list[int]:
        answer = stream.generate(state, options)
        list(stream.executor.drive(answer.task()))
        assert answer.text is not None
        return answer.text.ids

    state = begin(stream, seed=5)
    feed(stream, state, unit(1))
    mark, fork = state.mark(), stream.pool.fork(state)
    first = ids(state)
    stream.pool.truncate(state, mark)
    assert ids(state) == first == ids(fork)
    other = begin(stream, seed=6)
    feed(stream, other, unit(1))
    assert ids(other) != first


def test_an_answer_copies_no_audio_cache(loaded: LoadedModel) -> None:
    """It resets the encoder, whose frames stay where they are until something new is heard."""
    stream = StreamingModel(loaded, sessions=2)
    state, fresh = begin(stream), begin(stream)
    for each in (state, fresh):
        feed(stream, each, unit(1))
    mark, heard = state.mark(), state.hearing
    assert heard.length
    for hears_again in (False, True):
        act(stream, state, ANSWER)
        assert state.left_hearing == heard
        assert heard.resets not in state.past_hearing
        if hears_again:
            feed(stream, state, unit(3))
            assert state.left_hearing is None
            assert heard.resets in state.past_hearing
        stream.pool.truncate(state, mark)
        assert state.hearing == heard
    assert_equal(stream, state, fresh)
