"""A person at the chat page, and what they have at hand: pictures, a video, a question."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw
from playwright.async_api import FilePayload, Locator, expect

from tests.browser.caller import PATIENCE_MS, Browsers, Caller


class Chatter(Caller):
    """One page of a chat."""

    async def ask(self, text: str) -> None:
        """Write a question and send it."""
        await self["question"].fill(text)
        await self.press("send")

    async def answered(self, turn: int = -1) -> Locator:
        """An answer, once it is complete."""
        answers = self["turn-model"]
        answer = answers.last if turn < 0 else answers.nth(turn)
        await expect(answer).to_have_attribute("data-status", "done", timeout=PATIENCE_MS)
        return answer.locator(".text")

    async def add(self, *files: FilePayload) -> None:
        """Choose files, and wait until they are added."""
        before = await self["added"].count()
        await self["files"].set_input_files(list(files))
        await expect(self["added"]).to_have_count(before + len(files), timeout=PATIENCE_MS)


@asynccontextmanager
async def chatting(browsers: Browsers, address: str, **options: Any) -> AsyncIterator[Chatter]:
    """A person whose chat page is ready."""
    async with browsers.visit(f"{address}/chat", **options) as person:
        chatter = Chatter(person.page)
        await expect(chatter["files-button"]).to_be_enabled(timeout=PATIENCE_MS)
        yield chatter
        assert not chatter.faults


def picture(color: str = "red", size: tuple[int, int] = (448, 448), name: str = "shape.png") -> FilePayload:
    image = Image.new("RGB", size, "white")
    side = min(size)
    left, top = (size[0] - side // 2) // 2, (size[1] - side // 2) // 2
    ImageDraw.Draw(image).ellipse((left, top, left + side // 2, top + side // 2), fill=color)
    data = io.BytesIO()
    image.save(data, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": data.getvalue()}


def video(folder: Path, seconds: int = 3) -> FilePayload:
    """A video of a red circle, two frames a second."""
    frame = Image.open(io.BytesIO(picture()["buffer"]))
    path = folder / "clip.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width, stream.height = frame.size
        stream.pix_fmt = "yuv420p"
        for _ in range(2 * seconds):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame), "rgb24")))
        container.mux(stream.encode())
    return {"name": "clip.mp4", "mimeType": "video/mp4", "buffer": path.read_bytes()}
