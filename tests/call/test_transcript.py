"""What the engine reads of the person's words, as the client is told of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.serving.scripted import Script
from tests.call.talk import QUIET, Talk, start
from tests.speechlike import speechlike

WORDS = ("What", " is your", " name?", " Really?")


def transcripts(talk: Talk) -> list[dict[str, Any]]:
    return [dict(event["data"]) for event in talk.of("user.transcript")]


async def test_words_are_told_as_they_become_certain_and_whole_at_the_end() -> None:
    talk = await start(Script(words=WORDS))
    for sound in (QUIET, speechlike(2.4), 4.0):
        await talk.hear(sound)
    told = transcripts(talk)
    assert [(each["text"], each["delta"]) for each in told] == [
        ("What", ""),
        ("What is your", "What"),
        ("What is your name?", " is your"),
        ("What is your name?", " name?"),
    ]
    assert [each["final"] for each in told] == [False, False, False, True]
    kinds = [event["type"] for event in talk.log.events]
    last = len(kinds) - 1 - kinds[::-1].index("user.transcript")
    assert last < kinds.index("response.started")
    assert {event["turn"] for event in talk.of("user.transcript")} == {1}
    await talk.call.close("done")


async def test_a_pause_shows_nothing_of_what_was_read_on_trial() -> None:
    quiet = await start(Script(words=WORDS))
    pause = np.concatenate([speechlike(1.2), np.zeros(16_000 // 4, np.int16), speechlike(1.2)])
    for sound in (QUIET, pause, 4.0):
        await quiet.hear(sound)
    quiet.call.metrics({})
    assert quiet.wire[-1]["data"]["drafts_dropped"] > 0
    told = transcripts(quiet)
    assert "".join(each["delta"] for each in told) == told[-1]["text"]
    assert [each["final"] for each in told] == [False] * (len(told) - 1) + [True]
    await quiet.call.close("done")


async def test_every_turn_has_its_own_words_and_a_slow_engine_tells_them_of_their_turn() -> None:
    talk = await start(Script(words=WORDS, prefill_s=0.05, answers=("yes",)))
    for sound in (QUIET, speechlike(1.4), 3.0, speechlike(1.4), 3.0):
        await talk.hear(sound)
    await talk.call.idle()
    finals = [event for event in talk.of("user.transcript") if event["data"]["final"]]
    assert [event["turn"] for event in finals] == [1, 2]
    assert [event["data"]["text"] for event in finals] == ["What is your"] * 2
    await talk.call.close("done")


async def test_an_engine_that_does_not_read_tells_nothing() -> None:
    talk = await start(Script())
    for sound in (QUIET, speechlike(1.4), 3.0):
        await talk.hear(sound)
    assert transcripts(talk) == []
    await talk.call.close("done")
