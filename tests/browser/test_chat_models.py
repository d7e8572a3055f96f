"""What the chat page makes of each model: what it offers, and that the model answers through it as it should."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import ClientSession
from playwright.async_api import expect

from app.server.options import ServerOptions
from app.server.server import Server as AppServer
from app.server.server import engine_spec
from engine.config_language import Generation
from engine.serving.factory import create_engine
from tests.browser.caller import PATIENCE_MS, Browsers
from tests.browser.chatter import chatting, picture, video
from tests.browser.server import Server
from tests.family.conftest import GENERATIONS, SETS, manifest

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_model_without_a_voice_has_the_chat_as_its_first_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can call it: the address that the server prints leads here."""
    options = ServerOptions.parse(["--engine", "scripted", "--host", "127.0.0.1", "--port", "0"], {})
    engine = create_engine(engine_spec(options))
    async with AppServer(options, engine) as server:
        await server.listen(None)
        await server.start_engine()
        async with ClientSession(f"http://127.0.0.1:{server.port}") as http:
            for speaks, expected in ((True, "/"), (False, "/chat")):
                assert engine.info is not None
                monkeypatch.setattr(engine, "_info", replace(engine.info, speaks=speaks))
                async with http.get("/") as response:
                    assert (response.status, response.url.path) == (200, expected)


@pytest.mark.parametrize("generation", GENERATIONS)
async def test_a_v_model_answers_as_published(browsers: Browsers, generation: Generation) -> None:
    folder, told = SETS[generation], manifest(generation)["chat"]["single"]
    flags = ["--model", str(folder), "--device", "cpu", "--host", "127.0.0.1", "--port", "0"]
    options = ServerOptions.parse(flags, {})
    async with AppServer(options, create_engine(replace(engine_spec(options), in_process=True))) as server:
        await server.listen(None)
        await server.start_engine()
        async with chatting(browsers, f"http://127.0.0.1:{server.port}") as person:
            await expect(person["engine"]).to_have_text(folder.name)
            for control in ("call-link", "note"):
                await expect(person[control]).to_be_hidden()
            await person.press("settings")
            await expect(person["speak"]).to_be_hidden()
            await person["temperature"].fill("0")
            await person["max_tokens"].fill("16")
            await person.press("settings-done")
            await person["files"].set_input_files(folder / "images" / "single.png")
            await expect(person["added"]).to_have_count(1, timeout=PATIENCE_MS)
            await person.ask("What is in the image?")
            said = await (await person.answered()).inner_text()
            assert " ".join(said.replace("!", "").split()) == " ".join(told["text"].split())
            await person.ask("And now?")  # with the first turn before it
            await person.answered(1)
            await expect(person["examples"]).to_be_visible(visible=generation != "v-2.0")
            await person["files"].set_input_files(folder / "images" / "single.png")
            if generation == "v-2.0":
                await person.shows("error", "one picture, sent with the first message")
            await expect(person["added"]).to_have_count(int(generation != "v-2.0"), timeout=PATIENCE_MS)


@pytest.mark.slow
async def test_mini_sees_hears_and_speaks(
    browsers: Browsers, start_server: Callable[..., Server], talker: Path, tmp_path: Path
) -> None:
    server = start_server("--engine", "mini", "--max-calls", "1")
    async with chatting(browsers, server.address, microphone=talker) as person:
        await person.add(picture("blue"))
        await person.ask("What do you see?")
        await expect(await person.answered()).to_have_text("I see a blue circle.")
        await person.press("clear")
        await person.add(video(tmp_path))
        await person.ask("What do you see?")
        await expect(await person.answered()).to_contain_text("I see")
        await person.press("settings")
        await person["max_slices"].fill("6")
        await person["speak"].check()
        await person["voice-select"].select_option("woman")
        await person.press("settings-done")
        await person.press("clear")
        await person.add(picture("red", (1_200, 800)))
        await person.ask("What is three plus four?")
        await person.answered()
        await expect(person["picture"]).to_contain_text("Seen whole and in 3 × 2 pieces")
        await expect(person["spoken"]).to_be_visible(timeout=PATIENCE_MS)
        length = "async (player) => { await player.play(); return player.duration; }"
        assert await person["spoken"].evaluate(length) > 0.5
        await person.press("clear")
        await person.press("note")
        await expect(person["note"]).to_have_attribute("aria-pressed", "true", timeout=PATIENCE_MS)
        await expect(person["question"]).to_have_attribute("placeholder", "Listening. Press again to end.")
        await person.page.wait_for_timeout(4_000)  # of speech
        await person.press("note")
        await expect(person["added"]).to_have_count(1, timeout=PATIENCE_MS)
        await person.press("send")
        assert (await (await person.answered()).inner_text()).strip()
