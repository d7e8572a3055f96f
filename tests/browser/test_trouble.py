"""What can go wrong, and that the page says what to do about it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from playwright.async_api import Route, expect

from tests.browser.caller import OBSERVE, Browsers, Caller
from tests.browser.conftest import ServerFactory
from tests.browser.server import Server
from tests.browser.wire import Wire

pytestmark = pytest.mark.asyncio(loop_scope="session")

REJECT = "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', '{}'))"
UNKNOWN_CALL = {"error": {"code": "unknown_call", "message": "There is no such call."}}


async def test_a_refused_permission_says_where_to_allow_it(browsers: Browsers, scripted: Server) -> None:
    async with browsers.visit(scripted.address, allow=False) as person:
        await person.press("start-video")
        await person.shows("error", "Allow both for this site")
        await expect(person["error-action"]).to_have_text("Try again")
        await expect(person["start-video"]).to_be_visible()


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("Object.defineProperty(window, 'isSecureContext', { value: false })", "Open this page with https://"),
        ("delete window.RTCPeerConnection", "Use a current Safari, Chrome, Edge or Firefox"),
        (REJECT.format("NotFoundError"), "No microphone was found"),
        (REJECT.format("NotReadableError"), "in use by another program"),
    ],
    ids=["insecure origin", "no WebRTC", "no device", "busy device"],
)
async def test_a_browser_that_cannot_call_is_told_why(
    browsers: Browsers, scripted: Server, missing: str, sentence: str
) -> None:
    async with browsers.visit(scripted.address, script=missing) as person:
        await person.press("start-video")
        await person.shows("error", sentence)


async def test_a_full_server_keeps_a_place_in_line_and_the_call_begins_by_itself(
    browsers: Browsers, start_server: ServerFactory, listener: Path
) -> None:
    server = start_server("--engine", "scripted", "--max-calls", "1", "--grace-s", "1")
    async with browsers.visit(server.address, listener) as first:
        await first.start("voice")
        second = await _another(first)
        await second.press("start-voice")
        await second.state("queued")
        await second.shows("state", "You are next")
        await second.shows("hint", "your microphone is off until then")
        await expect(second["examples"]).to_be_visible()
        await expect(second["error"]).to_be_hidden()
        assert await second.page.evaluate("window.observed.microphones") == 0
        await first.page.goto("about:blank")
        await second.state("listening")
        assert await second.page.evaluate("window.observed.microphones") == 1


async def test_somebody_who_waits_in_line_can_leave_it(
    browsers: Browsers, start_server: ServerFactory, listener: Path
) -> None:
    server = start_server("--engine", "scripted", "--max-calls", "1")
    async with browsers.visit(server.address, listener) as first:
        await first.start("voice")
        second = await _another(first)
        await second.press("start-voice")
        await second.state("queued")
        await expect(second["end"]).to_have_accessible_name("Leave the line")
        await second.press("end")
        await second.state("idle")
        await expect(second["start-video"]).to_be_focused()
        assert second.complaints == []


async def test_a_network_that_goes_and_comes_resumes_the_same_call(
    browsers: Browsers, scripted: Server, listener: Path
) -> None:
    async with browsers.visit(scripted.address, listener) as person:
        wire = await Wire().lay(person.page)
        await person.start("voice")
        await person.write("Before")
        await person.state("speaking")
        wire.cut = True
        await person.state("reconnecting")
        await person.page.wait_for_function("() => window.observed.peers.length > 1")
        wire.cut = False
        welcomes = await person.events("welcome", at_least=2)
        assert welcomes[0]["data"]["session"] == welcomes[1]["data"]["session"]
        await person.state("listening", "speaking")
        await expect(person["error"]).to_be_hidden()
        await person.write("After")
        await person.events("response.started", at_least=2)
        await person.state("speaking")
        await person.hears()
        lines = person.page.locator(".line[data-side=you]")
        assert await lines.all_text_contents() == ["YouwroteBefore", "YouwroteAfter"]
        await expect(person["remark"]).to_have_count(0)  # nothing was said meanwhile
        wire.close()


async def test_words_that_were_lost_with_the_connection_are_owned_up_to(
    browsers: Browsers, scripted: Server, chatterer: Path
) -> None:
    async with browsers.visit(scripted.address, chatterer) as person:
        wire = await Wire().lay(person.page)
        await person.start("voice")
        await person.events("metrics", at_least=2)
        wire.cut = True
        await person.state("reconnecting")
        await person.page.wait_for_timeout(1_000)
        wire.cut = False
        await person.shows("remark", "did not reach the model")
        await person.shows("notice", "say it again")
        await person.state("listening", "hearing", "thinking", "speaking", "interrupted")
        assert person.complaints == []
        wire.close()


async def test_hanging_up_without_a_connection_leaves_no_error_behind(
    browsers: Browsers, scripted: Server, listener: Path
) -> None:
    async with browsers.visit(scripted.address, listener) as person:
        wire = await Wire().lay(person.page)
        await person.start("voice")
        wire.cut = True
        for attempts in (1, 2):  # while the old connection may still heal, and while a new one is being built
            await person.state("reconnecting")
            await person.page.wait_for_function("() => window.observed.peers.length >= 1")
            await person.press("end")
            await person.state("ended")
            wire.cut = False
            if attempts == 1:
                await person.start("voice")
                wire.cut = True
                await person.page.evaluate("window.observed.peers.length = 0")
        await expect(person["error"]).to_be_hidden()
        assert person.complaints == []
        wire.close()


async def test_a_server_that_falls_silent_is_noticed_and_found_again(
    browsers: Browsers, start_server: ServerFactory, listener: Path
) -> None:
    server = start_server("--engine", "scripted")
    async with browsers.visit(server.address, listener) as person:
        await person.start("voice")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            await person.state("reconnecting")
            await person.shows("hint", "Nothing gets through")
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await person.state("listening")


async def test_a_server_that_is_gone_ends_the_call_with_a_sentence(
    browsers: Browsers, start_server: ServerFactory, listener: Path
) -> None:
    server = start_server("--engine", "scripted", "--grace-s", "2")
    async with browsers.visit(server.address, listener) as person:
        await person.start("voice")
        os.kill(server.pid, signal.SIGKILL)
        await person.state("reconnecting")
        await person.state("ended")
        await person.shows("error", "The server does not answer")
        await expect(person["error-action"]).to_be_visible()


async def test_a_server_that_is_stopped_ends_the_call_at_once(
    browsers: Browsers, start_server: ServerFactory, listener: Path
) -> None:
    server = start_server("--engine", "scripted")
    async with browsers.visit(server.address, listener) as person:
        await person.start("voice")
        server.stop()
        await person.state("ended")
        await person.shows("error", "The server was stopped")
        assert await person.page.evaluate("window.observed.peers.length") == 1


async def test_a_call_ends_at_the_servers_time_limit(
    browsers: Browsers, start_server: ServerFactory, listener: Path
) -> None:
    server = start_server("--engine", "scripted", "--max-call-s", "6")
    async with browsers.visit(server.address, listener) as person:
        await person.start("voice")
        await person.state("ended")
        await person.shows("error", "as long as this server allows")
        assert await person.page.evaluate("window.observed.peers.length") == 1


async def test_a_limit_on_requests_is_waited_for(browsers: Browsers, scripted: Server, listener: Path) -> None:
    limit = {"error": {"code": "rate_limited", "message": "Too many requests from this address."}}
    asked = 0

    async def refuse_twice(route: Route) -> None:
        nonlocal asked
        asked += 1
        if asked <= 2:
            await route.fulfill(status=429, json=limit, headers={"Retry-After": "1"})
        else:
            await route.continue_()

    async with browsers.visit(scripted.address, listener) as person:
        await person.page.route("**/api/line", refuse_twice)
        await person.press("start-voice")
        await person.state("queued")
        await expect(person["error"]).to_be_hidden()
        await person.state("listening")
        assert asked > 2


async def test_a_call_that_the_server_has_forgotten_asks_for_a_new_one(
    browsers: Browsers, scripted: Server, listener: Path
) -> None:
    async with browsers.visit(scripted.address, listener) as person:
        await person.start("voice")
        await person.page.route("**/restart", lambda route: route.fulfill(status=404, json=UNKNOWN_CALL))
        await person.page.evaluate("window.observed.peers.at(-1).close()")
        await person.state("ended")
        await person.shows("error", "Start a new one")


async def test_the_page_waits_for_an_engine_that_warms_up(browsers: Browsers, scripted: Server, listener: Path) -> None:
    loading = {"ready": False, "message": "The model is being loaded.", "progress": 0.4}
    refusal = {"error": {"code": "not_ready", "message": loading["message"]}}
    async with browsers.visit("about:blank", listener) as person:
        page = person.page
        await page.route("**/ready", lambda route: route.fulfill(status=503, json=loading))
        await page.route("**/api/line", lambda route: route.fulfill(status=503, json=refusal))
        await page.goto(scripted.address)
        await person.shows("state", "The model is being loaded. 40 %")
        await person.press("start-voice")
        await person.state("warming")
        await person.shows("hint", "The model is being loaded. 40 %")
        assert await page.evaluate("window.observed.microphones") == 0
        await page.unroute("**/api/line")
        await page.unroute("**/ready")
        await person.state("listening")


async def test_a_recorded_call_says_so_before_it_begins(
    browsers: Browsers, start_server: ServerFactory, scripted: Server, tmp_path: Path
) -> None:
    server = start_server("--engine", "scripted", "--record", str(tmp_path))
    async with browsers.visit(server.address) as person:
        await person.shows("recorded", "recorded")
        await expect(person.page.get_by_text("Calls here are recorded.")).to_be_visible()
        await person.page.goto(scripted.address)
        await person.shows("engine", "Test tones")
        await expect(person["recorded"]).to_be_hidden()


async def test_a_page_that_is_closed_for_good_frees_its_place(
    browsers: Browsers, start_server: ServerFactory, listener: Path
) -> None:
    server = start_server("--engine", "scripted", "--max-calls", "1", "--grace-s", "1")
    async with browsers.visit(server.address, listener) as person:
        await person.start("voice")
        another = await _another(person)
        await person.page.close()
        await another.start("voice")


async def test_a_browser_that_blocks_sound_offers_a_tap(browsers: Browsers, scripted: Server, listener: Path) -> None:
    blocked = """
      const play = HTMLMediaElement.prototype.play;
      window.blocked = true;
      HTMLMediaElement.prototype.play = function () {
        const refuse = window.blocked && this.tagName === "AUDIO";
        return refuse ? Promise.reject(new DOMException("no gesture", "NotAllowedError")) : play.call(this);
      };
    """
    async with browsers.visit(scripted.address, listener, script=blocked) as person:
        await person.start("voice")
        await expect(person["tap-to-hear"]).to_be_visible()
        await person.page.evaluate("window.blocked = false")
        await person.press("tap-to-hear")
        await expect(person["tap-to-hear"]).to_be_hidden()


async def _another(person: Caller) -> Caller:
    """A second person at the same server, in the same browser."""
    chromium = person.page.context.browser
    assert chromium is not None
    context = await chromium.new_context(ignore_https_errors=True)
    await context.add_init_script(OBSERVE)
    page = await context.new_page()
    await page.goto(person.page.url)
    return Caller(page)
