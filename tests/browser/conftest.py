"""A server, a microphone and a camera for every browser test; the tests are skipped where there is no Chromium."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import librosa
import numpy as np
import pytest
import pytest_asyncio

pytest.importorskip("playwright.async_api", reason="playwright is not installed (make setup-test)")
from playwright.async_api import async_playwright

from tests.browser.caller import CHROMIUM, Browsers
from tests.browser.media import RATE, silence, speech, write_camera, write_microphone
from tests.browser.server import LONG_ANSWER, Server, write_script
from tests.turns.sounds import TUNING, cough, hum

ServerFactory = Callable[..., Server]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if CHROMIUM is None and "firefox" not in item.nodeid:
                item.add_marker(pytest.mark.skip(reason="Chromium is not installed: apt-get install chromium"))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def browsers() -> AsyncIterator[Browsers]:
    """Closed with the module that used them: an idle browser still takes a share of a core from the tests after it."""
    async with async_playwright() as playwright:
        chromiums = Browsers(playwright)
        yield chromiums
        await chromiums.close()


@pytest.fixture(scope="session")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_camera(tmp_path_factory.mktemp("camera") / "camera.mjpeg")


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person who speaks, waits six seconds, speaks again, and so on: each time into a long answer."""
    path = tmp_path_factory.mktemp("microphone") / "talker.wav"
    return write_microphone(path, silence(1.5), speech("digits-woman"), silence(6.0), speech("date-man"), silence(6.0))


@pytest.fixture(scope="session")
def murmurer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person who asks, then says "mhm" into the answer, coughs, and interrupts it at last."""
    rng = np.random.default_rng(0)
    murmurs = [librosa.resample(make(TUNING, rng), orig_sr=16_000, target_sr=RATE) for make in (hum, cough)]
    parts = [speech("digits-woman"), silence(3.0), murmurs[0], silence(2.0), murmurs[1], silence(2.5)]
    path = tmp_path_factory.mktemp("microphone") / "murmurer.wav"
    return write_microphone(path, silence(1.5), *parts, speech("date-man"), silence(6.0))


@pytest.fixture(scope="session")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person who says nothing."""
    return write_microphone(tmp_path_factory.mktemp("microphone") / "listener.wav", silence(5.0))


@pytest.fixture(scope="session")
def chatterer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person who does not stop talking."""
    words = (speech(name) for name in ("digits-woman", "date-man", "command-woman"))
    return write_microphone(tmp_path_factory.mktemp("microphone") / "chatterer.wav", *words)


@pytest.fixture(scope="module")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerFactory]:
    """Start a server with flags; all are stopped at the end of the module."""
    servers: list[Server] = []

    def start(*flags: str) -> Server:
        servers.append(Server(tmp_path_factory.mktemp("server"), *flags))
        return servers[-1].start()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def scripted(start_server: ServerFactory, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server whose engine gives a long answer to everything."""
    script = write_script(tmp_path_factory.mktemp("script") / "long.json", LONG_ANSWER)
    return start_server("--engine", "scripted", "--script", str(script), "--max-calls", "8")
