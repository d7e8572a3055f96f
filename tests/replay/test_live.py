"""A call over WebRTC, recorded by the server, replays to the identical events."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.http.conftest import StartServer, start
from tests.replay.conftest import silence, speechlike
from tests.replay.recorded import assert_replays_identically, finished_recording
from tests.webrtc.caller import Caller, Camera, Microphone, until

__all__ = ["start"]  # the fixture


async def test_a_live_call_that_was_recorded_replays_to_the_identical_events(
    start: StartServer, tmp_path: Path
) -> None:
    site = await start("--record", str(tmp_path))
    quiet = silence(0.5, 48_000)
    sound = np.concatenate([quiet, speechlike(1.3, 48_000), quiet, quiet, quiet, speechlike(1.5, 48_000)])
    caller, answer = await site.call(Caller(Microphone(sound), Camera(3), "video/VP8"))
    await caller.receive("response.done")
    caller.send("ping", nonce="one")
    await until(lambda: caller.types().count("response.done") > 1, "the second answer")
    caller.send("input.text", text="And now a typed word")
    await until(lambda: caller.types().count("response.started") > 2, "the third answer")
    await site.hang_up(answer["call_id"])
    folder = await finished_recording(tmp_path, answer["call_id"])
    events = await assert_replays_identically(folder)
    kinds = [event["type"] for event in events]
    assert kinds.count("response.started") == 3
    assert {"frame.used", "pong", "session.ending"} <= set(kinds)
    assert "metrics" not in kinds
