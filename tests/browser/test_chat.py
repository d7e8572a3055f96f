"""The chat page: pictures, videos and words, several turns, and everything that can be done with them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from playwright.async_api import Download, expect

from tests.browser.caller import PATIENCE_MS, Browsers
from tests.browser.chatter import Chatter, chatting, picture
from tests.browser.server import Server, write_script

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCREENS = {"desktop": (1280, 800), "upright tablet": (820, 1180), "phone": (390, 844), "small phone": (320, 568)}
CONTROLS = ("files-button", "camera", "settings", "examples", "help", "question", "save-text", "clear", "copy", "edit")

UNFIT = (
    ("a.pdf", "application/pdf", "neither a picture"),
    ("b.png", "image/png", "no picture"),
    ("c.wav", "audio/wav", "no ears"),
)

OVERFLOW = """
() => [...document.querySelectorAll("html, .bar, .turns, .whole, .composer, dialog[open] form")]
  .filter((element) => element.scrollWidth > element.clientWidth + 1)
  .map((element) => element.className || element.tagName)
"""
NAMELESS = """
() => [...document.querySelectorAll("button, a, input, textarea, select, audio, video, img")]
  .filter((element) => element.checkVisibility() && element.getAttribute("aria-hidden") !== "true")
  .filter((element) => !(element.getAttribute("aria-label") || element.textContent.trim() || element.labels?.length
    || element.hasAttribute("alt")))
  .map((element) => element.outerHTML)
"""
CONTRAST = """
() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    let under = [255, 255, 255];
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.unshift(parts(getComputedStyle(e).backgroundColor));
    for (const [r, g, b, a = 1] of layers) under = under.map((v, i) => v * (1 - a) + [r, g, b][i] * a);
    return under;
  };
  return [...document.querySelectorAll("p, small, span, button, label, legend, h1, h2, textarea")]
    .filter((e) => e.checkVisibility() && e.textContent.trim() && !e.matches(":disabled, .sr-only, [aria-hidden] *"))
    .map((e) => {
      const [a, b] = [light(parts(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), e.outerHTML.slice(0, 90)];
    })
    .filter(([ratio]) => ratio < 4.5);
}
"""
DROP = """
async ([name, type, base64, kind]) => {
  const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], name, { type }));
  const target = document.getElementById("question");
  const event = kind === "drop" ? new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true })
    : new ClipboardEvent("paste", { clipboardData: files, bubbles: true, cancelable: true });
  target.dispatchEvent(event);
}
"""


@pytest.fixture(scope="module")
def seen(start_server: Callable[..., Server]) -> Server:
    """A server that tells what it was asked."""
    return start_server("--engine", "scripted")


@pytest.fixture(scope="module")
def slow(start_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server that says a word and then nothing for an hour."""
    script = write_script(tmp_path_factory.mktemp("script") / "slow.json", "one two three", chunk_s=3_600.0)
    return start_server("--engine", "scripted", "--script", str(script))


