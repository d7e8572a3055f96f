"""The page itself: it fits every screen, can be used by keyboard and by touch, and names everything it shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import FloatRect, Locator, expect

from tests.browser.caller import Browsers
from tests.browser.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCREENS = {"desktop": (1280, 800), "tablet": (1180, 820), "upright tablet": (820, 1180), "phone": (390, 844)}
CONTROLS = ("mute", "camera", "flip", "stop", "end", "text-input", "send")

OVERFLOW = """
() => [...document.querySelectorAll("html, .bar, .presence, .panel, .captions, .dock, .composer")]
  .filter((element) => element.scrollWidth > element.clientWidth + 1)
  .map((element) => element.className || element.tagName)
"""


@pytest.mark.parametrize("screen", SCREENS)
async def test_every_control_is_on_the_screen_uncovered_and_large_enough_to_touch(
    browsers: Browsers, scripted: Server, listener: Path, screen: str
) -> None:
    width, height = SCREENS[screen]
    async with browsers.visit(scripted.address, listener, viewport={"width": width, "height": height}) as person:
        await person.shows("state", "Ready when you are")
        for testid in ("start-video", "start-voice", "help"):
            await _fits(person[testid], width, height)
        assert await person.page.evaluate(OVERFLOW) == []
        await person.start("video")
        for testid in CONTROLS:
            await _fits(person[testid], width, height)
        for testid in ("captions", "state", "self-view"):
            await expect(person[testid]).to_be_in_viewport(ratio=0.99)
        own = await person["self-view"].bounding_box()
        for testid in (*CONTROLS, "captions"):
            assert not _overlap(own, await person[testid].bounding_box()), testid
        assert await person.page.evaluate(OVERFLOW) == []


async def test_a_message_moves_nothing(browsers: Browsers, scripted: Server) -> None:
    async with browsers.visit(scripted.address, allow=False) as person:
        await person.shows("state", "Ready when you are")
        before = await person["start-video"].bounding_box()
        await person.press("start-video")
        await expect(person["error"]).to_be_visible()
        assert await person["start-video"].bounding_box() == before


async def test_a_call_can_be_made_with_the_keyboard_alone(browsers: Browsers, scripted: Server, listener: Path) -> None:
    async with browsers.visit(scripted.address, listener) as person:
        await expect(person["start-voice"]).to_be_visible()
        keyboard = person.page.keyboard
        for _ in range(8):
            await keyboard.press("Tab")
            if await person["start-voice"].evaluate("element => element === document.activeElement"):
                break
        await keyboard.press("Enter")
        await person.state("listening")
        await expect(person["end"]).to_be_focused()
        await person["text-input"].focus()
        await keyboard.type("vm")
        await keyboard.press("Enter")
        await expect(person["mute"]).to_have_accessible_name("Mute")
        await person.state("speaking")
        await keyboard.press("Escape")
        await person.state("listening")
        await person["end"].focus()
        await keyboard.press("Enter")
        await person.state("ended")
        await expect(person["start-video"]).to_be_focused()


async def test_everything_that_can_be_pressed_has_a_name(browsers: Browsers, scripted: Server) -> None:
    async with browsers.visit(scripted.address) as person:
        nameless = await person.page.evaluate(
            """() => [...document.querySelectorAll("button, a, input, select")].filter((element) =>
                 !(element.getAttribute("aria-label") || element.textContent.trim() || element.labels?.length))
                 .map((element) => element.outerHTML)"""
        )
        assert nameless == []
        await expect(person["state"]).to_have_attribute("role", "status")
        await expect(person.page.get_by_role("alert")).to_have_count(0)


async def test_reduced_motion_leaves_the_orb_still(browsers: Browsers, scripted: Server) -> None:
    async with browsers.visit(scripted.address, reduced_motion="reduce") as person:
        await person.shows("state", "Ready when you are")
        picture = "document.querySelector('[data-testid=orb]').toDataURL()"
        first = await person.page.evaluate(picture)
        await person.page.wait_for_timeout(500)
        assert await person.page.evaluate(picture) == first


async def test_the_help_page_gives_out_the_certificate(browsers: Browsers, scripted: Server) -> None:
    async with browsers.visit(scripted.address) as person:
        await person.press("help")
        await person.page.wait_for_url("**/help")
        await expect(person.page.get_by_text("Certificate Trust Settings")).to_be_visible()
        answer = await person.page.request.get(f"{scripted.address}/ca.pem")
        assert answer.ok
        assert (await answer.text()).startswith("-----BEGIN CERTIFICATE-----")
        assert await person["ca-download"].get_attribute("href") == "/ca.pem"


async def test_nothing_is_loaded_from_elsewhere(browsers: Browsers, scripted: Server) -> None:
    async with browsers.visit("about:blank") as person:
        addresses: list[str] = []
        failed: list[str] = []
        person.page.on("request", lambda request: addresses.append(request.url))
        person.page.on("requestfailed", lambda request: failed.append(request.url))
        person.page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
        await person.page.goto(scripted.address)
        await person.shows("state", "Ready when you are")
        assert addresses
        assert all(address.startswith((scripted.address, "data:")) for address in addresses)
        assert failed == []


async def _fits(control: Locator, width: int, height: int) -> None:
    box = await control.bounding_box()
    assert box is not None, control
    assert box["width"] >= 44, control
    assert box["height"] >= 44, control
    assert box["x"] >= 0, control
    assert box["y"] >= 0, control
    assert box["x"] + box["width"] <= width, control
    assert box["y"] + box["height"] <= height, control


def _overlap(first: FloatRect | None, second: FloatRect | None) -> bool:
    assert first is not None
    assert second is not None
    across = first["x"] < second["x"] + second["width"] and second["x"] < first["x"] + first["width"]
    down = first["y"] < second["y"] + second["height"] and second["y"] < first["y"] + first["height"]
    return across and down
