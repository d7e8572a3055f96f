"""What a session hears and says does not depend on who shares its batch: beyond rounding, or to the last bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.checkpoint.loader import LoadedModel, build_untrained
from engine.conversation import rows
from engine.conversation.message import Fed
from engine.conversation.sampling import SpeechSampling, TextSampling
from engine.conversation.speech import SpeechChunk
from engine.conversation.streaming import LiveAnswer, StreamingModel
from engine.conversation.text import AnswerOptions
from engine.conversation.work import FEED_TOKENS, Feed, Task
from engine.processing.prompts import Message, TypedText
from engine.serving.live_engine import MINI, shared_rows
from engine.spec import EngineSpec
from tests.engine_stream.conftest import assert_close, begin, feed, run_together, unit


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pasts=st.lists(st.lists(st.integers(0, 7), max_size=2), min_size=2, max_size=4), seeds=st.integers(0, 50))
def test_units_fed_together_equal_units_fed_alone(loaded: LoadedModel, pasts: list[list[int]], seeds: int) -> None:
    together, alone = StreamingModel(loaded, sessions=len(pasts)), StreamingModel(loaded, sessions=len(pasts))
    sessions = [(begin(together), begin(alone)) for _ in pasts]
    for (left, right), past in zip(sessions, pasts, strict=True):
        for step in past:
            feed(together, left, unit(step))
            feed(alone, right, unit(step))
    messages = [unit(seeds + index) for index in range(len(pasts))]
    tasks = [together.prefill(left, message) for (left, _), message in zip(sessions, messages, strict=True)]
    for outputs, (left, right), message in zip(run_together(together, tasks), sessions, messages, strict=True):
        expected = feed(alone, right, message)
        assert_close(outputs[-1].embeds, expected.embeds)
        assert_close(outputs[-1].states, expected.states)
        assert left.length == right.length
        assert left.hearing == right.hearing


@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=st.lists(st.integers(1, 24), min_size=2, max_size=3), greedy=st.booleans())
def test_answers_made_together_equal_answers_made_alone(loaded: LoadedModel, limits: list[int], greedy: bool) -> None:
    """Different lengths, so that sessions leave the batch one by one."""
    together, alone = StreamingModel(loaded, sessions=len(limits)), StreamingModel(loaded, sessions=len(limits))
    answers: list[LiveAnswer] = []
    expected: list[LiveAnswer] = []
    for index, limit in enumerate(limits):
        options = AnswerOptions(
            max_new_tokens=limit, text=TextSampling(greedy=greedy), speech=SpeechSampling(greedy=greedy)
        )
        for stream, made in ((together, answers), (alone, expected)):
            state = begin(stream, seed=index)
            feed(stream, state, unit(index))
            made.append(stream.generate(state, options))
    outputs = run_together(together, [answer.task() for answer in answers])
    for ours, answer, other in zip(outputs, answers, expected, strict=True):
        theirs = list(alone.executor.drive(other.task()))
        assert answer.text is not None
        assert other.text is not None
        assert answer.text.ids == other.text.ids
        assert answer.speech is not None
        assert other.speech is not None
        assert torch.equal(answer.speech.codes, other.speech.codes)
        assert [chunk.text for chunk in ours] == [chunk.text for chunk in theirs]
        for left, right in zip(ours, theirs, strict=True):
            torch.testing.assert_close(left.wave, right.wave, rtol=0, atol=1e-4)
        assert answer.state.length == other.state.length


@pytest.fixture(scope="module")
def mini() -> LoadedModel:
    """Random weights of the sizes that calls use by default."""
    return build_untrained(MINI, device="cpu")


def shortened(task: Task[SpeechChunk], outputs: int = 5) -> Task[SpeechChunk]:
    """A task that is left after so many outputs: an untrained model speaks long."""
    result = None
    while outputs:
        try:
            item = task.send(result)
        except StopIteration:
            return
        outputs -= isinstance(item, SpeechChunk)
        result = yield item
    task.close()


def caches(stream: StreamingModel, answer: LiveAnswer) -> list[Tensor]:
    """Keys and values of all that an answer's session holds."""
    state, store = answer.state, stream.pool.llm
    return [tensor[state.slot, :, : state.length] for tensor in (*store.keys, *store.values)]


