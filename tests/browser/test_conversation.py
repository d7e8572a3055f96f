"""Whole conversations in a headless Chromium: a recorded person as microphone, a moving picture as camera."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import expect

from app.call.protocol import check_event, parse_message
from tests.browser.caller import PATIENCE_MS, Browsers
from tests.browser.server import LONG_ANSWER, Server

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_spoken_turn_is_answered_and_talking_again_interrupts_the_answer(
    browsers: Browsers, scripted: Server, talker: Path, camera: Path
) -> None:
    async with browsers.visit(scripted.address, talker, camera) as person:
        await person.shows("engine", "Test tones")
        await person.start("video")
        welcome = (await person.everything())[0]
        assert (welcome["type"], welcome["seq"]) == ("welcome", 0)

        await person.state("hearing")
        await expect(person["line-you"].first).to_contain_text("You")
        await person.state("speaking")
        await person.hears()
        await person.shows("captions", LONG_ANSWER.split()[0])
        assert (await person.events("frame.used"))[0]["data"]["unit"] >= 1
        assert (await person.events("context"))[0]["data"]["used"] > 0
        await expect(person["frames"]).to_be_visible()
        await expect(person["context"]).to_be_visible()

        done = (await person.events("response.done"))[0]
        assert (done["data"]["status"], done["data"]["reason"]) == ("cancelled", "barge_in")
        heard = done["data"]["heard_chars"]
        assert 0 < heard < len(LONG_ANSWER)
        line = person["line-model"].first
        await expect(line).to_have_attribute("data-status", "cancelled")
        assert await line.locator(".heard").text_content() == LONG_ANSWER[:heard]
        assert len(await line.locator("s.unheard").text_content() or "") > 0

        await person.events("response.started", at_least=2)
        await person.press("end")
        await person.state("ended")
        await expect(person["captions"]).to_contain_text("Assistant")
        await expect(person["error"]).to_be_hidden()
        assert person.complaints == []


async def test_an_answer_waits_for_an_mhm_and_a_cough_and_goes_on(
    browsers: Browsers, scripted: Server, murmurer: Path
) -> None:
    async with browsers.visit(scripted.address, murmurer) as person:
        await person.start("voice")
        await person.events("response.resumed")
        await person.state("speaking")
        done = (await person.events("response.done"))[0]  # of the sentence that comes at last
        assert (done["data"]["reason"], done["turn"]) == ("barge_in", 1)
        told = [event["type"] for event in await person.everything() if event["epoch"] == done["epoch"]]
        assert told.index("response.paused") < told.index("response.resumed") < told.index("response.done")
        assert told.count("response.paused") == told.count("response.resumed") + 1
        assert done["data"]["heard_ms"] > 4_000
        assert person.complaints == []


async def test_both_directions_of_the_data_channel_keep_to_the_protocol(
    browsers: Browsers, scripted: Server, talker: Path
) -> None:
    async with browsers.visit(scripted.address, talker) as person:
        await person.start("voice")
        await person.events("response.done")
        await person.press("end")
        await person.state("ended")
        events = await person.everything()
        for event in events:
            check_event(event)
        assert [event["seq"] for event in events] == list(range(len(events)))
        sent = await person.page.evaluate("window.observed.sent.map((message) => JSON.stringify(message))")
        commands = [parse_message(raw) for raw in sent]
        assert all(command.known for command in commands)
        assert [command.seq for command in commands] == list(range(len(commands)))
        assert (commands[0].type, commands[-1].type) == ("hello", "bye")
        assert {"mic.state", "camera.state", "ping", "playback.report"} <= {command.type for command in commands}


async def test_stop_ends_the_answer_at_once(browsers: Browsers, scripted: Server, listener: Path) -> None:
    async with browsers.visit(scripted.address, listener) as person:
        await person.start("voice")
        await expect(person["stop"]).to_be_disabled()
        await person.write("Tell me something long.")
        await person.shows("captions", "Tell me something long.")
        await person.state("speaking")
        await person.hears()
        await person.press("stop")
        (done,) = await person.events("response.done")
        assert done["data"]["status"] == "cancelled"
        await person.state("listening")
        await expect(person["stop"]).to_be_disabled()
        assert [event["data"]["reason"] for event in await person.sent("response.cancel")] == ["stop_button"]


async def test_typed_text_is_answered_and_shown_in_the_order_of_the_conversation(
    browsers: Browsers, scripted: Server, listener: Path
) -> None:
    async with browsers.visit(scripted.address, listener) as person:
        await person.start("voice")
        await person["text-input"].fill("   ")
        await person["text-input"].press("Enter")
        await person["text-input"].fill("First <b>question</b>")
        await person["text-input"].press("Enter")
        await expect(person["text-input"]).to_have_value("")
        await person.state("speaking")
        await person["text-input"].fill("Second question")
        await person["text-input"].press("Enter")
        await person.events("response.started", at_least=2)
        assert len(await person.sent("input.text")) == 2
        lines = person.page.locator(".captions .line")
        await expect(lines).to_have_count(4, timeout=PATIENCE_MS)
        sides = [await lines.nth(index).get_attribute("data-side") for index in range(4)]
        assert sides == ["you", "model", "you", "model"]
        await expect(lines.nth(0)).to_contain_text("First <b>question</b>")


async def test_a_caption_comes_with_its_sound_and_not_before(
    browsers: Browsers, scripted: Server, listener: Path
) -> None:
    async with browsers.visit(scripted.address, listener) as person:
        await person.start("voice")
        await person.write("Go on")
        await person.state("speaking")
        known, shown = await person.page.evaluate(
            """async () => {
              const shown = () => document.querySelector(".line[data-side=model] .heard")?.textContent.length ?? 0;
              const known = () => window.observed.events.filter(({ type }) => type === "assistant.text")
                .reduce((sum, { data }) => sum + data.delta.length, 0);
              while (shown() === 0) await new Promise(requestAnimationFrame);
              return [known(), shown()];
            }"""
        )
        assert shown < known
        await person.shows("captions", " ".join(LONG_ANSWER.split()[:6]))


async def test_mute_and_camera_are_told_to_the_server_and_shown(
    browsers: Browsers, scripted: Server, talker: Path, camera: Path
) -> None:
    async with browsers.visit(scripted.address, talker, camera) as person:
        await person.start("video")
        await expect(person["self-view"]).to_be_visible()
        await person.press("mute")
        await expect(person["mute"]).to_have_attribute("aria-pressed", "true")
        await expect(person["mute"]).to_have_accessible_name("Unmute")
        await person.press("camera")
        await expect(person["camera"]).to_have_accessible_name("Camera on")
        pictures = "document.querySelector('#self-video').srcObject.getVideoTracks().length"
        assert await person.page.evaluate(pictures) == 0
        await person.page.keyboard.press("v")
        await expect(person["camera"]).to_have_accessible_name("Camera off")
        await person.page.keyboard.press("m")
        await expect(person["mute"]).to_have_accessible_name("Mute")
        microphone = [event["data"]["muted"] for event in await person.sent("mic.state")]
        seen = [event["data"]["muted"] for event in await person.sent("camera.state")]
        assert microphone == [False, True, False]
        assert seen == [False, True, False]


async def test_the_camera_can_be_switched_on_during_a_voice_call(
    browsers: Browsers, scripted: Server, talker: Path, camera: Path
) -> None:
    async with browsers.visit(scripted.address, talker, camera) as person:
        await person.start("voice")
        await expect(person["self-view"]).to_be_hidden()
        await person.press("camera")
        await expect(person["self-view"]).to_be_visible()
        await person.events("frame.used")


async def test_the_camera_sends_few_pictures(
    browsers: Browsers, scripted: Server, listener: Path, camera: Path
) -> None:
    async with browsers.visit(scripted.address, listener, camera) as person:
        await person.start("video")
        frames_per_s = await person.page.evaluate(
            """async () => {
              const sent = async () => {
                for (const report of (await window.observed.peers.at(-1).getStats()).values())
                  if (report.type === "outbound-rtp" && report.kind === "video") return report;
                return {};
              };
              while (!((await sent()).framesSent > 4)) await new Promise((done) => setTimeout(done, 100));
              const first = await sent();
              await new Promise((done) => setTimeout(done, 4000));
              const last = await sent();
              return (last.framesSent - first.framesSent) / ((last.timestamp - first.timestamp) / 1000);
            }"""
        )
        assert 0 < frames_per_s < 6
