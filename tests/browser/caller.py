"""A person with a browser: opens the page, presses its buttons, and sees what it shows."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Locator, Page, Playwright, expect

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE_MS = 45_000
"""How long any step may take. Machines that run tests are slow at times; a step that works is far faster."""

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--ignore-certificate-errors",
    "--allow-loopback-in-peer-connection",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
)

OBSERVE = """
(() => {
  const seen = (window.observed = { peers: [], events: [], sent: [], microphones: 0 });
  const media = navigator.mediaDevices;
  const ask = media?.getUserMedia.bind(media);
  if (media) media.getUserMedia = (wanted) => ((seen.microphones += Boolean(wanted.audio)), ask(wanted));
  const Native = window.RTCPeerConnection;
  window.RTCPeerConnection = class extends Native {
    constructor(...options) {
      super(...options);
      seen.peers.push(this);
    }
    createDataChannel(...options) {
      const channel = super.createDataChannel(...options);
      const send = channel.send.bind(channel);
      channel.addEventListener("message", ({ data }) => seen.events.push(JSON.parse(data)));
      channel.send = (message) => (seen.sent.push(JSON.parse(message)), send(message));
      return channel;
    }
  };
})();
"""
"""Keeps the page's connections and both directions of the data channel, and counts how often it asked for the
microphone, so that a test can look at them."""

SIZED = """
([width, height]) => window.innerWidth === width && window.innerHeight === height
  && matchMedia(`(width: ${width}px) and (height: ${height}px)`).matches
"""
PAINTED = "() => new Promise((painted) => requestAnimationFrame(() => requestAnimationFrame(painted)))"
"""Once what is told of a new size has run, and what it changed is shown."""

RECEIVED = """
async () => {
  const peer = window.observed.peers.at(-1);
  for (const report of (await peer.getStats()).values())
    if (report.type === "inbound-rtp" && report.kind === "audio") return report;
  return {};
}
"""


class Caller:
    """One page of the call. Elements are addressed by their ``data-testid``."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.faults: list[str] = []
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on(
            "console", lambda line: self.complaints.append(line.text) if line.type in ("error", "warning") else None
        )
        page.set_default_timeout(PATIENCE_MS)

    def __getitem__(self, testid: str) -> Locator:
        return self.page.get_by_test_id(testid)

    async def write(self, text: str) -> None:
        """Type a message and send it."""
        await self["text-input"].fill(text)
        await self.press("send")

    async def press(self, testid: str) -> None:
        await self[testid].click()

    async def resize(self, width: int, height: int) -> None:
        """Give the page another size, in CSS pixels, and wait until it has been laid out anew."""
        await self.page.set_viewport_size({"width": width, "height": height})
        await self.page.wait_for_function(SIZED, arg=[width, height])
        await self.page.evaluate(PAINTED)

    async def fits(self, testid: str, width: int, height: int) -> None:
        """A control is whole on a screen of this size, and large enough to be touched (44 CSS pixels, WCAG 2.5.5)."""
        box = await self[testid].bounding_box()
        where = (testid, width, height, box)
        assert box is not None, where
        assert min(box["width"], box["height"]) >= 44, where
        assert min(box["x"], box["y"]) >= 0, where
        assert box["x"] + box["width"] <= width, where
        assert box["y"] + box["height"] <= height, where

    async def start(self, mode: str = "video") -> None:
        """Press Start and wait until the call listens."""
        await self.press(f"start-{mode}")
        await self.state("listening", "hearing", "thinking", "speaking")

    async def state(self, *names: str) -> None:
        """Wait until the state is one of ``names``."""
        await self.page.wait_for_function(
            "names => names.includes(document.querySelector('[data-testid=state]').dataset.state)",
            arg=list(names),
            timeout=PATIENCE_MS,
        )

    async def shows(self, testid: str, text: str) -> None:
        await expect(self[testid]).to_contain_text(text, timeout=PATIENCE_MS)

    async def events(self, kind: str, at_least: int = 1) -> list[dict[str, Any]]:
        """The server's events of one type, once there are ``at_least`` so many."""
        await self.page.wait_for_function(
            "([kind, count]) => window.observed.events.filter(({ type }) => type === kind).length >= count",
            arg=[kind, at_least],
            timeout=PATIENCE_MS,
        )
        events: list[dict[str, Any]] = await self.page.evaluate(
            "kind => window.observed.events.filter(({ type }) => type === kind)", kind
        )
        return events

    async def everything(self) -> list[dict[str, Any]]:
        """All events of the server so far, in their order."""
        events: list[dict[str, Any]] = await self.page.evaluate("window.observed.events")
        return events

    async def sent(self, kind: str) -> list[dict[str, Any]]:
        """What the page has sent of one type."""
        events: list[dict[str, Any]] = await self.page.evaluate(
            "kind => window.observed.sent.filter(({ type }) => type === kind)", kind
        )
        return events

    async def energy(self) -> float:
        """Sound that the page has played so far (``totalAudioEnergy`` of the received track)."""
        energy: float = (await self.received()).get("totalAudioEnergy", 0)
        return energy

    async def received(self) -> dict[str, Any]:
        """The browser's figures of the received sound (``RTCInboundRtpStreamStats``); empty before there is any."""
        figures: dict[str, Any] = await self.page.evaluate(RECEIVED)
        return figures

    async def hears(self) -> None:
        """Wait until clearly more sound has been played than now."""
        before = await self.energy()
        for _ in range(PATIENCE_MS // 100):
            if await self.energy() > before + 1e-5:
                return
            await self.page.wait_for_timeout(100)
        raise AssertionError(f"no sound arrived; totalAudioEnergy stays at {before}")


class Browsers:
    """Headless Chromiums, one for each set of flags, kept for the next test: pages open faster than browsers."""

    def __init__(self, playwright: Playwright) -> None:
        self._playwright = playwright
        self._open: dict[tuple[str, ...], Browser] = {}

    async def get(self, *flags: str) -> Browser:
        if flags not in self._open:
            chromium = self._playwright.chromium
            self._open[flags] = await chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])
        return self._open[flags]

    async def close(self) -> None:
        for chromium in self._open.values():
            await chromium.close()

    @asynccontextmanager
    async def visit(
        self,
        address: str,
        microphone: Path | None = None,
        camera: Path | None = None,
        *,
        allow: bool = True,
        script: str = "",
        **context_options: Any,
    ) -> AsyncIterator[Caller]:
        """The page at ``address`` for a person whose microphone and camera play files; ends without a page error.

        ``allow``: whether the permission prompt is accepted. ``script`` runs before the page's own scripts.
        """
        flags = [f"--use-file-for-fake-audio-capture={microphone}"] if microphone else []
        flags += [f"--use-file-for-fake-video-capture={camera}"] if camera else []
        flags += ["--use-fake-ui-for-media-stream"] if allow else ["--deny-permission-prompts"]
        chromium = await self.get(*flags)
        context = await chromium.new_context(ignore_https_errors=True, **context_options)
        try:
            await context.add_init_script(OBSERVE + script)
            person = Caller(await context.new_page())
            await person.page.goto(address)
            yield person
            assert person.faults == []
        finally:
            await context.close()
