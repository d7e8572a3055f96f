"""Nothing of a call is lost by accident: its transcript stays until the next call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.caller import Browsers
from tests.browser.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_transcript_outlives_its_call_and_a_reload(
    browsers: Browsers, scripted: Server, listener: Path
) -> None:
    async with browsers.visit(scripted.address, listener) as person:
        await person.start("voice")
        await person.write("Keep this")
        await person.state("speaking")
        await person.shows("captions", "one")
        await person.press("end")
        await person.state("ended")
        await person.shows("captions", "Keep this")
        await expect(person["line-model"]).to_have_attribute("data-status", "cancelled")
        async with person.page.expect_download() as text:
            await person.press("save-text")
        assert "You: Keep this" in (await (await text.value).path()).read_text(encoding="utf-8")
        async with person.page.expect_download() as as_json:
            await person.press("save-json")
        file = await as_json.value
        assert file.suggested_filename.endswith(".json")
        record = json.loads((await file.path()).read_text(encoding="utf-8"))
        assert [entry["who"] for entry in record["entries"]] == ["you", "assistant"]

        await person.page.reload()
        await person.shows("captions", "Keep this")
        await person.start("voice")
        await expect(person.page.locator(".line")).to_have_count(0)


async def test_what_to_say_is_suggested_and_a_tap_writes_it(
    browsers: Browsers, scripted: Server, listener: Path
) -> None:
    async with browsers.visit(scripted.address, listener) as person:
        ready = await (await person.page.request.get(f"{scripted.address}/ready")).json()
        examples = person["examples"].locator("li")
        await expect(examples).to_have_text(ready["examples"])
        assert 3 <= len(ready["examples"]) <= 6
        await person.start("voice")
        assert (await person.events("welcome"))[0]["data"]["engine"]["examples"] == ready["examples"]
        await person["captions"].get_by_role("button", name=ready["examples"][0]).click()
        await expect(person["line-you"]).to_contain_text(ready["examples"][0])
        assert [event["data"]["text"] for event in await person.sent("input.text")] == ready["examples"][:1]
