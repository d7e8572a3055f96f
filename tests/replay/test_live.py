"""A call over WebRTC, recorded by the server, replays to the identical events."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import soundfile

from tests.http.conftest import StartServer, start
from tests.replay.conftest import silence
from tests.replay.recorded import assert_replays_identically, finished_recording
from tests.speechlike import speechlike
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


async def test_a_recording_keeps_what_was_heard_in_place_of_lost_packets(start: StartServer, tmp_path: Path) -> None:
    site = await start("--record", str(tmp_path))
    caller = Caller(Microphone(np.concatenate([silence(0.5, 48_000), speechlike(2.0, 48_000)])))
    await_answer = caller.receive("response.done")
    _, answer = await site.call(caller)
    dropped = lose_every_tenth_voice_packet(caller)
    await await_answer
    await site.hang_up(answer["call_id"])
    folder = await finished_recording(tmp_path, answer["call_id"])
    await assert_replays_identically(folder)
    heard, rate = soundfile.read(next(folder.glob("audio.*")), dtype="int16")
    voiced = np.flatnonzero(np.abs(heard) > 1_000)
    assert len(dropped) > 10
    assert longest_run(heard[voiced[0] : voiced[-1]] == 0) < rate * 0.010


def lose_every_tenth_voice_packet(caller: Caller) -> list[bytes]:
    """From now on; what was lost is in the list."""
    transport = caller.transport()
    send, dropped, sent = transport._send, list[bytes](), itertools.count()

    async def lossy(data: bytes) -> None:
        if 128 <= data[0] <= 191 and not 192 <= data[1] <= 223 and next(sent) % 10 == 9:  # SRTP (RFC 5761 section 4)
            dropped.append(data)
        else:
            await send(data)

    transport._send = lossy
    return dropped


def longest_run(flags: np.ndarray) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))
