"""Firefox by WebDriver BiDi, without a driver in between: the browser's own remote end speaks it over a WebSocket.

Run as a program inside a network namespace (see test_firefox.py): ``python -m tests.browser.firefox BINARY ADDRESS``
makes a call, types one message, hangs up, and prints what it saw as one JSON object.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

PATIENCE_S = 60
PREFERENCES: dict[str, Any] = {
    "media.navigator.streams.fake": True,
    "media.navigator.permission.disabled": True,
    "media.autoplay.default": 0,
    "media.peerconnection.ice.obfuscate_host_addresses": False,
    "media.gmp-manager.updateEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "app.normandy.enabled": False,
    "app.update.disabledForTesting": True,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "extensions.update.enabled": False,
    "services.settings.server": "data:,",
    "toolkit.telemetry.enabled": False,
}


class Firefox:
    """One tab of a headless Firefox."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._last = 0
        self._tab = ""

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One BiDi command and its result; events in between are skipped."""
        self._last += 1
        await self._socket.send_json({"id": self._last, "method": method, "params": parameters})
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = await self._socket.receive_json()
                if answer.get("id") == self._last:
                    if answer["type"] == "error":
                        raise RuntimeError(f"{method}: {answer['error']}: {answer['message']}")
                    result: dict[str, Any] = answer["result"]
                    return result

    async def open(self, address: str) -> None:
        await self.command("session.new", capabilities={"alwaysMatch": {"acceptInsecureCerts": True}})
        self._tab = (await self.command("browsingContext.getTree"))["contexts"][0]["context"]
        await self.command("browsingContext.navigate", context=self._tab, url=address, wait="complete")

    async def run(self, expression: str) -> Any:
        """The value of a JavaScript expression as JSON, evaluated like in a tap handler."""
        result = await self.command(
            "script.evaluate",
            expression=f"(async () => JSON.stringify(await ({expression})))()",
            target={"context": self._tab},
            awaitPromise=True,
            userActivation=True,
        )
        if result["type"] != "success":
            raise RuntimeError(f"{expression}: {result['exceptionDetails']['text']}")
        return json.loads(result["result"].get("value", "null"))

    async def until(self, expression: str) -> Any:
        """The first value of an expression that is true."""
        for _ in range(PATIENCE_S * 10):
            if value := await self.run(expression):
                return value
            await asyncio.sleep(0.1)
        raise TimeoutError(f"{expression} stayed false; the page shows: {await self.run('document.body.innerText')}")


@contextmanager
def firefox(binary: str) -> Iterator[str]:
    """A headless Firefox with a fresh profile, a fake microphone (a tone) and a fake camera; gives its BiDi address."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in PREFERENCES.items()]
        Path(profile, "user.js").write_text("\n".join(lines), encoding="utf-8")
        log = Path(profile, "log.txt")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [binary, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0"],
                stdout=output,
                stderr=output,
                env={**os.environ, "HOME": profile, "MOZ_HEADLESS": "1"},
                start_new_session=True,
            )
        try:
            for _ in range(PATIENCE_S * 10):
                if found := re.search(r"WebDriver BiDi listening on (ws://\S+)", log.read_text(errors="replace")):
                    yield f"{found[1]}/session"
                    return
                time.sleep(0.1)
            raise RuntimeError(f"Firefox did not start: {log.read_text(errors='replace')}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE_S)


OBSERVE = """
(() => {
  const Native = window.RTCPeerConnection;
  window.peers = [];
  window.RTCPeerConnection = class extends Native {
    constructor(...options) { super(...options); window.peers.push(this); }
  };
  return true;
})()
"""
ENERGY = """
(async () => {
  for (const report of (await peers.at(-1).getStats()).values())
    if (report.type === "inbound-rtp" && report.kind === "audio") return report.totalAudioEnergy ?? 0;
  return 0;
})()
"""


PICTURES = """
(async () => {
  for (const report of (await peers.at(-1).getStats()).values())
    if (report.type === "outbound-rtp" && report.kind === "video") return report.framesEncoded ?? 0;
  return 0;
})()
"""


async def call(bidi: str, address: str) -> dict[str, Any]:
    """Make a video call, type a message, hear the answer begin, stop it, hang up; what was seen on the way."""
    async with aiohttp.ClientSession() as http, http.ws_connect(bidi, max_msg_size=0) as socket:
        page = Firefox(socket)
        await page.open(address)

        def element(testid: str) -> str:
            return f"document.querySelector('[data-testid={testid}]')"

        def state(*names: str) -> str:
            return f"{list(names)}.includes({element('state')}.dataset.state) && {element('state')}.dataset.state"

        seen: dict[str, Any] = {}
        await page.run(OBSERVE)
        await page.until(f"{element('state')}.textContent.startsWith('Ready')")
        await page.run(f"{element('start-video')}.click()")
        seen["first"] = await page.until(state("listening", "hearing"))
        await page.until(f"({PICTURES}).then((sent) => sent > 2)")
        await page.run(f"{element('mute')}.click()")
        seen["muted"] = await page.until(
            f"{element('mute')}.ariaPressed ?? {element('mute')}.getAttribute('aria-pressed')"
        )
        await page.run(f"{element('text-input')}.value = 'Tell me something long.'")
        await page.run(f"{element('send')}.click()")
        seen["answering"] = await page.until(state("speaking"))
        seen["frames"] = await page.until(f"Number({element('frames')}.textContent)")
        before = await page.run(ENERGY)
        seen["heard"] = await page.until(f"({ENERGY}).then((now) => now > {before} + 1e-5)")
        seen["captions"] = await page.until(f"{element('line-model')}?.querySelector('.heard').textContent")
        await page.run(f"{element('stop')}.click()")
        seen["stopped"] = await page.until(
            f"{element('line-model')}.dataset.status !== 'open' && {element('line-model')}.dataset.status"
        )
        await page.run(f"{element('end')}.click()")
        seen["last"] = await page.until(state("ended"))
        seen["error"] = await page.run(f"{element('error')}.textContent")
        return seen


if __name__ == "__main__":
    with firefox(sys.argv[1]) as bidi:
        print(json.dumps(asyncio.run(call(bidi, sys.argv[2]))))
