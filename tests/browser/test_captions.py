"""The transcript's own rules, run in the browser that they are written for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.browser.caller import Browsers, Caller
from tests.browser.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

TRANSCRIPT = """
async (steps) => {
  const { Transcript } = await import("/static/js/captions.js");
  const transcript = new Transcript(() => {});
  for (const [method, ...values] of steps) transcript[method](...values);
  return transcript.lines;
}
"""
CHARACTERS = """
async ([starts, text, times]) => {
  const { charactersBy } = await import("/static/js/captions.js");
  return times.map((ms) => text.slice(0, charactersBy(new Map(starts), text, ms)));
}
"""
EVENTS = """
async (messages) => {
  const { EventLog } = await import("/static/js/events.js");
  const log = new EventLog();
  return messages.map((message) => log.accept(message)?.seq ?? null);
}
"""


@pytest_asyncio.fixture(loop_scope="session")
async def page(browsers: Browsers, scripted: Server) -> AsyncIterator[Caller]:
    async with browsers.visit(scripted.address) as person:
        yield person


async def test_the_rules_of_the_transcript(page: Caller) -> None:
    """One page for all: a browser takes longer to start than these take to run."""

    async def lines(*steps: list[Any]) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = await page.page.evaluate(TRANSCRIPT, list(steps))
        return result

    answer: list[list[Any]] = [
        ["begin", 3],
        ["append", 3, "Hello there,", [[0, 0], [5, 400]]],
        ["append", 3, " my friend.", [[12, 800], [15, 1_100]]],
    ]

    # Text waits for its sound, word by word.
    (line,) = await lines(*answer)
    assert (line["text"], line["shown"]) == ("Hello there, my friend.", 0)
    starts = [[0, 0], [5, 400], [12, 800], [15, 1_100]]
    times = [0, 1, 400, 401, 800, 1_100, 60_000]
    shown = await page.page.evaluate(CHARACTERS, [starts, "Hello there, my friend.", times])
    assert shown == ["", "Hello", "Hello", "Hello there,", "Hello there,", "Hello there, my", "Hello there, my friend."]
    (line,) = await lines(*answer, ["reach", 3, 900])
    assert line["text"][: line["shown"]] == "Hello there, my"

    # The server mends its times: a word that comes later waits, what is shown stays.
    late = ["time", 3, [[12, 1_500], [15, 1_900]]]
    (line,) = await lines(*answer, ["reach", 3, 500], late, ["reach", 3, 1_200])
    assert line["text"][: line["shown"]] == "Hello there,"
    (line,) = await lines(*answer, ["reach", 3, 900], late, ["reach", 3, 950])
    assert line["text"][: line["shown"]] == "Hello there, my"

    # What was heard of a cancelled answer is kept, and nothing is added to it afterwards.
    (line,) = await lines(*answer, ["finish", 3, "cancelled", 12], ["append", 3, " Late.", [[23, 1_500]]])
    assert (line["status"], line["text"][: line["heard"]]) == ("cancelled", "Hello there,")
    assert line["text"] == "Hello there, my friend."
    (line,) = await lines(*answer, ["finish", 3, "cancelled", 0])
    assert line["heard"] == 0
    (line,) = await lines(*answer, ["finish", 3, "completed", 1])
    assert line["heard"] == len(line["text"])

    # The server counts characters, not UTF-16 units.
    (line,) = await lines(["append", 1, "😀😀 ok", [[0, 0], [2, 300]]], ["reach", 1, 200])
    assert line["shown"] == 4
    (line,) = await lines(["append", 1, "😀😀 ok", [[0, 0], [2, 300]]], ["finish", 1, "cancelled", 2])
    assert line["heard"] == 4

    # Text without sound is shown as it comes; a transcript of the person replaces the drawn sound.
    (line,) = await lines(["append", 1, "Only text", None])
    assert line["shown"] == 9
    (line,) = await lines(["hear"], ["hearLevel", 0.5], ["heardAll"], ["spoken", "two six eight"])
    assert (line["side"], line["text"], line["status"]) == ("you", "two six eight", "completed")

    # Of what is read of the person, the end may change until all of it is certain.
    (line,) = await lines(["hear"], ["spoken", "two six", "two", False])
    assert (line["text"], line["heard"]) == ("two six", 3)
    (line,) = await lines(
        ["hear"], ["spoken", "two six", "two", False], ["spoken", "two sick aches", " sick", False], ["heardAll"]
    )
    assert (line["text"], line["heard"]) == ("two sick aches", 8)
    (line,) = await lines(["hear"], ["spoken", "two six", "two", False], ["spoken", "two six.", " six.", True])
    assert line["heard"] == 8

    # Turns stay apart, in their order.
    result = await lines(["hear"], ["hear"], ["heardAll"], ["typed", "And this"], *answer, ["hear"], ["close"])
    assert [line["side"] for line in result] == ["you", "you", "model", "you"]
    assert {line["status"] for line in result} == {"completed", "cancelled"}


async def test_events_are_taken_once_and_in_order(page: Caller) -> None:
    def message(seq: int, **changes: Any) -> dict[str, Any]:
        return {"v": 1, "type": "vad", "seq": seq, "t": 0, "turn": 0, "epoch": 0, "data": {}} | changes

    messages = [message(0), message(1), message(0), message(1), message(2), message(3, v=2), message(3)]
    raw = await page.page.evaluate("messages => messages.map((message) => JSON.stringify(message))", messages)
    assert await page.page.evaluate(EVENTS, [*raw, "{", "[]"]) == [0, 1, None, None, 2, None, 3, None, None]