@pytest.fixture(scope="module")
def counts(start_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server that says which turn it is, and how many pictures it sees."""
    script = write_script(
        tmp_path_factory.mktemp("script") / "counts.json", 'turn {turn}, {frames} seen, "{said}" said'
    )
    return start_server("--engine", "scripted", "--script", str(script))


async def text_of(saved: Download) -> str:
    path = await saved.path()
    return await asyncio.to_thread(path.read_text, encoding="utf-8")


async def fits(person: Chatter, screen: str) -> None:
    assert await person.page.evaluate(OVERFLOW) == [], screen


async def test_a_question_is_answered_and_the_next_one_knows_the_first(browsers: Browsers, counts: Server) -> None:
    async with chatting(browsers, counts.address) as person:
        await expect(person["send"]).to_be_disabled()
        await person.ask("Hello")
        await expect(await person.answered()).to_have_text('turn 1, 0 seen, "" said')
        await person["question"].fill("And now?")
        await person["question"].press("Enter")
        await expect(await person.answered(1)).to_have_text('turn 2, 0 seen, "turn 1, 0 seen, "" said" said')
        await expect(person["question"]).to_have_value("")
        assert not person.complaints


async def test_pictures_are_chosen_dropped_pasted_and_taken(browsers: Browsers, counts: Server) -> None:
    async with chatting(browsers, counts.address) as person:
        await person.add(picture("red"), picture("blue", name="second.png"))
        for count, kind in ((3, "drop"), (4, "paste")):
            data = base64.b64encode(picture("green", (60, 40))["buffer"]).decode()
            await person.page.evaluate(DROP, ["dot.png", "image/png", data, kind])
            await expect(person["added"]).to_have_count(count, timeout=PATIENCE_MS)
        await person["remove"].first.click()
        await person.press("camera")
        await expect(person["camera-sheet"]).to_be_visible(timeout=PATIENCE_MS)
        await person.press("take")
        await expect(person["added"]).to_have_count(4, timeout=PATIENCE_MS)
        await person["remove"].first.click()
        await expect(person["added"]).to_have_count(3)
        await person.ask("What is it?")
        await expect(await person.answered()).to_contain_text("3 seen")
        await expect(person["picture"]).to_have_count(3)
        await expect(person["picture"].first).to_contain_text("Seen whole")
        await person["picture"].first.click()
        await expect(person["look-sheet"]).to_be_visible()
        await person.press("look-done")


async def test_a_large_picture_is_sent_as_small_as_the_model_looks_at_it(browsers: Browsers, counts: Server) -> None:
    async with chatting(browsers, counts.address) as person:
        await person.add(picture("red", (4_800, 3_000)))
        await person.ask("Large?")
        await person.answered()
        url = await person["picture"].locator("img").get_attribute("src")
        assert url is not None
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as sent:
            assert sent.size == (2_240, 1_400)


async def test_what_cannot_be_added_is_one_sentence(browsers: Browsers, counts: Server) -> None:
    async with chatting(browsers, counts.address) as person:
        for name, kind, cause in UNFIT:
            await person["files"].set_input_files({"name": name, "mimeType": kind, "buffer": b"%PDF"})
            await person.shows("error", cause)
        await expect(person["added"]).to_have_count(0)
        await person.press("error-close")
        await expect(person["error"]).to_be_hidden()


async def test_an_answer_can_be_stopped_and_asked_for_again(browsers: Browsers, slow: Server) -> None:
    async with chatting(browsers, slow.address) as person:
        for stop in ("button", "key"):
            await person.ask("Count")
            await expect(person["turn-model"].last).to_contain_text("one", timeout=PATIENCE_MS)
            await expect(person["send"]).to_be_hidden()
            if stop == "button":
                await person.press("stop")
            else:
                await person["question"].press("Escape")
            await expect(person["turn-model"].last).to_have_attribute("data-status", "stopped", timeout=PATIENCE_MS)
            await expect(person["turn-model"].last).to_contain_text("Stopped")
        await person["retry"].click()
        await expect(person["turn-model"].last).to_have_attribute("data-status", "coming", timeout=PATIENCE_MS)
        await expect(person["turn-model"]).to_have_count(2)
        await person.press("stop")


async def test_a_question_can_be_edited_and_what_followed_is_gone(browsers: Browsers, seen: Server) -> None:
    async with chatting(browsers, seen.address) as person:
        for question in ("first", "second", "third"):
            await person.ask(question)
            await expect(await person.answered()).to_have_text(f'You typed "{question}".')
        await person["edit"].nth(1).click()
        await expect(person["turn-you"]).to_have_count(1)
        await expect(person["question"]).to_have_value("second")
        await person.ask("other")
        await expect(await person.answered()).to_have_text('You typed "other".')
        await expect(person["turn-you"]).to_have_count(2)
        await person.press("clear")
        await expect(person["turn-you"]).to_have_count(0)


async def test_settings_reach_the_model_and_stay_on_the_device(browsers: Browsers, seen: Server) -> None:
    async with chatting(browsers, seen.address) as person:
        bodies: list[dict[str, Any]] = []
        person.page.on(
            "request", lambda r: bodies.append(json.loads(r.post_data or "{}")) if "/v1/chat" in r.url else None
        )
        await person.press("settings")
        chosen = {
            "temperature": 0.5,
            "top_k": 9,
            "repetition_penalty": 1.1,
            "max_tokens": 2,
            "seed": 7,
            "max_slices": 4,
        }
        for name, value in chosen.items():
            await person[name].fill(str(value))
        await person["system"].fill("Be brief.")
        await person.press("settings-done")
        await person.ask("one two three")
        await expect(await person.answered()).to_have_text("You typed")
        await person.shows("turn-model", "Cut at the longest length")
        assert {name: bodies[0][name] for name in chosen} == chosen
        assert bodies[0]["messages"][0] == {"role": "system", "content": "Be brief."}
        await person.page.reload()
        await person.press("settings")
        await expect(person["temperature"]).to_have_value("0.5")
        await person.press("settings-reset")
        await expect(person["temperature"]).to_have_value("")


async def test_examples_come_before_the_question(browsers: Browsers, counts: Server) -> None:
    async with chatting(browsers, counts.address) as person:
        await person.press("examples")
        for color, answer in (("red", "warm"), ("blue", "cold")):
            await person.press("example-add")
            await person["example-file"].last.set_input_files([picture(color)])
            await expect(person["example"].last.locator("img")).to_be_visible(timeout=PATIENCE_MS)
            await person["example-question"].last.fill("Warm or cold?")
            await person["example-answer"].last.fill(answer)
        await person.press("example-add")
        await person.press("examples-done")
        await expect(person["examples"]).to_have_accessible_name("Examples (2)")
        await person.add(picture("green"))
        await person.ask("Warm or cold?")
        await expect(await person.answered()).to_have_text('turn 3, 3 seen, "cold" said')
        await person.press("examples")
        await person["example-remove"].first.click()
        await expect(person["example"]).to_have_count(1)


async def test_the_conversation_is_copied_and_saved(browsers: Browsers, seen: Server) -> None:
    permissions = ["clipboard-read", "clipboard-write"]
    async with chatting(browsers, seen.address, permissions=permissions) as person:
        await person.add(picture())
        await person.ask("Hello")
        await person.answered()
        await person["turn-model"].get_by_test_id("copy").click()
        await expect(person.page.locator("#announcer")).to_have_text("Copied")
        assert await person.page.evaluate("navigator.clipboard.readText()") == 'You typed "Hello".'
        async with person.page.expect_download() as saved:
            await person.press("save-text")
        text = await text_of(await saved.value)
        assert text == 'You: [picture: shape.png] Hello\n\nscripted: You typed "Hello".\n'
        async with person.page.expect_download() as saved:
            await person.press("save-json")
        body = json.loads(await text_of(await saved.value))
        assert [message["role"] for message in body["messages"]] == ["user", "assistant"]
        assert body["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")


async def test_a_fault_is_told_and_the_question_can_be_asked_again(browsers: Browsers, seen: Server) -> None:
    async with chatting(browsers, seen.address) as person:
        await person.page.route("**/v1/chat/completions", lambda route: route.abort())
        await person.ask("Hello")
        await person.shows("error", "The server does not answer")
        await expect(person["turn-model"].last).to_have_attribute("data-status", "failed")
        await person.page.unroute("**/v1/chat/completions")
        await person["retry"].click()
        await expect(await person.answered()).to_have_text('You typed "Hello".')
        assert all("ERR_FAILED" in line for line in person.complaints)


async def test_everything_is_named_in_reach_and_legible_on_every_screen(browsers: Browsers, seen: Server) -> None:
    for scheme in ("light", "dark"):
        async with chatting(browsers, seen.address, color_scheme=scheme) as person:
            await person.add(picture(size=(900, 300)))
            await person.ask("a very long question " * 12 + "abcdefghij" * 20)
            await person.answered()
            for screen, (width, height) in SCREENS.items():
                await person.resize(width, height)
                await fits(person, screen)
                for testid in CONTROLS:
                    control = person[testid].first
                    await control.scroll_into_view_if_needed()
                    box = await control.bounding_box()
                    assert box is not None, (screen, testid)
                    assert box["x"] >= 0, (screen, testid)
                    assert box["x"] + box["width"] <= width, (screen, testid)
                    if testid != "question":
                        assert min(box["width"], box["height"]) >= 40, (screen, testid)
                for sheet in ("settings", "examples"):
                    await person.press(sheet)
                    await fits(person, f"{screen}, {sheet}")
                    assert await person.page.evaluate(NAMELESS) == []
                    assert await person.page.evaluate(CONTRAST) == [], (scheme, sheet)
                    await person.press(f"{sheet}-done")
            assert await person.page.evaluate(NAMELESS) == []
            assert await person.page.evaluate(CONTRAST) == [], scheme


async def test_the_keyboard_reaches_every_control(browsers: Browsers, seen: Server) -> None:
    async with chatting(browsers, seen.address) as person:
        await person["question"].focus()
        found = set()
        for _ in range(20):
            await person.page.keyboard.press("Tab")
            found.add(await person.page.evaluate("document.activeElement.dataset.testid ?? ''"))
        assert {"files-button", "camera", "settings", "examples", "help", "call-link", "turns"} <= found
