"""A page in front of which nobody says anything, in headless Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.caller import PATIENCE_MS, Browsers
from tests.browser.conftest import ServerFactory

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_forgotten_page_asks_who_is_there_and_counts_down_and_a_press_of_the_button_keeps_the_call(
    browsers: Browsers, start_server: ServerFactory, listener: Path
) -> None:
    server = start_server("--engine", "scripted", "--away-after-s", "2", "--idle-end-s", "16")
    async with browsers.visit(server.address, listener) as person:
        await person.start("voice")
        await person.state("away")
        await person.shows("hint", "Just speak")
        await expect(person["ending"]).to_be_hidden()
        await person.shows("ending", "It has been quiet for a while")
        await expect(person["ending-time"]).to_have_text("0:05", timeout=PATIENCE_MS)
        await person.press("stay")
        await expect(person["ending"]).to_be_hidden()
        await person.state("listening")
        assert [event["data"] for event in await person.events("session.ending_withdrawn")] == [{"reason": "idle"}]

        await person.shows("ending", "It has been quiet for a while")  # the next silence
        await person["text-input"].fill("I am")  # a key is enough
        await expect(person["ending"]).to_be_hidden()

        await person.state("ended")
        await person.shows("error", "Nothing was said for a long while")
        await expect(person["ending"]).to_be_hidden()
        await expect(person["error-action"]).to_be_visible()
        assert person.complaints == []


async def test_the_end_of_a_calls_time_is_counted_down_and_cannot_be_prevented(
    browsers: Browsers, start_server: ServerFactory, listener: Path
) -> None:
    server = start_server("--engine", "scripted", "--max-call-s", "16")
    async with browsers.visit(server.address, listener) as person:
        await person.start("voice")
        await person.shows("ending", "A call may last no longer on this server")
        await expect(person["stay"]).to_be_hidden()
        await expect(person["ending-time"]).to_have_text("0:03", timeout=PATIENCE_MS)
        await person.state("ended")
        await person.shows("error", "as long as this server allows")


async def test_a_word_of_the_models_own_needs_no_line_of_the_persons(
    browsers: Browsers, start_server: ServerFactory, listener: Path
) -> None:
    server = start_server("--engine", "scripted", "--prompt-after-s", "2")
    async with browsers.visit(server.address, listener) as person:
        await person.start("voice")
        assert (await person.events("response.started"))[0]["data"]["reason"] == "silence"
        await person.hears()
        await expect(person["line-model"]).to_have_count(1, timeout=PATIENCE_MS)
        await expect(person["line-you"]).to_have_count(0)
