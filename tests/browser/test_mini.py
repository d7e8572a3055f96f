"""The call as it is shipped: the default engine, the model at its mini size, on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.caller import Browsers
from tests.browser.conftest import ServerFactory

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_model_answers_a_spoken_turn_with_text_and_sound(
    browsers: Browsers, start_server: ServerFactory, talker: Path, camera: Path
) -> None:
    server = start_server("--max-calls", "1")
    async with browsers.visit(server.address, talker, camera) as person:
        ready = await (await person.page.request.get(f"{server.address}/ready")).json()
        await person.shows("engine", ready["name"])
        await expect(person["untrained"]).to_be_visible(visible=not ready["trained"])
        await person.start("video")
        assert (await person.events("frame.used"))[0]["data"]["unit"] >= 1
        assert (await person.events("context"))[0]["data"]["used"] > 0
        await person.events("response.started")
        assert (await person.events("assistant.text"))[0]["data"]["delta"]
        await person.state("speaking")
        await person.hears()
        await expect(person["line-model"].first).to_be_visible()
        await person.press("end")
        await person.state("ended")
        await expect(person["error"]).to_be_hidden()


async def test_what_the_model_was_told_is_remembered_after_a_reload(
    browsers: Browsers, start_server: ServerFactory, listener: Path
) -> None:
    server = start_server("--max-calls", "1")
    async with browsers.visit(server.address, listener) as person:
        await person.start("voice")
        await person.write("my name is anna")
        await person.events("response.done")
        await person.page.reload()
        await person.events("welcome")
        await person.shows("captions", "my name is anna")
        await person.write("What is my name?")
        await person.events("response.done")
        await expect(person["line-model"]).to_have_count(2)
        await expect(person["line-model"].last).to_contain_text("Anna")
