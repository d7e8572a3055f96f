"""Mini's own voice: words begin where the engine says, silence is left out, and a stop cuts all at the same word."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import load_checkpoint
from engine.conversation.sampling import TextSampling
from engine.conversation.streaming import StreamingModel
from engine.conversation.text import AnswerOptions
from engine.mini.layout import CHECKPOINT
from engine.mini.measure.alignment import LIMIT_MS, Aligner, SpokenAnswer, answers, errors
from engine.processing.prompts import Message, TypedText, get_sys_prompt
from engine.serving.live_answer import ServedAnswer
from engine.serving.live_session import SAFE_PACE
from engine.spoken import SpokenText


@pytest.fixture(scope="module")
def spoken() -> list[SpokenAnswer]:
    return asyncio.run(answers(8, "default", CHECKPOINT))


def test_words_begin_where_they_are_said_to(spoken: list[SpokenAnswer]) -> None:
    pytest.importorskip("pocketsphinx")
    announced, final, lost = errors(spoken, Aligner())
    assert lost <= 2
    assert len(final) > 20
    assert np.abs(final).max() <= LIMIT_MS
    assert np.abs(announced).max() <= 3 * LIMIT_MS


def test_an_answer_begins_with_its_sound(spoken: list[SpokenAnswer]) -> None:
    """Without the 180 ms that mini is silent first, but with the whole onset."""
    for answer in spoken:
        assert 0.01 < answer.silence_s < 0.1
        assert np.abs(answer.pcm[:240]).max() < 0.01 * 32767


@pytest.fixture(scope="module")
def stream() -> StreamingModel:
    loaded = load_checkpoint(CHECKPOINT, LoadOptions(device="cpu", dtype="float32", progress=False))
    return StreamingModel(loaded, sessions=1, context=1024)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(heard=st.integers(0, 40_000), ahead=st.integers(0, 3), tells=st.booleans())
def test_a_stop_at_any_sample_cuts_captions_and_memory_at_the_same_word(
    stream: StreamingModel, heard: int, ahead: int, tells: bool
) -> None:
    """However much further the model had come, and whether the caller says how many characters that are or not."""
    state = stream.open()
    for message in (get_sys_prompt(mode="omni", language="en"), Message("user", [TypedText("count from one to five")])):
        list(stream.executor.drive(stream.prefill(state, message)))
    before, table, made = state.mark(), SpokenText(), 0
    served = ServedAnswer(1, 1)
    served.live = stream.generate(state, AnswerOptions(max_new_tokens=32, text=TextSampling(greedy=True)), SAFE_PACE)
    for item in stream.executor.drive(served.live.task()):
        chunk = served.chunk(item)
        if made < heard and chunk is not None:
            table.add(chunk.text, chunk.starts)
            made += len(chunk.pcm)
        elif (ahead := ahead - 1) < 0:
            break
    samples = min(heard, made)
    shown = table.text[: table.heard_chars(samples)]
    list(stream.executor.drive(served.settle(samples, len(shown) if tells else None)))
    assert served.live.text is not None
    kept = max(0, state.position - before.position - len(stream.answer_prompt))
    assert stream.tokenizer.decode(served.live.text.ids[:kept]) == shown
    if not samples:
        assert state.mark() == before
    stream.pool.drop(state)
