"""A call in the browser that the server records replays, without the browser, to the very same events."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import expect

from engine.serving.factory import create_engine
from engine.spec import EngineSpec
from tests.browser.caller import Browsers
from tests.browser.conftest import ServerFactory
from tests.browser.server import LONG_ANSWER, write_script
from tests.replay.recorded import assert_replays_identically, finished_recording

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("engine", ["scripted", "mini"])
async def test_a_recorded_call_replays_to_the_same_turns_pictures_and_interruption(
    browsers: Browsers, start_server: ServerFactory, talker: Path, camera: Path, tmp_path: Path, engine: str
) -> None:
    recordings, flags, spec = tmp_path / "recordings", ["--engine", engine], EngineSpec()
    if engine == "scripted":
        script = write_script(tmp_path / "long.json", LONG_ANSWER, chunk_s=0.05)
        flags, spec = [*flags, "--script", str(script)], EngineSpec(kind="scripted", script=str(script))
    server = start_server(*flags, "--record", str(recordings))
    async with browsers.visit(server.address, talker, camera) as person:
        await expect(person["recorded"]).to_be_visible()
        await person.start("video")
        done = (await person.events("response.done"))[0]
        await person.events("response.started", at_least=2)
        await person.press("end")
        await person.state("ended")
        seen = await person.everything()

    folder = await finished_recording(recordings)
    assert list((folder / "frames").glob("*.jpg"))
    events = await assert_replays_identically(folder, create_engine(spec))
    again = next(event for event in events if event["type"] == "response.done")
    assert again["data"] == done["data"]
    kinds = ("turn.state", "frame.used", "response.started", "assistant.text")
    live = [(event["type"], event["turn"], event["t"]) for event in seen if event["type"] in kinds]
    replayed = [(event["type"], event["turn"], event["t"]) for event in events if event["type"] in kinds]
    assert replayed[: len(live)] == live
