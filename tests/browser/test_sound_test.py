"""The button of the settings sheet that plays a chime and says what the microphone hears of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.caller import PATIENCE_MS, Browsers
from tests.browser.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

RESULT = """
async (data) => {
  const { store } = await import("/static/js/main.js");
  const { measured } = await import("/static/js/sound_test.js");
  store.set({ soundTest: measured(data) });
}
"""
"""What the page makes of a result that no silent microphone gives."""


async def test_the_sound_can_be_tested_when_nobody_speaks(browsers: Browsers, scripted: Server, listener: Path) -> None:
    async with browsers.visit(scripted.address, listener) as person:
        await person.press("settings")
        await expect(person["sound-test"]).to_be_hidden()
        await person.press("settings-done")
        await person.start("voice")
        await person.write("Hello?")
        await person.state("speaking")
        await person.press("settings")
        await person.press("sound-test")
        await person.shows("sound-note", "Wait for the end of the answer")
        await person.press("settings-done")
        await person.press("stop")
        await person.state("listening")

        await person.press("settings")
        await person.press("sound-test")
        await expect(person["sound-test"]).to_be_disabled()
        await person.hears()
        (result,) = await person.events("echo.result")
        assert result["data"] == {"delay_ms": None, "leak_db": None, "policy": "full"}
        await person.shows("sound-note", "All is well")
        await expect(person["sound-test"]).to_be_enabled()
        await expect(person["sound-talk"]).to_be_hidden()


async def test_push_to_talk_is_one_press_away_where_it_is_advised(
    browsers: Browsers, scripted: Server, listener: Path
) -> None:
    async with browsers.visit(scripted.address, listener) as person:
        await person.start("voice")
        await person.press("settings")
        await person.page.evaluate(RESULT, {"delay_ms": 120, "leak_db": -12.0, "policy": "careful"})
        await person.shows("sound-note", "lower the volume")
        await expect(person["sound-talk"]).to_be_hidden()
        await person.page.evaluate(RESULT, {"delay_ms": 120, "leak_db": -1.0, "policy": "push_to_talk"})
        await person.shows("sound-note", "Use headphones or push to talk")
        await person.press("sound-talk")
        (updated,) = await person.events("session.updated")
        assert updated["data"]["config"]["turn"]["detection"] == "push_to_talk"
        await expect(person["pushToTalk"]).to_be_checked()
        await expect(person["sound-test"]).to_be_disabled(timeout=PATIENCE_MS)
        await person.shows("sound-note", "Not needed with push to talk")
