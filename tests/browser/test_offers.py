"""Offers of other shapes than the page's: Chromium itself says whether it can live with the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.browser.caller import Browsers, Caller
from tests.browser.conftest import ServerFactory
from tests.browser.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

CALL = """
async ({ sections, bundlePolicy, edit }) => {
  const pc = new RTCPeerConnection({ bundlePolicy, alwaysNegotiateDataChannels: sections[0] === "data" });
  const media = await navigator.mediaDevices.getUserMedia({ audio: true, video: true });
  const [microphone, camera] = [media.getAudioTracks()[0], media.getVideoTracks()[0]];
  const prefer = (transceiver, ...names) => transceiver.setCodecPreferences(
    RTCRtpSender.getCapabilities("video").codecs.filter(({ mimeType }) => names.includes(mimeType)));
  let channel = null;
  for (const section of sections) {
    if (section === "data") channel = pc.createDataChannel("events");
    if (section === "audio") pc.addTransceiver(microphone, { direction: "sendrecv" });
    if (section === "microphone") pc.addTransceiver(microphone, { direction: "sendonly" });
    if (section === "voice") pc.addTransceiver("audio", { direction: "recvonly" });
    if (section === "camera") pc.addTransceiver(camera, { direction: "sendonly" });
    if (section === "unspoken") prefer(pc.addTransceiver(camera, { direction: "sendonly" }), "video/AV1", "video/VP9");
    if (section === "screen") pc.addTransceiver(camera.clone(), { direction: "sendonly" });
    if (section === "watching") pc.addTransceiver("video", { direction: "recvonly" });
  }
  const offer = await pc.createOffer();
  if (edit) offer.sdp = offer.sdp.replace(new RegExp(edit, "g"), "");
  await pc.setLocalDescription(offer);
  const response = await fetch("/api/calls", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ type: "offer", sdp: pc.localDescription.sdp }),
  });
  const body = await response.json();
  if (response.status !== 201) return { status: response.status, body };
  const until = async (condition) => {
    for (let tries = 0; tries < 300 && !(await condition()); tries++) await new Promise((wake) => setTimeout(wake, 50));
    return Boolean(await condition());
  };
  const stat = async (type, kind, name) => {
    for (const report of (await pc.getStats()).values())
      if (report.type === type && report.kind === kind && report[name] > 0) return report[name];
    return 0;
  };
  await pc.setRemoteDescription({ type: "answer", sdp: body.sdp });
  const outcome = {
    status: response.status,
    connected: await until(() => pc.connectionState === "connected"),
    opened: await until(() => channel.readyState === "open"),
    heard: await until(() => stat("inbound-rtp", "audio", "packetsReceived")),
    spoke: await until(() => stat("outbound-rtp", "audio", "packetsSent")),
    shown: pc.getSenders().some(({ track }) => track?.kind === "video")
      && await until(() => stat("outbound-rtp", "video", "packetsSent")),
    directions: pc.getTransceivers().map(({ currentDirection }) => currentDirection),
    transports: new Set(pc.getTransceivers().map(({ sender }) => sender.transport).filter(Boolean)).size,
  };
  await fetch(`/api/calls/${body.call_id}`, { method: "DELETE" });
  pc.close();
  for (const track of media.getTracks()) track.stop();
  return outcome;
}
"""
"""Offers a call with these sections and tells what became of it. ``edit`` is cut out of the offer."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def page(browsers: Browsers, start_server: ServerFactory, listener: Path, camera: Path) -> AsyncIterator[Caller]:
    server = start_server("--engine", "scripted", "--max-calls", "4", "--offers-per-minute", "0")
    async with browsers.visit(server.address, listener, camera) as person:
        yield person


async def call(page: Caller, *sections: str, policy: str = "balanced", edit: str = "") -> dict[str, Any]:
    outcome: dict[str, Any] = await page.page.evaluate(
        CALL, {"sections": sections, "bundlePolicy": policy, "edit": edit}
    )
    return outcome


@pytest.mark.parametrize("policy", ["balanced", "max-bundle", "max-compat"])
@pytest.mark.parametrize(
    "sections",
    [
        ("audio", "camera", "data"),
        ("camera", "audio", "data"),
        ("data", "audio", "camera"),
        ("watching", "audio", "screen", "camera", "data"),
        ("voice", "microphone", "camera", "data"),
    ],
    ids=" ".join,
)
async def test_every_order_of_sections_connects(page: Caller, sections: tuple[str, ...], policy: str) -> None:
    outcome = await call(page, *sections, policy=policy)
    assert outcome["status"] == 201
    assert (outcome["connected"], outcome["opened"], outcome["transports"]) == (True, True, 1)
    assert (outcome["heard"], outcome["spoke"], outcome["shown"]) == (True, True, True)


@pytest.mark.parametrize("sections", [("audio", "unspoken", "data"), ("data", "unspoken", "audio")], ids=" ".join)
async def test_a_rejected_camera_leaves_a_voice_call(page: Caller, sections: tuple[str, ...]) -> None:
    outcome = await call(page, *sections)
    assert outcome["status"] == 201
    assert (outcome["connected"], outcome["opened"], outcome["heard"], outcome["spoke"]) == (True, True, True, True)
    assert outcome["shown"] is False
    assert outcome["directions"] == ["sendrecv"]  # Chromium takes a stopped transceiver off its list


async def test_the_first_section_of_the_bundle_may_be_the_rejected_one(page: Caller) -> None:
    outcome = await call(page, "unspoken", "audio", "data")
    assert (outcome["connected"], outcome["opened"], outcome["heard"], outcome["spoke"]) == (True, True, True, True)


async def test_without_a_bundle_each_section_has_its_own_transport(page: Caller) -> None:
    outcome = await call(page, "camera", "audio", "data", edit=r"a=group:BUNDLE[^\n]*\n")
    assert outcome["status"] == 201
    assert (outcome["connected"], outcome["opened"], outcome["transports"]) == (True, True, 2)
    assert (outcome["heard"], outcome["spoke"], outcome["shown"]) == (True, True, True)


UNSPOKEN = """
const add = RTCPeerConnection.prototype.addTransceiver;
RTCPeerConnection.prototype.addTransceiver = function (...what) {
  const transceiver = add.apply(this, what);
  const codecs = RTCRtpSender.getCapabilities("video").codecs.filter(({ mimeType }) => /AV1|VP9/.test(mimeType));
  if (transceiver.receiver.track.kind === "video") transceiver.setCodecPreferences(codecs);
  return transceiver;
};
"""
"""Makes the page's own offer one of a browser without VP8 and H264."""


async def test_the_page_says_that_a_call_without_a_picture_goes_on_by_voice(
    browsers: Browsers, scripted: Server, talker: Path, camera: Path
) -> None:
    async with browsers.visit(scripted.address, talker, camera, script=UNSPOKEN) as person:
        await person.start("video")
        await person.shows("error", "this goes on as a voice call")
        await expect(person["camera"]).to_be_disabled()
        await expect(person.page.locator("body")).to_have_attribute("data-mode", "voice")
        assert (
            await person.page.evaluate("document.getElementById('self-video').srcObject.getVideoTracks().length") == 0
        )
        await person.state("speaking")
        await person.hears()
        assert person.complaints == []


async def test_without_a_picture_a_voice_call_has_nothing_to_say_about_it(
    browsers: Browsers, scripted: Server, listener: Path
) -> None:
    async with browsers.visit(scripted.address, listener, script=UNSPOKEN) as person:
        await person.start("voice")
        await expect(person["error"]).to_be_hidden()
        await expect(person["camera"]).to_be_disabled()
