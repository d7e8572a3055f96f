"""Hold a long call in a real browser and report whether its speech ever ran dry.

``python -m tests.browser.soak [--seconds 180] [--questions FOLDER] [flags of python -m app]``. A person asks and is
answered, time and again, with the camera on; the server and the browser share this machine. With ``--questions`` they
ask :data:`QUESTIONS`, which the folder has recordings of (``manifest.jsonl`` with ``file`` and ``text`` a line), and
hold up a sheet with a red circle for six seconds of eight.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

import librosa
import numpy as np
from numpy.typing import NDArray
from playwright.async_api import async_playwright

from engine.client import INPUT_RATE
from engine.small.measure.pictures import Drawing, draw_room, draw_sheet, hold
from engine.small.measure.sounds import decode
from tests.browser.caller import Browsers
from tests.browser.media import RATE, silence, speech, write_camera, write_microphone, write_pictures
from tests.browser.server import Server

GAPS_S = (5.0, 6.5, 8.0)
"""Pauses between the person's sentences."""
QUESTIONS = (
    "What is the capital of France?", "How many wheels does a bicycle have?", "What do bees make?",
    "What color is grass?", "Which animal gives us milk?",
)  # fmt: skip
ANSWER_S = 11.0
"""Pause after each of them."""
START_S = 300
"""What a server may take to assemble small, or to check it."""


def talk() -> list[NDArray[np.float32]]:
    """Sentences that mini knows, and pauses."""
    said = [speech("digits-woman"), speech("command-woman"), speech("date-man")]
    return [part for words, gap in zip(said, GAPS_S, strict=True) for part in (words, silence(gap))]


def ask(folder: Path) -> list[NDArray[np.float32]]:
    """:data:`QUESTIONS` of a folder, and pauses."""
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    found = {row["text"]: folder / row["file"] for row in reversed(rows)}
    parts = []
    for text in QUESTIONS:
        wave = librosa.resample(decode(found[text]), orig_sr=INPUT_RATE, target_sr=RATE)
        parts += [(0.5 * wave / np.abs(wave).max()).astype(np.float32), silence(ANSWER_S)]
    return parts


def write_sheet(path: Path, rate: int = 15) -> Path:
    """For the fake camera: somebody holds up a red circle for six seconds of eight."""
    rng = random.Random(12)
    room = draw_room(rng)
    sheet = draw_sheet(Drawing(things=(("red", "circle"),)), rng, (240, 240, 235), pen=False)
    held = hold(sheet, room, random.Random(2))
    return write_pictures(path, [np.asarray(held)] * (6 * rate) + [np.asarray(room)] * (2 * rate), rate)


async def hold_call(address: str, folder: Path, seconds: float, questions: Path | None) -> dict[str, Any]:
    """One call of ``seconds``; its figures, and what was said."""
    parts = talk() if questions is None else ask(questions)
    microphone = write_microphone(folder / "microphone.wav", silence(1.5), *parts)
    camera = (write_camera if questions is None else write_sheet)(folder / "camera.mjpeg")
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
        "first_audio_ms": first,
        "wait_for_prefill_ms": waits,
        "heard": [
            event["data"]["text"] for event in events if event["type"] == "user.transcript" and event["data"]["final"]
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180, help="length of the call")
    parser.add_argument("--questions", type=Path, help="folder of recorded questions, for a model that answers them")
    args, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        server = Server(Path(name), *flags).start(START_S)
        try:
            figures = asyncio.run(hold_call(server.address, Path(name), args.seconds, args.questions))
        finally:
            server.stop()
    for key, value in figures.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
