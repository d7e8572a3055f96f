"""A server with a key: a link lets in, a typed key lets in, a wrong one is told so, and the key leaves the address."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.caller import Browsers
from tests.browser.conftest import ServerFactory
from tests.browser.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCREENS = ((1440, 900), (1024, 1366), (390, 844), (320, 480))


@pytest.fixture(scope="module")
def locked(start_server: ServerFactory) -> Server:
    return start_server("--engine", "scripted", "--key", "auto")


def key_of(server: Server) -> str:
    found = re.search(r"#key=(\S+)", server.text)
    assert found
    return found[1]


async def test_a_link_with_the_key_leads_into_a_call(browsers: Browsers, locked: Server, listener: Path) -> None:
    async with browsers.visit(f"{locked.address}/#key={key_of(locked)}", listener) as person:
        await person.shows("state", "Ready when you are")
        assert person.page.url == f"{locked.address}/"
        assert await person.page.evaluate("document.cookie") == ""
        await person.start("voice")
        await person.press("end")
        await person.state("ended")
        await person.page.goto(f"{locked.address}/help")
        await expect(person["ca-download"]).to_be_visible()
        await person.page.goto(f"{locked.address}/#key={key_of(locked)}")  # once more: it leaves the address again
        await person.page.wait_for_url(f"{locked.address}/")
        await person.shows("state", "Ready when you are")


async def test_a_key_can_be_typed_or_pasted_with_its_link(browsers: Browsers, locked: Server) -> None:
    for text in (key_of(locked), f"{locked.address}/#key={key_of(locked)}"):
        async with browsers.visit(locked.address) as person:
            await expect(person["key-input"]).to_be_focused()
            await person["key-input"].fill("not the key")
            await person.press("key-enter")
            await person.shows("key-error", "This is not the key")
            await person["key-input"].fill(text)
            await person.page.keyboard.press("Enter")
            await person.shows("state", "Ready when you are")


async def test_a_link_on_the_help_page_lets_in_and_leaves_no_trace(browsers: Browsers, locked: Server) -> None:
    async with browsers.visit(f"{locked.address}/help#key={key_of(locked)}") as person:
        await person.page.wait_for_url(f"{locked.address}/help")
        await person.page.wait_for_function("document.body.dataset.key === undefined")
        await person.page.get_by_role("link", name="open the call").click()
        await person.shows("state", "Ready when you are")


async def test_a_link_on_another_site_finds_the_cookie(browsers: Browsers, locked: Server) -> None:
    async with browsers.visit(f"{locked.address}/#key={key_of(locked)}") as person:
        await person.shows("state", "Ready when you are")
        await person.page.goto(f"data:text/html,<a href='{locked.address}/'>the call</a>")
        await person.page.get_by_role("link").click()
        await person.shows("state", "Ready when you are")


async def test_a_server_that_forgot_the_cookie_asks_for_the_key(browsers: Browsers, locked: Server) -> None:
    async with browsers.visit(f"{locked.address}/#key={key_of(locked)}") as person:
        await person.shows("state", "Ready when you are")
        await person.page.context.clear_cookies()
        await person["key-input"].wait_for()  # the page looks after the server every ten seconds


@pytest.mark.parametrize("size", SCREENS)
async def test_the_pages_fit(browsers: Browsers, locked: Server, size: tuple[int, int]) -> None:
    viewport = {"width": size[0], "height": size[1]}
    for path in ("", "/help"):
        async with browsers.visit(locked.address + path, viewport=viewport) as person:
            assert await person.page.evaluate("document.documentElement.scrollWidth") <= size[0]
            if not path:
                for testid in ("key-input", "key-enter"):
                    box = await person[testid].bounding_box()
                    assert box is not None
                    assert box["height"] >= 44
                    assert box["x"] + box["width"] <= size[0]
