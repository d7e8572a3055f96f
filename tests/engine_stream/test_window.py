"""Long calls: what the window drops, where the rest moves, and that memory and work per unit stay flat."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from engine.checkpoint.loader import LoadedModel
from engine.conversation.session import Kind, SessionState
from engine.conversation.streaming import StreamingModel
from engine.conversation.text import AnswerOptions
from engine.conversation.window import Dropped, WindowOptions
from engine.conversation.work import Feed
from engine.model.decoder import rotary, rotate
from tests.engine_stream.conftest import begin, feed, logits, unit

UNIT: list[tuple[Kind, int]] = [("text", 1), ("image", 66), ("audio", 27)]
SMALL: list[tuple[Kind, int]] = [("text", 1), ("image", 17), ("audio", 7)]
SECONDS = 30 * 60


def windowed(loaded: LoadedModel, high: int, low: int, keep_units: int = 2) -> StreamingModel:
    return StreamingModel(loaded, sessions=2, context=1_024, window=WindowOptions(high, low, keep_units))


def put(stream: StreamingModel, state: SessionState, kinds: list[tuple[Kind, int]]) -> Dropped:
    """Feed random embeddings as a unit of these kinds."""
    tokens = sum(count for _, count in kinds)
    dropped = stream.make_room(state, tokens)
    stream.executor.run([Feed(state, torch.randn(tokens, stream.config.llm.hidden_size))])
    state.book = replace(state.book, unit=state.book.unit + 1, first=False)
    for kind, count in kinds:
        if kind == "open":
            state.book = replace(state.book, turn=state.book.turn + 1)
        state.note(kind, count)
    return dropped


def turns(state: SessionState, kind: Kind) -> list[int]:
    return [span.unit for span in state.spans if span.kind == kind]


def test_a_thirty_minute_call_stays_flat(loaded: LoadedModel) -> None:
    """A picture and a second of sound every second, an answer every ten: cache, spans and storage do not grow.

    Pictures and sounds take a quarter of their tokens here, the window likewise.
    """
    stream = windowed(loaded, 150, 110)
    state = stream.open()
    put(stream, state, [("prompt", 15)])
    sizes, spans, dropped = [], [], 0
    for second in range(SECONDS):
        dropped += put(stream, state, [("open", 5), *SMALL] if second % 10 == 0 else SMALL).tokens
        if second % 10 == 9:
            dropped += put(stream, state, [("close", 4), ("open", 6), ("answer", 20), ("close", 4)]).tokens
        assert state.length <= 150
        sizes.append((stream.pool.llm.capacity, stream.pool.llm.nbytes))
        spans.append(len(state.spans))
    assert state.length == sum(map(len, state.spans))
    assert dropped == state.dropped > 30_000
    assert set(sizes[60:]) == {sizes[-1]}
    assert stream.pool.llm.capacity == 1_024
    assert max(spans[SECONDS // 2 :]) <= max(spans[: SECONDS // 2])
    assert state.spans[0].kind == "prompt"
    assert len(state.spans[0]) == 15


def test_pictures_go_first_then_units_and_turns_as_a_whole(loaded: LoadedModel) -> None:
    stream = windowed(loaded, 500, 400)
    state = stream.open()
    put(stream, state, [("prompt", 40)])
    put(stream, state, [("open", 5), *UNIT])
    for _ in range(3):
        put(stream, state, UNIT)
    assert turns(state, "image") == [2, 3, 4, 5]
    dropped = put(stream, state, UNIT)
    assert dropped == Dropped(images=132, others=0)
    assert turns(state, "image") == [4, 5, 6]
    assert turns(state, "audio") == [2, 3, 4, 5, 6]
    put(stream, state, [("close", 4), ("open", 6), ("answer", 30)])
    gone = 0
    put(stream, state, [("close", 4), ("open", 5), ("audio", 100)])
    for _ in range(12):
        gone += put(stream, state, [("audio", 100)]).others
    assert gone
    assert turns(state, "answer") == []
    assert [span.kind for span in state.spans] == ["prompt", "open", *["audio"] * (len(state.spans) - 2)]
    assert state.spans[0].kind == "prompt"


@torch.inference_mode()
def test_what_stays_is_turned_to_its_new_position(loaded: LoadedModel) -> None:
    """Keys without their rotation, and values, are the same before and after."""
    stream = windowed(loaded, 300, 200, keep_units=1)
    state = stream.open()
    for kinds in ([("prompt", 30)], UNIT, UNIT):
        put(stream, state, kinds)  # type: ignore[arg-type]
    arena, llm, slot = stream.pool.llm, stream.config.llm, state.slot
    before = [(keys[slot].clone(), values[slot].clone()) for keys, values in zip(arena.keys, arena.values, strict=True)]
    kept = torch.tensor([*range(30), *range(30 + 94, state.length)])
    assert stream.make_room(state, 150) == Dropped(images=66, others=28)
    assert state.length == len(kept)
    for (keys, values), new_keys, new_values in zip(before, arena.keys, arena.values, strict=True):
        old = rotate(keys[:, kept], *rotary(-kept, llm.head_dim, llm.rope_theta))
        new = rotate(new_keys[slot, :, : len(kept)], *rotary(-torch.arange(len(kept)), llm.head_dim, llm.rope_theta))
        torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(new_values[slot, :, : len(kept)], values[:, kept])


def test_a_real_call_goes_on_after_the_window_cut_it(loaded: LoadedModel) -> None:
    """Units and answers through the model, marks and cuts included, with a window that cuts all the time."""
    prompt = begin(StreamingModel(loaded)).length
    high = prompt + 200
    stream = windowed(loaded, high, prompt + 120)
    state = begin(stream)
    dropped = 0
    for second in range(12):
        fed = feed(stream, state, unit(second))
        dropped += fed.dropped.tokens
        assert torch.isfinite(logits(stream, fed)).all()
        assert state.length == sum(map(len, state.spans)) <= high
        if second % 4 == 3:
            length, mark = state.length, state.mark()
            answer = stream.generate(state, AnswerOptions(max_new_tokens=16, speak=False))
            list(stream.executor.drive(answer.task()))
            lost = state.dropped - mark.position + length
            if second == 7:
                stream.pool.truncate(state, mark)
                assert state.position == mark.position
                assert state.length == length - lost
    assert dropped > 0
    assert state.spans[0].kind == "prompt"


def test_without_a_window_a_full_context_is_an_error(loaded: LoadedModel) -> None:
    stream = StreamingModel(loaded, context=100)
    state = stream.open()
    with pytest.raises(ValueError, match="exceeds the storage of 100"):
        put(stream, state, [("prompt", 101)])


def test_marks_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="let 0 < low < high"):
        WindowOptions(high=100, low=100)
    assert WindowOptions.within(32_768) == WindowOptions(8_000, 6_000)
    assert WindowOptions.within(2_048).high == 1_536


def test_the_newest_units_go_where_what_comes_would_not_fit(loaded: LoadedModel) -> None:
    """Only then, only as many as must, and never the prompt."""
    stream = windowed(loaded, 500, 400)
    state = stream.open()
    put(stream, state, [("prompt", 40)])
    put(stream, state, [("open", 5), ("text", 100)])
    put(stream, state, [("close", 5), ("open", 5), ("text", 250)])
    dropped = put(stream, state, [("close", 5), ("open", 5), ("text", 440)])
    assert state.length <= 500
    assert dropped.tokens == 365
    assert [span.kind for span in state.spans] == ["prompt", "close", "open", "text"]
