"""What was heard is one value: captions, the summary of an answer and the engine's memory end at the same word."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.serving.scripted import Script
from engine.spoken import SpokenText, begins_piece
from tests.call.talk import Talk, start

ANSWER = "One two three four, five six seven eight: nine ten eleven twelve thirteen fourteen."
SCRIPT = Script(answers=(ANSWER, "You heard <{said}>"))


def shown_on(events: list[Mapping[str, Any]], ms: float) -> str:
    """What a page that has got ``events`` shows when the loudspeaker is at ``ms``: the rule of captions.js."""
    text = ""
    starts: dict[int, float] = {}
    for event in events:
        if event["type"] in ("assistant.text", "assistant.timing"):
            text += event["data"].get("delta", "")
            starts |= dict(event["data"]["starts"])
    waiting = [character for character, start in starts.items() if start >= ms]
    return text[: min(waiting, default=len(text))]


async def stopped_after(frames: int, lag_ms: float) -> Talk:
    """A spoken answer, stopped after so many frames of 20 ms, and the answer to what is typed then."""
    talk = await start(SCRIPT)
    await talk.send("input.text", text="go on")
    await talk.hear(0.02 * frames)
    await talk.send("playback.report", epoch=1, played_ms=0, buffered_ms=lag_ms)
    await talk.send("response.cancel", reason="stop_button")
    await talk.send("input.text", text="what did I hear?", speak=False)
    await talk.hear(0.1)
    await talk.call.close("done")
    return talk


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(0, 200), lag_ms=st.sampled_from([0.0, 60.0, 700.0]))
def test_a_stop_at_any_time_cuts_captions_and_memory_at_the_same_word(frames: int, lag_ms: float) -> None:
    talk = asyncio.run(stopped_after(frames, lag_ms))
    events = talk.log.events
    done = next(event for event in events if event["type"] == "response.done")
    first = [event for event in events[: events.index(done)] if event["epoch"] == done["epoch"]]
    data = done["data"]
    heard = ANSWER[: data["heard_chars"]]
    assert shown_on(first, data["heard_ms"]) == heard
    assert talk.text.split("<")[1].split(">")[0] == heard
    if data["status"] == "completed":
        assert heard == ANSWER
    elif not data["heard_ms"]:
        assert heard == ""
    assert heard.split() == ANSWER.split()[: len(heard.split())], "no half words"


async def test_nothing_is_heard_before_the_first_sound() -> None:
    talk = await stopped_after(0, 0.0)
    done = talk.of("response.done")[0]["data"]
    assert (done["status"], done["heard_ms"], done["heard_chars"]) == ("cancelled", 0.0, 0)
    assert "<>" in talk.text


async def test_a_written_answer_is_read_as_it_comes() -> None:
    for options, speak in (({}, False), ({"speak": False}, True)):
        talk = await start(SCRIPT, options)
        await talk.send("input.text", text="go on", speak=speak)
        await talk.hear(0.04)
        await talk.send("response.cancel", reason="stop_button")
        await talk.send("input.text", text="what did I read?", speak=speak)
        await talk.hear(0.5)
        done = talk.of("response.done")[0]["data"]
        read = "".join(event["data"]["delta"] for event in talk.of("assistant.text") if event["epoch"] == 1)
        assert (done["heard_ms"], done["heard_chars"]) == (0.0, len(read))
        assert f"<{read}>" in talk.text
        assert not talk.of("assistant.timing")
        assert not any("starts" in event["data"] for event in talk.of("assistant.text"))
        await talk.call.close("done")


def test_a_word_counts_once_it_has_begun() -> None:
    spoken = SpokenText()
    assert spoken.heard_chars(0) == spoken.heard_chars(9) == 0
    spoken.add("one two three", ((0, 0), (3, 6_000), (7, 9_000)))
    assert [spoken.heard_chars(n) for n in (0, 1, 6_000, 6_001, 9_000, 9_001)] == [0, 3, 3, 7, 7, 13]
    spoken.add(" four", ((7, 12_000), (13, 15_000)))
    assert [spoken.heard_chars(n) for n in (9_001, 12_001, 99_999)] == [7, 13, 18]
    assert [spoken.start(at) for at in (0, 4, 13, 17)] == [0, 6_000, 15_000, 15_000]
    assert spoken.between(3, 13) == ((3, 6_000), (7, 12_000))


def test_pieces_are_words_or_signs() -> None:
    words = [("one", " two"), ("one ", "two"), ("你", "好"), ("ok", "好"), ("好", "ok")]
    parts = [("un", "happy"), ("four", ","), ("don", "'t"), ("好", "，"), ("3", "5")]
    assert all(begins_piece(before, text) for before, text in words)
    assert not any(begins_piece(before, text) for before, text in parts)
