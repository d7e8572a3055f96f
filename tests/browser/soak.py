"""Hold a long call in a real browser and report whether its speech ever ran dry.

``python -m tests.browser.soak [--seconds 180] [flags of python -m app]``. A person asks and is answered, time and
again, with the camera on; the server and the browser share this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Any

from playwright.async_api import async_playwright

from tests.browser.caller import Browsers
from tests.browser.media import silence, speech, write_camera, write_microphone
from tests.browser.server import Server

GAPS_S = (5.0, 6.5, 8.0)
"""Pauses between the person's sentences."""


async def hold(address: str, folder: Path, seconds: float) -> dict[str, Any]:
    """One call of ``seconds``; its figures."""
    said = [speech("digits-woman"), speech("command-woman"), speech("date-man")]
    parts = [part for words, gap in zip(said, GAPS_S, strict=True) for part in (words, silence(gap))]
    microphone = write_microphone(folder / "microphone.wav", silence(1.5), *parts)
    camera = write_camera(folder / "camera.mjpeg")
    async with async_playwright() as playwright:
        browsers = Browsers(playwright)
        async with browsers.visit(address, microphone, camera) as person:
            await person.start("video")
            await person.page.wait_for_timeout(1000 * seconds)
            received = await person.received()
            events = await person.everything()
        await browsers.close()
    done = [event["data"] for event in events if event["type"] == "response.done"]
    metrics = [event["data"] for event in events if event["type"] == "metrics"]
    first = [d["timings"]["first_audio_ms"] for d in done if d["timings"]["first_audio_ms"] is not None]
    waits = [d["timings"]["prefill_ms"] for d in done if d["timings"]["prefill_ms"] is not None]
    return {
        "seconds": seconds,
        "answers": len(done),
        "completed": sum(d["status"] == "completed" for d in done),
        "spoken_s": round(sum(d["heard_ms"] for d in done) / 1000, 1),
        "underruns": metrics[-1]["underruns"] if metrics else None,
        "warnings": sorted({event["data"]["code"] for event in events if event["type"] in ("warning", "error")}),
        "pictures": sum(event["type"] == "frame.used" for event in events),
        "median_first_audio_ms": statistics.median(first) if first else None,
        "median_wait_for_prefill_ms": statistics.median(waits) if waits else None,
        "browser_lost_packets": received.get("packetsLost"),
        "browser_concealed_s": round(received.get("concealedSamples", 0) / 48_000, 2),
        "browser_silent_concealed_s": round(received.get("silentConcealedSamples", 0) / 48_000, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180, help="length of the call")
    args, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        server = Server(Path(name), *flags).start()
        try:
            figures = asyncio.run(hold(server.address, Path(name), args.seconds))
        finally:
            server.stop()
    for key, value in figures.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
