"""How long a person waits for the answer, over real WebRTC: from their last sample to its first audible one.

    python -m tests.browser.gap CORPUS [--most 24] [--policy before --policy silence] [flags of python -m app]

starts the server with mini and has people of the corpus speak to it in real time, through one call per policy. They
take turns, so that every policy meets the machine as busy as the others. Both ends of a gap are on the caller's clock:
when the frame with the last sample of the utterance (30 dB below its loudest) was handed to the sender, and when the
first audible frame was received and decoded. A browser adds its own playout delay to that, and nobody else's network.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import aiohttp
import librosa
import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame
from numpy.typing import NDArray

from app.replay.turns import POLICIES
from app.webrtc import patches
from app.webrtc.patches import host_addresses
from engine.client import INPUT_RATE
from tests.browser.server import Server
from tests.ears.corpus import read_corpus, to_pcm
from tests.turns.scenes import speech
from tests.webrtc.caller import Caller

RATE, FRAME = 48_000, 960
AUDIBLE_RMS = 200.0
"""int16; mini's silence is below, its softest syllable above."""
PATIENCE_S = 12.0
PAUSE_S = 0.8


class Person(MediaStreamTrack):
    """A microphone in a quiet room, in real time, into which something is said now and then."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.said_at = 0.0
        """When the last frame of what is said was handed over, ``time.monotonic()``."""
        self.said = asyncio.Event()
        self._left: list[NDArray[np.int16]] = []
        self._position = 0
        self._begin = 0.0
        self._noise = np.random.default_rng(0)

    def say(self, pcm: NDArray[np.int16]) -> None:
        """int16 [n] at 48 kHz, from the next frame on."""
        padded = np.pad(pcm, (0, -len(pcm) % FRAME))
        self.said.clear()
        self._left = list(padded.reshape(-1, FRAME))

    async def recv(self) -> AudioFrame:
        self._begin = self._begin or time.monotonic()
        await asyncio.sleep(max(0.0, self._begin + self._position / RATE - time.monotonic()))
        samples = self._noise.normal(0, 4, FRAME).round().astype(np.int16)
        if self._left:
            samples += self._left.pop(0)
            if not self._left:
                self.said_at = time.monotonic()
                self.said.set()
        frame = AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._position, Fraction(1, RATE)
        self._position += FRAME
        return frame


class Listener(Caller):
    """Notes when audible sound came."""

    def __init__(self, microphone: Person) -> None:
        super().__init__(microphone)
        self.person = microphone
        self.audible: list[float] = []
        self.answered = asyncio.Event()
        self.channel.on("message", lambda raw: self.answered.set() if '"response.done"' in raw else None)

    def _listen(self, track: Any) -> None:
        async def listen() -> None:
            while True:
                try:
                    frame = await track.recv()
                except MediaStreamError:
                    return
                if np.sqrt(np.mean(frame.to_ndarray().astype(np.float64) ** 2)) > AUDIBLE_RMS:
                    self.audible.append(time.monotonic())

        self._listener = asyncio.create_task(listen())


async def gap_of(listener: Listener, said: NDArray[np.int16]) -> dict[str, float] | None:
    """Have the person say int16 [n] at 48 kHz; seconds to the answer's first audible frame, and the call's own timings
    (ms). None where the turn was cut off or not answered."""
    before = len(listener.of_type("response.done"))
    begun = len(listener.of_type("response.started"))
    listener.audible.clear()
    listener.answered.clear()
    listener.person.say(said)
    await listener.person.said.wait()
    cut_off = len(listener.of_type("response.started")) > begun
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(listener.answered.wait(), PATIENCE_S)
    await asyncio.sleep(PAUSE_S)
    done = listener.of_type("response.done")[before:]
    heard = [at for at in listener.audible if at > listener.person.said_at]
    if cut_off or not done or not heard:
        return None
    timings = {key: value for key, value in done[0]["data"]["timings"].items() if value is not None}
    return {"gap_s": heard[0] - listener.person.said_at, **timings}


async def measure(
    address: str, said: Mapping[str, NDArray[np.int16]], policies: Mapping[str, Mapping[str, Any]]
) -> None:
    """Print a line for each turn, and one for each policy."""
    patches.apply()
    host_addresses.choose(["127.0.0.1"])
    listeners: dict[str, Listener] = {}
    gaps: dict[str, list[dict[str, float]]] = defaultdict(list)
    failed: dict[str, int] = defaultdict(int)
    connector = aiohttp.TCPConnector(ssl=False)
    async with aiohttp.ClientSession(address, connector=connector, headers={"Origin": address}) as http:
        for name, policy in policies.items():
            listener = listeners[name] = Listener(Person())
            async with http.post(
                "/api/calls", json={"type": "offer", "sdp": await listener.offer(), "options": policy}
            ) as response:
                answer = await response.json()
                assert response.status == 201, answer
            await listener.accept(answer["sdp"])
            await listener.connected()
        await asyncio.sleep(1.0)
        for words, pcm in said.items():
            for name, listener in listeners.items():
                result = await gap_of(listener, pcm)
                print(f"{name}, {words}: {one_turn(result)}", flush=True)
                if result is None:
                    failed[name] += 1
                else:
                    gaps[name].append(result)
    for name, listener in listeners.items():
        metrics = [event["data"] for event in listener.events if event["type"] == "metrics"]
        print(summary(name, gaps[name], failed[name], metrics[-1] if metrics else {}), flush=True)
        await listener.close()


PARTS = ("endpoint_ms", "prefill_ms", "first_text_ms", "first_audio_ms")


def one_turn(gap: Mapping[str, float] | None) -> str:
    if gap is None:
        return "cut off or not answered"
    parts = ", ".join(f"{key} {gap[key]:.0f}" for key in PARTS if key in gap)
    return f"{1000 * gap['gap_s']:.0f} ms ({parts})"


def summary(name: str, gaps: Sequence[Mapping[str, float]], failed: int, metrics: Mapping[str, Any]) -> str:
    """What there is to tell of one policy."""
    if not gaps:
        return f"{name}: nobody was answered, {failed} failed"
    p50, p90 = np.percentile([1000 * gap["gap_s"] for gap in gaps], [50, 90])
    line = f"{name}: gap p50 {p50:.0f} ms, p90 {p90:.0f} ms of {len(gaps)} turns ({failed} cut off or not answered)"
    parts = {key: [gap[key] for gap in gaps if key in gap] for key in PARTS}
    line += "; medians in the call: " + ", ".join(f"{k} {np.median(v):.0f}" for k, v in parts.items() if v)
    costs = {key: value for key, value in metrics.items() if key.startswith("drafts_") or key == "underruns"}
    return f"{line}; {json.dumps(costs)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.gap", description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--most", type=int, default=24, help="utterances [24]")
    parser.add_argument("--policy", action="append", help="a name of app.replay.turns or options as JSON [all]")
    parser.add_argument(
        "--tuning", action="store_true", help="of the people for tuning in place of those for the report"
    )
    args, flags = parser.parse_known_args()
    names = args.policy or list(POLICIES)
    policies = {name: POLICIES[name] if name in POLICIES else json.loads(name) for name in names}
    people = read_corpus(args.corpus, tuning=args.tuning, most=args.most)
    said = {
        f"{person.text} ({person.name})": to_pcm(librosa.resample(speech(person), orig_sr=INPUT_RATE, target_sr=RATE))
        for person in people
    }
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), *flags).start()
        try:
            asyncio.run(measure(server.address, said, policies))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
