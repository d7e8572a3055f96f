"""Take the picture of the README from a real call: ``python -m tests.browser.screenshot [flags of python -m app]``."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.async_api import async_playwright, expect

from tests.browser.caller import PATIENCE_MS, Browsers
from tests.browser.media import silence, speech, write_camera, write_microphone
from tests.browser.server import ROOT, Server

PICTURE = ROOT / "static" / "img" / "screenshot.png"


async def take(address: str, folder: Path) -> None:
    """A spoken turn, a written one, and the picture while the next spoken turn is answered."""
    microphone = write_microphone(
        folder / "microphone.wav",
        silence(1.5),
        speech("digits-woman"),
        silence(12.0),
    )
    camera = write_camera(folder / "camera.mjpeg")
    async with async_playwright() as playwright:
        browsers = Browsers(playwright)
        size = {"width": 1280, "height": 800}
        async with browsers.visit(address, microphone, camera, viewport=size, color_scheme="light") as person:
            await person.start("video")
            await person.events("response.done")
            await person.write("What is three plus four?")
            await person.events("response.done", at_least=2)
            await person.state("hearing")
            await person.state("speaking")
            await expect(person["line-model"].last.locator(".heard")).to_contain_text(" ", timeout=PATIENCE_MS)
            await person.page.wait_for_timeout(600)
            await person.page.screenshot(path=PICTURE)
        await browsers.close()
    Image.open(PICTURE).convert("RGB").save(PICTURE, optimize=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        server = Server(Path(name), *(sys.argv[1:] or ("--engine", "mini"))).start()
        try:
            asyncio.run(take(server.address, Path(name)))
        finally:
            server.stop()
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
