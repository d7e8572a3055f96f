"""A call outlives its page: loaded again, left and reopened, or opened a second time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.caller import Browsers, Caller
from tests.browser.conftest import ServerFactory
from tests.browser.server import Server
from tests.browser.wire import Wire

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOKEN = "JSON.parse(sessionStorage.getItem('omni-call.call'))"

UNKNOWN_PERMISSIONS = "navigator.permissions.query = () => Promise.reject(new TypeError('unknown'))"
"""As in a browser that asks again for the microphone after every load."""
REFUSE_ONCE = """() => {
  const media = navigator.mediaDevices;
  const ask = media.getUserMedia;
  media.getUserMedia = async () => {
    media.getUserMedia = ask;
    throw new DOMException("", "NotAllowedError");
  };
}"""


async def duplicate(person: Caller) -> Caller:
    """Another tab with a copy of this one's session storage, as the browser makes it for a duplicated tab."""
    stored = await person.page.evaluate("JSON.stringify({...sessionStorage})")
    page = await person.page.context.new_page()
    await page.add_init_script(f"if (!sessionStorage.length) Object.assign(sessionStorage, {stored})")
    await page.goto(person.page.url)
    return Caller(page)


async def test_a_reload_goes_back_to_the_same_call_with_its_transcript_and_its_answer(
    browsers: Browsers, scripted: Server, listener: Path
) -> None:
    async with browsers.visit(scripted.address, listener) as person:
        await person.start("voice")
        session = (await person.events("welcome"))[0]["data"]["session"]
        await person.write("Keep this")
        await person.state("speaking")
        await person.hears()
        await person.shows("captions", "one and")
        before = await person["line-model"].locator(".heard").inner_text()

        begin = time.monotonic()
        await person.page.reload()
        (welcome,) = await person.events("welcome")
        await person.state("speaking")
        await person.hears()
        print(f"sound again {time.monotonic() - begin:.1f} s after the reload")
        assert (welcome["data"]["session"], welcome["data"]["resumed"]) == (session, True)
        assert welcome["data"]["answer"]["played_ms"] > 0
        lines = person.page.locator(".line")
        await expect(lines).to_have_count(2)
        await expect(lines.first).to_contain_text("Keep this")
        await expect(person["line-model"]).to_have_attribute("data-status", "open")
        heard = person["line-model"].locator(".heard")
        assert (await heard.inner_text()).startswith(before.strip())
        await expect(heard).to_contain_text("four")  # the answer goes on
        assert await person.events("response.started", at_least=0) == []

        await person.write("And this")
        await expect(person["line-model"]).to_have_count(2)
        await expect(person["line-model"].first).not_to_have_attribute("data-status", "open")
        assert person.complaints == []
        await person.press("end")
        await person.state("ended")
        assert await person.page.evaluate("sessionStorage.getItem('omni-call.call')") is None
        await person.page.reload()
        await person.state("ended")
        await person.shows("captions", "And this")


async def test_somebody_who_was_muted_is_muted_after_the_reload(
    browsers: Browsers, scripted: Server, listener: Path
) -> None:
    async with browsers.visit(scripted.address, listener) as person:
        await person.start("voice")
        await person.press("mute")
        await person.page.reload()
        await person.events("welcome")
        await expect(person["mute"]).to_have_attribute("aria-pressed", "true")
        assert [message["data"]["muted"] for message in await person.sent("mic.state")] == [True]


async def test_the_token_is_in_the_tab_alone(browsers: Browsers, scripted: Server, listener: Path) -> None:
    asked: list[str] = []
    async with browsers.visit(scripted.address, listener) as person:
        person.page.on("request", lambda request: asked.append(request.url))
        await person.start("voice")
        await person.page.wait_for_function(f"() => {TOKEN}?.callId")
        token = await person.page.evaluate(f"{TOKEN}.resumeToken")
        await person.page.reload()
        await person.events("welcome")
        assert len(token) >= 32
        assert [url for url in [*asked, person.page.url] if token in url] == []
        assert token not in await person.page.evaluate("JSON.stringify(localStorage) + document.cookie")
        assert token not in scripted.text
        assert token not in str(await person.page.evaluate("window.observed.sent"))


