"""Rules of the page that need no call, run in the browser that they are written for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.browser.caller import Browsers, Caller
from tests.browser.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

WORDS = """
async () => {
  const { describe } = await import("/static/js/view/words.js");
  const { initialState } = await import("/static/js/state.js");
  const shown = [];
  for (const phase of ["start", "asking", "warming", "queued", "connecting", "live", "reconnecting", "resuming",
                       "left", "moved", "ended"])
    for (const turn of ["idle", "listening", "hearing", "thinking", "speaking", "interrupted", "paused", "away"])
      for (const silent of ["", "muted", "held", "lost"])
        for (const camera of [false, true])
          for (const tapToHear of [false, true]) {
            const state = { ...initialState(), phase, turn, silent, camera, tapToHear };
            shown.push({ phase, said: turn, silent, tapToHear, ...describe(state) });
          }
  return shown;
}
"""
UPLINK = """
async (steps) => {
  const { Uplink } = await import("/static/js/uplink.js");
  let now = 0;
  const uplink = new Uplink(() => now);
  const lost = [];
  for (const [at, method, ...values] of steps) {
    now = at;
    const answer = uplink[method](...values);
    if (method === "mark") lost.push(Math.round(answer * 10) / 10);
  }
  return lost;
}
"""
RECORD = """
async () => {
  const { CallRecord } = await import("/static/js/record.js");
  const { Transcript } = await import("/static/js/captions.js");
  const record = new CallRecord("mini");
  const transcript = new Transcript((line) => record.keep(line));
  transcript.hear();
  for (let i = 0; i < 12; i++) transcript.hearLevel(0.123456);
  transcript.heardAll();
  transcript.begin(1);
  transcript.append(1, "You said two.", [[0, 0], [4, 200], [9, 400]]);
  transcript.finish(1, "cancelled", 8);
  transcript.hear();
  transcript.heardAll();
  transcript.spoken("six eight");
  transcript.typed("And this");
  record.remark("Something was lost.");
  record.save();
  const again = CallRecord.restore();
  return [record.text(), record.json(), again.json(), sessionStorage.getItem("omni-call.transcript")];
}
"""


@pytest_asyncio.fixture(loop_scope="session")
async def page(browsers: Browsers, scripted: Server) -> AsyncIterator[Caller]:
    async with browsers.visit(scripted.address) as person:
        yield person


async def test_the_page_never_says_two_things_that_cannot_be_true_together(page: Caller) -> None:
    shown: list[dict[str, Any]] = await page.page.evaluate(WORDS)
    for each in shown:
        live, words = each["phase"] == "live", f"{each['word']}. {each['hint']}"
        assert each["word"], each
        if each["silent"] or not live:  # nothing can be heard, so nothing claims to listen
            assert each["word"] not in ("Hearing you", "Listening", "Interrupted", "Are you there?"), each
            assert each["turn"] not in ("hearing", "interrupted", "away"), each
            assert "Just speak" not in words, each
        if not (live and each["silent"] == "muted"):
            assert "muted" not in words, each
            assert "Your microphone is off" not in words, each
        if not live:
            assert each["word"] not in ("Thinking", "Speaking", "Paused"), each
            assert each["turn"] == "idle", each
        assert not ("off until then" in words and each["phase"] != "queued"), each
        if live and each["said"] == "speaking" and each["tapToHear"]:
            assert "tap" in each["hint"], each


async def test_lost_words_are_counted_by_media_time_and_by_what_was_loud(page: Caller) -> None:
    async def lost(*steps: list[Any]) -> list[float]:
        result: list[float] = await page.page.evaluate(UPLINK, list(steps))
        return result

    def speech(begin: int, end: int) -> list[list[Any]]:
        return [[at, "hear", 0.6] for at in range(begin, end, 100)]

    before: list[list[Any]] = [[0, "mark", 10.0], *speech(0, 1000), [1000, "mark", 11.0]]
    gap: list[list[Any]] = [[3000, "lose", 1500], [4000, "regain"]]

    # Three seconds were spoken into a gap of 2.5 s, of which media time has nothing.
    assert await lost(*before, *speech(1000, 4000), *gap, [5100, "mark", 12.6]) == [0, 0, 2.4]
    # What comes late out of the server's queue says nothing yet, and a gap is told once.
    assert await lost(*before, *speech(1000, 4000), *gap, [4100, "mark", 11.0], [5200, "mark", 12.7], [6000, "mark", 13.5]) == [0, 0, 0, 2.4, 0]  # fmt: skip # noqa: E501
    # Nobody spoke; the sound arrived after all; speech before the gap and after it is not counted.
    assert await lost(*before, *gap, [5100, "mark", 12.6]) == [0, 0, 0]
    assert await lost(*before, *speech(1000, 4000), *gap, [5100, "mark", 15.1]) == [0, 0, 0]
    assert await lost(*before, *speech(1000, 1500), *gap, *speech(4100, 5000), [5100, "mark", 12.6]) == [0, 0, 0]


async def test_a_transcript_is_kept_as_text_and_as_json(page: Caller) -> None:
    text, as_json, again, stored = await page.page.evaluate(RECORD)
    assert text.startswith("Omni Call with mini, ")
    assert "[0:00] You: (spoke for 1.2 s)\n\n[0:00] Assistant: You said [not heard: two.]\n\n" in text
    assert "You: six eight\n\n[0:00] You: And this\n\n[0:00] (Something was lost.)\n" in text
    record = json.loads(as_json)
    assert (record["format"], record["model"]) == (1, "mini")
    entries = [{key: value for key, value in entry.items() if key != "at_s"} for entry in record["entries"]]
    assert entries == [
        {"who": "you", "how": "spoken", "text": None, "spoken_s": 1.2},
        {"who": "assistant", "text": "You said two.", "heard": "You said", "status": "cancelled"},
        {"who": "you", "how": "spoken", "text": "six eight", "spoken_s": 0},
        {"who": "you", "how": "typed", "text": "And this"},
        {"who": "page", "text": "Something was lost."},
    ]
    assert json.loads(again) == record
    assert "0.123" not in stored
