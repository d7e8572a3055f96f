"""What a session hears and says does not depend on who shares its batch."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.checkpoint.loader import LoadedModel
from engine.conversation.sampling import SpeechSampling, TextSampling
from engine.conversation.streaming import LiveAnswer, StreamingModel
from engine.conversation.text import AnswerOptions
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