async def test_a_browser_that_asks_again_for_the_microphone_gets_a_button_first(
    browsers: Browsers, start_server: ServerFactory, listener: Path
) -> None:
    server = start_server("--engine", "scripted", "--grace-s", "600")
    async with browsers.visit(server.address, listener, script=UNKNOWN_PERMISSIONS) as person:
        await person.start("voice")
        await person.write("Keep this")
        await person.events("response.done")
        await person.page.reload()
        await person.state("left")
        await person.shows("captions", "Keep this")
        await expect(person["start-voice"]).to_be_hidden()
        await expect(person["go-back"]).to_be_focused()
        assert await person.page.evaluate("window.observed.microphones") == 0
        await person.page.evaluate(REFUSE_ONCE)
        await person.press("go-back")
        await person.shows("error", "Allow both for this site")
        await person.state("left")
        await person.press("error-action")
        await person.state("listening")
        assert (await person.events("welcome"))[0]["data"]["resumed"] is True

        await person.page.reload()
        await person.state("left")
        await person.press("leave")
        await person.state("ended")
        ready = await (await person.page.request.get(f"{server.address}/ready")).json()
        assert ready["calls"] == 0


async def test_a_page_that_comes_back_too_late_keeps_the_transcript_and_says_why(
    browsers: Browsers, start_server: ServerFactory, listener: Path
) -> None:
    server = start_server("--engine", "scripted", "--grace-s", "2")
    async with browsers.visit(server.address, listener, script=UNKNOWN_PERMISSIONS) as person:
        await person.start("voice")
        await person.write("Keep this")
        await person.events("response.done")
        await person.page.reload()
        await person.state("ended")
        await person.shows("captions", "Keep this")
        await expect(person["start-voice"]).to_be_visible()


async def test_of_two_tabs_the_newest_has_the_call_and_the_other_can_take_it_back(
    browsers: Browsers, scripted: Server, listener: Path
) -> None:
    async with browsers.visit(scripted.address, listener) as person:
        await person.start("voice")
        await person.write("From the first tab")
        await person.state("speaking")
        await person.page.wait_for_function(f"() => {TOKEN}?.lastIn > 0")
        other = await duplicate(person)
        await other.state("speaking")
        await other.shows("captions", "From the first tab")

        await person.state("moved")
        await person.shows("state", "Another tab or window has your call now")
        peers = "window.observed.peers.map((peer) => peer.connectionState)"
        assert set(await person.page.evaluate(peers)) == {"closed"}
        tracks = await person.page.evaluate("document.getElementById('self-video').srcObject?.getTracks().length ?? 0")
        assert tracks == 0
        await other.write("From the second tab")
        await other.events("response.started")

        # It does not try again by itself, nor when it is loaded again.
        await person.page.evaluate("window.dispatchEvent(new Event('online'))")
        await person.page.reload()
        await person.state("moved")
        await person.page.wait_for_timeout(1_500)
        assert await person.page.evaluate("window.observed.peers.length") == 0
        assert await other.events("session.moved", at_least=0) == []

        await person.press("go-back")
        await other.state("moved")
        await person.state("speaking", "listening")
        yours = person.page.locator(".line[data-side=you]")
        await expect(yours).to_have_text(["YouwroteFrom the first tab", "YouwroteFrom the second tab"])
        await expect(person["line-model"]).to_have_count(2)
        await other.press("leave")
        await other.state("ended")
        await person.write("Still here")
        await expect(yours).to_have_count(3)
        assert other.faults == []


async def test_a_tab_that_slept_while_another_took_its_call_does_not_take_it_back(
    browsers: Browsers, scripted: Server, listener: Path
) -> None:
    async with browsers.visit(scripted.address, listener) as person:
        await person.start("voice")
        await person.page.wait_for_function(f"() => {TOKEN}?.callId")
        await person.page.evaluate("window.observed.peers.at(-1).ondatachannel = null")
        await person.page.evaluate("window.observed.peers.at(-1).close()")  # its network is gone: it hears of nothing
        await person.page.route("**/restart", lambda route: route.abort())
        other = await duplicate(person)
        await other.state("listening")
        await person.page.unroute("**/restart")
        await person.state("moved")
        await expect(other["state"]).to_have_attribute("data-state", "listening")


async def test_a_changed_network_is_noticed_without_waiting(
    browsers: Browsers, scripted: Server, listener: Path
) -> None:
    """The connection falls silent, and the browser says that something has changed."""
    async with browsers.visit(scripted.address, listener) as person:
        wire = await Wire().lay(person.page)
        await person.start("voice")
        for hint in (
            "window.dispatchEvent(new Event('online'))",
            "document.dispatchEvent(new Event('visibilitychange'))",
        ):
            peers = await person.page.evaluate("window.observed.peers.length")
            await person.page.evaluate(hint)
            await person.page.wait_for_timeout(1_500)
            assert await person.page.evaluate("window.observed.peers.length") == peers, "nothing was wrong"
            wire.cut = True
            before = await person.page.evaluate("performance.now()")
            await person.page.evaluate(hint)
            await person.page.wait_for_function("count => window.observed.peers.length > count", arg=peers)
            print(f"restarted {await person.page.evaluate('performance.now()') - before:.0f} ms after the hint")
            wire.cut = False
            await person.state("listening")
        wire.close()