CALLERS = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), min_size=2, max_size=rows.ROWS + 1)
"""What each said last, and how long its answer may be."""


@settings(max_examples=2, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(callers=CALLERS, greedy=st.booleans())
def test_who_shares_a_batch_changes_no_bit(mini: LoadedModel, callers: list[tuple[int, int]], greedy: bool) -> None:
    """More callers than a step has rows, of different pasts; text, codes, sound and memory are compared."""
    together = StreamingModel(mini, sessions=len(callers), rows=rows.ROWS)
    answers: list[LiveAnswer] = []
    expected: list[LiveAnswer] = []
    heard: list[list[SpeechChunk]] = []
    for index, (said, limit) in enumerate(callers):
        options = AnswerOptions(
            max_new_tokens=limit, text=TextSampling(greedy=greedy), speech=SpeechSampling(min_tokens=1, greedy=greedy)
        )
        alone = StreamingModel(mini, rows=rows.ROWS)
        for stream, made in ((together, answers), (alone, expected)):
            state = begin(stream, seed=index)
            feed(stream, state, unit(said))
            made.append(stream.generate(state, options))
        heard.append(list(alone.executor.drive(shortened(expected[-1].task()))))
    tasks = [shortened(answer.task()) for answer in answers]
    for ours, answer, theirs, other in zip(run_together(together, tasks), answers, heard, expected, strict=True):
        assert [chunk.text for chunk in ours] == [chunk.text for chunk in theirs]
        assert all(torch.equal(left.wave, right.wave) for left, right in zip(ours, theirs, strict=True))
        assert answer.speech is not None
        assert other.speech is not None
        assert torch.equal(answer.speech.codes, other.speech.codes)
        kept = zip(caches(together, answer), caches(other.stream, other), strict=True)
        assert all(torch.equal(left, right) for left, right in kept)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_of_a_step_depends_on_no_other_and_not_on_its_place(mini: LoadedModel, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert rows.exact_rows(mini.model) == rows.ROWS
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("part", ["llm", "tts"])
@pytest.mark.parametrize("disturb", [torch.Tensor.cumsum, lambda out, dim: out + torch.arange(len(out))[:, None, None]])
def test_a_device_whose_rows_depend_on_others_or_on_their_place_shares_nothing(
    mini: LoadedModel, part: str, disturb: Callable[[Tensor, int], Tensor]
) -> None:
    norm = getattr(mini.model, part).model.norm
    hook = norm.register_forward_hook(lambda module, inputs, out: disturb(out, 0))
    try:
        assert rows.exact_rows(mini.model) == 1
    finally:
        hook.remove()


def test_the_cpu_shares_exactly_unless_told_otherwise(mini: LoadedModel) -> None:
    chosen = {wish: shared_rows(EngineSpec(batch_invariant=wish), mini) for wish in (None, True, False)}
    assert chosen == {None: rows.ROWS, True: rows.ROWS, False: None}


@torch.inference_mode()
def test_what_is_long_is_fed_in_pieces(stream: StreamingModel) -> None:
    """So that nobody waits for all of it; what comes out is the same, and so is the memory of it."""
    stream = StreamingModel(stream.loaded, sessions=2)
    state, whole = begin(stream), begin(stream)
    long = Message("user", [TypedText("one two three " * 200)])
    task, feeds = stream.prefill(state, long), []
    fed = next(task)
    while isinstance(fed, Feed):
        feeds.append(len(fed.embeds))
        fed = task.send(stream.executor.run([fed])[0])
    assert isinstance(fed, Fed)
    assert max(feeds) == FEED_TOKENS < sum(feeds) == fed.tokens
    at_once = stream.executor.run([Feed(whole, fed.embeds)])[0]
    assert_close(fed.states, at_once)
    whole.note("text", fed.tokens)
    task.close()
    again = stream.executor.run([Feed(one, fed.embeds[:3]) for one in (state, whole)])
    assert_close(again[0], again[1])
