"""One bundle through one call: the same microphone, detector, turn machine, units and engine; only RTP is left out.

A bundle that was not recorded replays as if the engine took no time: after each 20 ms of the microphone all results
take effect, and 20 ms of speech are played. A recording replays its own timing: each result, each pull of the track and
each client event takes effect where it did, so that the event log is the recorded one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.call.call import Call
from app.call.media_time import FRAME_SAMPLES
from app.call.stop_words import StopWords
from app.replay.bundle import Bundle
from app.replay.bundle_lines import TimedCommand, TimedInput
from app.replay.bundle_media import Picture, read_still
from app.replay.leak import LeakyRoom
from app.replay.record_files import SpeechFile
from engine.client import INPUT_RATE, OUTPUT_RATE, Engine, EngineError

PULL_SAMPLES = FRAME_SAMPLES * OUTPUT_RATE // INPUT_RATE
QUIET_TAIL_S = 1.5
"""Silence that follows a bundle's audio at least, longer than the detector needs to see the end of a turn."""

MAX_TAIL_S = 120.0
"""Silence that follows it at most, while the last answer is played out."""

BUSY = ("hearing", "thinking", "speaking", "interrupted")
"""Phases of a call that something must still follow from."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came out of a call."""

    events: list[dict[str, Any]] = field(default_factory=list)
    """The server's events, in order."""
    seconds: float = 0.0
    """Media time at the end of the call."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the result should know."""


async def replay_call(
    bundle: Bundle,
    engine: Engine,
    *,
    answer: Path | None = None,
    real_time: bool = False,
    max_tail_s: float = MAX_TAIL_S,
    stop_words: StopWords | None = None,
) -> Replayed:
    """Replay ``bundle`` with a started engine; ``answer`` is the WAV file that gets what the listener hears.

    ``stop_words``, where they are given, remember from call to call what the engine answers to them. ``real_time``
    feeds it no faster than it was spoken, which changes nothing of what happens. Raises BundleError where a picture
    turns out to be damaged, and EngineError where the engine opens no session.
    """
    here = engine.info.name if engine.info is not None else None
    if engine.info is not None and engine.info.hears:
        stop_words = stop_words or StopWords(engine)
    notes = []
    if bundle.timing is not None and bundle.engine == here:
        async with _call(bundle, engine, answer, None, held=True) as (call, log):
            as_recorded = await _play_recording(call, bundle, bundle.timing, _Pace(real_time))
        if as_recorded:
            return Replayed(log.events, call.t_samples / INPUT_RATE)
        notes.append("the engine does not answer as it did in the recording: its timing was left out")
    elif bundle.timing is not None:
        notes.append(f"the timing of a recording with the engine {bundle.engine} was left out: this is {here}")
    async with _call(bundle, engine, answer, stop_words, held=False) as (call, log):
        if not await _play(call, bundle, _Pace(real_time), max_tail_s):
            notes.append(f"the call was cut off {max_tail_s:.0f} s after the end of its audio")
    return Replayed(log.events, call.t_samples / INPUT_RATE, notes)


@asynccontextmanager
async def _call(
    bundle: Bundle, engine: Engine, answer: Path | None, stop_words: StopWords | None, *, held: bool
) -> AsyncIterator[tuple[Call, _Log]]:
    """A call that is set up as the bundle asks for, and closed at the end."""
    session = await engine.open(bundle.config.session_options())
    log = _Log(answer)
    call = Call(bundle.call_id, bundle.config, session, log, engine=engine.info, stop_words=stop_words, held=held)
    try:
        yield call, log
    finally:
        await call.close("replayed")
        log.close()


async def _play(call: Call, bundle: Bundle, pace: _Pace, max_tail_s: float) -> bool:
    """Feed the bundle and then silence, until the last turn is answered; False if that took too long."""
    inputs = _Inputs(bundle)
    audio, rate = bundle.audio.samples, bundle.audio.rate
    room = LeakyRoom(bundle.leak) if bundle.leak is not None else None
    step = rate // 100  # 10 ms: never more than one frame of media time at once
    pts = 0
    while True:
        inputs.give(call)
        await call.idle()
        silent_s = (pts - len(audio)) / rate
        if silent_s >= QUIET_TAIL_S and not inputs.commands:
            if call.phase not in BUSY and not call.output.buffered:
                return True
            if silent_s >= max_tail_s:
                return False
        before = call.t_samples
        while call.t_samples == before:
            samples = audio[pts : pts + step]
            if len(samples) < step:
                samples = np.pad(samples, (0, step - len(samples)))
            call.microphone.push(room.hear(samples) if room is not None else samples, rate, pts)
            pts += step
        await call.idle()
        played = call.output.pull(PULL_SAMPLES)
        if room is not None:
            room.play(played)
        await pace.reach(call.t_samples)


