"""The page itself: it fits every screen, can be used by keyboard and by touch, and names everything it shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import FloatRect, expect

from tests.browser.caller import Browsers
from tests.browser.server import LONG_ANSWER, Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCREENS = {
    "desktop": (1440, 900),
    "desktop at 200 %": (720, 450),
    "tablet": (1366, 1024),
    "upright tablet": (1024, 1366),
    "small upright tablet": (820, 1180),
    "phone": (390, 844),
    "phone on its side": (667, 375),
    "small window": (640, 400),
    "small phone": (320, 568),
}
KEYBOARD = {"small phone with its keyboard": (320, 310)}
"""CSS pixels. A page at 200 % has half as many of them each way."""

CAMERA_LOST = "The camera stopped, so the call goes on by voice. Press the camera button to start it again."
SHOW_ERROR = """
async (message) => {
  const { store } = await import("/static/js/main.js");
  store.set({ error: message && { code: "camera_lost", message, retry: false } });
}
"""
CONTROLS = ("mute", "camera", "flip", "stop", "end", "settings", "text-input", "send")

OVERFLOW = """
() => [...document.querySelectorAll("html, .bar, .presence, .panel, .captions, .dock, .composer")]
  .filter((element) => element.scrollWidth > element.clientWidth + 1)
  .map((element) => element.className || element.tagName)
"""


async def test_the_first_screen_can_be_reached_whole_on_every_screen(browsers: Browsers, scripted: Server) -> None:
    async with browsers.visit(scripted.address) as person:
        await person.shows("state", "Ready when you are")
        for screen, (width, height) in SCREENS.items():
            await person.resize(width, height)
            for testid in ("start-video", "start-voice", "settings", "help"):
                await person.fits(testid, width, height)
            for part in (".welcome .examples li", ".note", ".privacy"):
                await person.page.locator(part).last.scroll_into_view_if_needed()
                await expect(person.page.locator(part).last).to_be_in_viewport(ratio=0.99)
            await person["start-video"].scroll_into_view_if_needed()
            assert await person.page.evaluate(OVERFLOW) == [], screen


async def test_every_control_is_on_the_screen_uncovered_and_large_enough_to_touch(
    browsers: Browsers, scripted: Server, listener: Path
) -> None:
    async with browsers.visit(scripted.address, listener) as person:
        await person.start("video")
        await person.write("Tell me something long.")
        await person.shows("captions", LONG_ANSWER.split()[0])
        for message in (None, CAMERA_LOST):
            await person.page.evaluate(SHOW_ERROR, message)
            for screen, (width, height) in (SCREENS if message else SCREENS | KEYBOARD).items():
                await person.resize(width, height)
                for testid in CONTROLS:
                    await person.fits(testid, width, height)
                for testid in ("captions", "state", "self-view"):
                    await expect(person[testid]).to_be_in_viewport(ratio=0.99)
                boxes = {testid: await person[testid].bounding_box() for testid in (*CONTROLS, "captions", "self-view")}
                for testid in (*CONTROLS, "captions"):
                    assert not _overlap(boxes["self-view"], boxes[testid]), (screen, testid)
                if message:
                    await person.fits("error-close", width, height)
                    banner = await person.page.locator("#error").bounding_box()
                    for testid, box in boxes.items():
                        assert not _overlap(banner, box), (screen, testid)
                assert await person.page.evaluate(OVERFLOW) == [], screen


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
            """() => [...document.querySelectorAll("button, a, input, select, textarea")].filter((element) =>
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


def _overlap(first: FloatRect | None, second: FloatRect | None) -> bool:
    assert first is not None
    assert second is not None
    across = first["x"] < second["x"] + second["width"] and second["x"] < first["x"] + first["width"]
    down = first["y"] < second["y"] + second["height"] and second["y"] < first["y"] + first["height"]
    return across and down
