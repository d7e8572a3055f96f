"""The settings sheet, and holding a button to talk."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import expect

from app.call.config import FIXED_AT_START, CallConfig
from tests.browser.caller import PATIENCE_MS, Browsers, Caller
from tests.browser.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

CATALOGUE = """
async () => {
  const { SETTINGS, SILENCE_S } = await import("/static/js/settings.js");
  const offered = (name) => [...document.getElementById("settings-form").elements].filter((each) => each.name === name)
    .flatMap((each) => each.options ? [...each.options].map(({ value }) => value)
      : each.type === "radio" ? [each.value] : each.type === "checkbox" ? [true, false] : ["Be brief."]);
  return Object.entries(SETTINGS).map(([name, { usual, live, write }]) =>
    ({ name, live, usual: write(usual), values: offered(name).map(write) }));
}
"""
READ_BACK = """
async (config) => {
  const { SETTINGS } = await import("/static/js/settings.js");
  return Object.fromEntries(Object.entries(SETTINGS).map(([name, { read }]) => [name, read(config)]));
}
"""
NEXT_HELD = """
() => new Promise((resolve) => new MutationObserver(() => {
  if (document.body.hasAttribute("data-held")) resolve(document.getElementById("hint").textContent);
}).observe(document.body, { attributes: true, subtree: true, childList: true, characterData: true }))
"""
"""The hint once an answer is held back, seen however briefly that is."""
SHOW_CONFIG = """
async (change) => {
  const { store } = await import("/static/js/main.js");
  store.set({ config: { ...store.state.config, ...change } });
}
"""
SCREENS = ((1440, 900), (1024, 1366), (720, 450), (667, 375), (390, 844), (320, 568))


async def test_the_page_offers_what_the_server_takes_and_has_its_defaults(browsers: Browsers, scripted: Server) -> None:
    async with browsers.visit(scripted.address) as person:
        await person.shows("state", "Ready when you are")
        usual = CallConfig()
        for setting in await person.page.evaluate(CATALOGUE):
            name, options = setting["name"], list(setting["usual"])
            assert usual.updated(setting["usual"]) == usual, name
            assert len({repr(usual.updated(value)) for value in setting["values"]}) >= 2 or name in ("voice", "prompt")
            assert setting["live"] != any(option in FIXED_AT_START for option in options), name
        other = usual.updated(
            {"barge_in": False, "speak": False, "prompt": "Be brief.", "turn": {"detection": "push_to_talk"}}
        )
        assert await person.page.evaluate(READ_BACK, other.updated({"vad": {"end_silence_ms": 900}}).as_mapping()) == {
            "pushToTalk": True,
            "eagerness": "patient",
            "interruptible": False,
            "closeLook": False,
            "voice": "default",
            "language": "en",
            "textOnly": True,
            "preset": "omni",
            "prompt": "Be brief.",
        }


async def test_what_was_chosen_is_kept_on_the_device_and_holds_in_the_call(
    browsers: Browsers, scripted: Server, listener: Path
) -> None:
    async with browsers.visit(scripted.address, listener) as person:
        await person.press("settings")
        await person["eagerness-patient"].check(force=True)
        await person["interruptible"].uncheck()
        await person["textOnly"].check()
        await person["language"].select_option("zh")
        await person["prompt"].fill("Be brief.")
        await person.page.keyboard.press("Escape")
        await expect(person["settings-sheet"]).to_be_hidden()
        await expect(person["settings"]).to_be_focused()
        await person.page.reload()
        await person.press("settings")
        await expect(person["eagerness-patient"]).to_be_checked()
        await expect(person["prompt"]).to_have_value("Be brief.")
        await person.press("settings-done")
        await person.start("voice")
        config = (await person.events("welcome"))[0]["data"]["config"]
        chosen = {"barge_in": False, "speak": False, "language": "zh", "prompt": "Be brief."}
        assert {name: config[name] for name in chosen} == chosen
        assert (config["vad"]["end_silence_ms"], config["turn"]["end_of_turn_max_s"]) == (900, 3.0)
        await person.write("Hello?")
        await person.shows("captions", "one and then two")
        assert not any(event["data"].get("audio_start_ms") for event in await person.events("assistant.text"))


async def test_in_a_call_the_sheet_shows_what_is_in_force(browsers: Browsers, scripted: Server, listener: Path) -> None:
    async with browsers.visit(scripted.address, listener) as person:
        await person.start("voice")
        await person.press("settings")
        await expect(person["microphone-select"]).to_be_visible()
        await person["eagerness-quick"].check(force=True)
        (updated,) = await person.events("session.updated")
        assert updated["data"]["config"]["vad"]["end_silence_ms"] == 300
        await expect(person["next-call"]).to_be_visible()
        await person["textOnly"].check()
        await expect(person.page.locator("#textOnly-note")).to_have_text("In this call: off")
        assert len(await person.sent("session.update")) == 1
        await person.press("settings-reset")
        await person.events("session.updated", at_least=2)
        welcome = (await person.events("welcome"))[0]
        assert (await person.events("session.updated"))[-1]["data"]["config"] == welcome["data"]["config"]
        await expect(person["eagerness-normal"]).to_be_checked()
        await expect(person["textOnly"]).not_to_be_checked()
        await person.page.evaluate(SHOW_CONFIG, {"barge_in": False})
        await expect(person["interruptible"]).not_to_be_checked()


async def test_holding_the_space_bar_or_the_button_is_a_turn(
    browsers: Browsers, scripted: Server, chatterer: Path
) -> None:
    async with browsers.visit(scripted.address, chatterer) as person:
        await _choose_push_to_talk(person)
        await person.press("start-voice")
        await expect(person["talk"]).to_be_enabled(timeout=PATIENCE_MS)
        await expect(person["mute"]).to_be_hidden()
        await person.state("idle")
        await person.page.keyboard.down(" ")
        await person.state("hearing")
        await expect(person["talk"]).to_have_attribute("aria-pressed", "true")
        await person.page.wait_for_timeout(1_000)
        await person.page.keyboard.up(" ")
        await person.state("speaking")
        await expect(person["talk"]).to_have_attribute("aria-pressed", "false")
        assert [event["data"]["reason"] for event in await person.events("response.started")] == ["commit"]

        await person["talk"].hover()
        await person.page.mouse.down()
        await person.state("hearing")
        assert [event["data"]["status"] for event in await person.events("response.done")] == ["cancelled"]
        await person.page.keyboard.press("Escape")
        await person.state("idle")
        await person.page.mouse.up()
        assert len(await person.sent("input.discard")) == 1
        assert len(await person.sent("input.commit")) == 1

        await person.page.keyboard.press(" ")
        await person.shows("notice", "Hold it for as long as you speak")
        assert len(await person.sent("input.discard")) == 2

        await person["talk"].focus()
        await person.page.keyboard.press("Enter")
        await person.state("hearing")
        await person.page.wait_for_timeout(500)
        await person.page.keyboard.press("Enter")
        await person.events("response.started", at_least=2)
        muted = [event["data"]["muted"] for event in await person.sent("mic.state")]
        assert muted[-1] is True


async def test_push_to_talk_can_be_switched_on_and_off_in_a_call(
    browsers: Browsers, scripted: Server, chatterer: Path
) -> None:
    async with browsers.visit(scripted.address, chatterer) as person:
        await _choose_push_to_talk(person)
        await person.press("start-voice")
        await expect(person["talk"]).to_be_enabled(timeout=PATIENCE_MS)
        track = "() => document.getElementById('self-video').srcObject.getAudioTracks()[0].enabled"
        assert await person.page.evaluate(track) is False
        await _choose_push_to_talk(person, on=False)
        await expect(person["mute"]).to_be_visible()
        await expect(person["talk"]).to_be_hidden()
        await person.state("hearing", "speaking")
        assert await person.page.evaluate(track) is True


async def test_the_sheet_and_the_button_fit_every_screen(
    browsers: Browsers, scripted: Server, listener: Path, camera: Path
) -> None:
    async with browsers.visit(scripted.address, listener, camera) as person:
        await _choose_push_to_talk(person)
        await person.press("start-video")
        await expect(person["talk"]).to_be_enabled(timeout=PATIENCE_MS)
        for width, height in SCREENS:
            await person.resize(width, height)
            for testid in ("talk", "camera", "flip", "stop", "end", "settings", "help", "send"):
                await person.fits(testid, width, height)
            await person.press("settings")
            for testid in ("microphone-select", "pushToTalk", "eagerness-quick", "prompt", "settings-done"):
                await person[testid].scroll_into_view_if_needed()
                await expect(person[testid]).to_be_in_viewport(ratio=0.99)
            await person.fits("settings-done", width, height)
            wide = "() => document.querySelector('.parts').scrollWidth - document.querySelector('.parts').clientWidth"
            assert await person.page.evaluate(wide) == 0
            await person.press("settings-done")


async def test_an_answer_that_waits_for_a_sound_to_end_is_shown_as_waiting(
    browsers: Browsers, scripted: Server, talker: Path
) -> None:
    async with browsers.visit(scripted.address, talker) as person:
        await person.start("voice")
        await person.state("speaking")
        assert await person.page.evaluate(NEXT_HELD) == "Holding on, in case you want to speak"
        await person.events("response.paused")
        await person.events("response.done")
        await expect(person.page.locator("body[data-held]")).to_have_count(0)


async def _choose_push_to_talk(person: Caller, on: bool = True) -> None:
    await person.press("settings")
    await person["pushToTalk"].set_checked(on)
    await person.press("settings-done")