async def _play_recording(call: Call, bundle: Bundle, timing: Sequence[TimedInput], pace: _Pace) -> bool:
    """Repeat the inputs of a recording in their order; False as soon as the engine does something else than then."""
    inputs = deque(timing)
    for begin in range(0, len(bundle.audio.samples) + 1, FRAME_SAMPLES):
        while inputs and inputs[0].at <= call.t_samples:
            timed = inputs.popleft()
            match timed.kind:
                case "result":
                    if not await call.link.release(timed.value):
                        return False
                    await call.link.idle()  # what follows from it in the engine happens before the next input
                case "fault":
                    epoch, code, message, retryable = timed.value
                    call.fault(epoch, EngineError(code, message, retryable=retryable))
                    await call.link.idle()  # the engine leaves the answer before the next input
                case "judged":
                    call.judged(*timed.value)
                case "meant":
                    call.meant(*timed.value)
                case "pull":
                    call.output.pull(timed.value)
                case "command":
                    call.receive(bundle.commands[timed.value - 1].raw)
                    await call.link.idle()  # a long text is measured before the next input
                case "frame":
                    call.push_frame(await asyncio.to_thread(read_still, bundle.path / timed.value))
                case "paused":
                    call.microphone_paused()
                case "closed":
                    await call.close(timed.value)
        samples = bundle.audio.samples[begin : begin + FRAME_SAMPLES]
        if len(samples):
            call.microphone.push(samples, bundle.audio.rate, begin)
        await pace.reach(call.t_samples)
    return True


class _Inputs:
    """The pictures and client events of a bundle that are still to come."""

    def __init__(self, bundle: Bundle) -> None:
        self.commands: deque[TimedCommand] = deque(bundle.commands)
        self._pictures: Iterator[Picture] = bundle.pictures()
        self._picture = next(self._pictures, None)

    def give(self, call: Call) -> None:
        """Hand over what is due at the call's media time: what was seen before what is said about it."""
        now_s = call.t_samples / INPUT_RATE
        while self._picture is not None and self._picture.time_s <= now_s:
            call.push_frame(self._picture.jpeg)
            self._picture = next(self._pictures, None)
        while self.commands and self.commands[0].time_s <= now_s:
            call.receive(self.commands.popleft().raw)


class _Log:
    """The tap of a replayed call: keeps the events, and writes the speech."""

    def __init__(self, answer: Path | None) -> None:
        self.events: list[dict[str, Any]] = []
        self._speech = SpeechFile(answer) if answer is not None else None
        self._t_samples = 0

    def audio(self, pcm: NDArray[np.int16]) -> None:
        self._t_samples += len(pcm)

    def unit_frame(self, t_samples: int, jpeg: bytes) -> None:
        """An input: the bundle has it."""

    def command(self, t_samples: int, raw: str) -> None:
        """An input: the bundle has it."""

    def result(self, t_samples: int, n: int) -> None:
        """Follows from the inputs."""

    def fault(self, t_samples: int, epoch: int | None, error: EngineError) -> None:
        """An input of a recording; elsewhere it follows from the engine."""

    def judged(self, t_samples: int, end: int, probability: float) -> None:
        """An input of a recording; elsewhere it follows from the sound."""

    def meant(self, t_samples: int, end: int, stop: bool) -> None:
        """An input of a recording; elsewhere it follows from the sound."""

    def played(self, t_samples: int, epoch: int, samples: int) -> None:
        """Follows from the inputs."""

    def paused(self, t_samples: int) -> None:
        """An input: the bundle has it."""

    def event(self, envelope: Mapping[str, Any]) -> None:
        self.events.append(dict(envelope))

    def speech(self, pcm: NDArray[np.int16]) -> None:
        if self._speech is not None:
            self._speech.add(pcm.copy(), self._t_samples)

    def closed(self, reason: str) -> None:
        """The end."""

    def close(self) -> None:
        """Finish the WAV file."""
        if self._speech is not None:
            self._speech.close()


class _Pace:
    """Holds a replay back to the speed of a clock, if asked to."""

    def __init__(self, real_time: bool) -> None:
        self._begun = time.monotonic() if real_time else None

    async def reach(self, t_samples: int) -> None:
        """Wait until media time ``t_samples`` (16 kHz) may be reached."""
        if self._begun is not None:
            await asyncio.sleep(self._begun + t_samples / INPUT_RATE - time.monotonic())
