"""What is speech and what is not: recorded people, noise, hum, clipping, silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from app.call.config import CallConfig, VadConfig
from app.call.turn import Lull, LullOver, SpeechEnded, SpeechStarted
from app.call.vad import SpeechTracker, create_detector, create_tracker, level_dbfs
from app.call.vad.spoken import SpokenTime
from tests.ears.corpus import Recording, at_level, true_onset_s

SPEECH = sorted((Path(__file__).parents[1] / "data" / "speech").rglob("*.flac"))
KINDS = ["webrtc", "silero"]


def events(kind: str, wave: np.ndarray) -> list[SpeechStarted | SpeechEnded]:
    config = CallConfig.from_mapping({"vad": {"kind": kind}}).vad
    detector, tracker = create_detector(config), create_tracker(config)
    pcm = np.clip(np.rint(wave), -32768, 32767).astype(np.int16)
    frames = (pcm[i : i + 320] for i in range(0, len(pcm) - 319, 320))
    found = (tracker.push(detector.push(frame), level_dbfs(frame)) for frame in frames)
    return [event for event in found if isinstance(event, SpeechStarted | SpeechEnded)]


def after_silence(sound: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(48_000), sound])


TIME = np.arange(80_000) / 16_000
NOISE = np.random.default_rng(7).standard_normal(80_000)
NO_SPEECH = {
    "digital silence": TIME * 0,
    "offset": TIME * 0 + 9_000,
    "rail": TIME * 0 + 32_767,
    "step": np.where(TIME > 2, 20_000, 0),
    "quiet noise": 30 * NOISE,
    "loud noise": after_silence(3_000 * NOISE),
    "clipped noise": after_silence(90_000 * NOISE),
    "clipped hum": after_silence(90_000 * np.sin(2 * np.pi * 100 * TIME)),
    "buzz": after_silence(np.sum([2_000 / k * np.sin(2 * np.pi * 50 * k * TIME) for k in range(1, 12)], axis=0)),
    **{f"hum {f} Hz": after_silence(3_000 * np.sin(2 * np.pi * f * TIME)) for f in (50, 60, 120, 440, 1_000)},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NO_SPEECH)
def test_no_turn_without_speech(kind: str, name: str) -> None:
    assert events(kind, NO_SPEECH[name]) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.skipif(not SPEECH, reason="no recorded speech in tests/data/speech")
def test_recorded_people_are_heard_once(kind: str) -> None:
    """Each recording, in a little room noise, is one stretch of speech or two (a pause inside), and it ends."""
    for path in SPEECH[:10]:
        speech, rate = soundfile.read(path, dtype="int16")
        assert rate == 16_000
        room = 10 * np.random.default_rng(1).standard_normal(len(speech) + 56_000)
        room[24_000 : 24_000 + len(speech)] += speech
        found = events(kind, room)
        assert 2 <= len(found) <= 4, path.name
        assert isinstance(found[0], SpeechStarted)
        assert isinstance(found[-1], SpeechEnded)
        assert 22_000 < found[0].onset < 24_000 + len(speech)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_frames_give_the_same_answers(kind: str) -> None:
    config = CallConfig.from_mapping({"vad": {"kind": kind}}).vad
    frames = (2_000 * NOISE[:32_000]).astype(np.int16).reshape(-1, 320)
    first, second = create_detector(config), create_detector(config)
    assert [first.push(frame) for frame in frames] == [second.push(frame) for frame in frames]


def track(flags: str, *, lulls: bool = False) -> list[str]:
    """Runs the tracker over frames: x voiced, . silent, _ faint but still taken for voice by the detector, , the same
    not as faint; answers with what it found at which frame."""
    tracker = SpeechTracker(
        on=0.5, off=0.3, fall_db=25.0, sure=0.0, onset_ms=60, onset_window_ms=100, lull_ms=100, end_silence_ms=200,
        end_voiced_share=0.1, end_quiet_ms=60, reach_back_ms=0,
    )  # fmt: skip
    found = []
    for i, flag in enumerate(flags):
        level = {"_": -56.0, ",": -54.0}.get(flag, -30.0)
        match tracker.push({"x": 1.0, "~": 0.4, ".": 0.0}.get(flag, 0.9), level):
            case SpeechStarted(onset):
                found.append(f"start {onset // 320} at {i}")
            case SpeechEnded(end, voiced_ms):
                found.append(f"end {end // 320} at {i}, {voiced_ms} ms")
            case Lull(end, voiced_ms) if lulls:
                found.append(f"lull {end // 320} at {i}, {voiced_ms} ms")
            case LullOver() if lulls:
                found.append(f"over at {i}")
    return found


def test_onset_needs_enough_voiced_time() -> None:
    assert track(".x.x...x..x..") == []
    assert track("..x.xx....") == ["start 2 at 5"]


def test_one_click_does_not_hold_a_turn_open() -> None:
    assert track("xxxx" + "." * 4 + "x" + "." * 20) == ["start 0 at 2", "end 9 at 13, 100 ms"]


def test_what_looks_like_a_click_may_be_the_next_word() -> None:
    assert track("xxxx" + "." * 8 + "x.xxx") == ["start 0 at 2"]
    assert track("xxxx" + "." * 8 + "x" + "." * 9) == ["start 0 at 2", "end 13 at 15, 100 ms"]


def test_probabilities_have_hysteresis() -> None:
    assert track("~~~~~~") == []
    assert track("xxx~~~" + "." * 12) == ["start 0 at 2", "end 6 at 14, 120 ms"]


def test_level() -> None:
    assert level_dbfs(np.full(320, 20_000, np.int16)) == -96.0
    tone = np.round(32_767 * np.sin(2 * np.pi * np.arange(320) / 32)).astype(np.int16)
    assert level_dbfs(tone) == pytest.approx(-3.01, abs=0.01)
    assert VadConfig().kind == "silero"


def test_speech_ends_where_it_grows_faint_not_where_the_detector_notices() -> None:
    """Which is some 80 ms later. Who speaks softly from the beginning is heard."""
    assert track("xxxx" + "_" * 5 + "." * 12, lulls=True) == [
        "start 0 at 2", "lull 4 at 8, 80 ms", "end 4 at 12, 80 ms",
    ]  # fmt: skip
    assert track("xxxx" + "," * 5 + "." * 12)[-1] == "end 9 at 17, 180 ms"
    assert track("_" * 5 + "." * 12)[-1] == "end 5 at 13, 100 ms"
    last_second = track("x" * 4 + "," * 60 + "_" * 2 + "." * 12)[-1]
    assert last_second == "end 66 at 74, 1320 ms", "what was louder before it does not count"


def test_a_lull_is_told_once_and_so_is_its_end() -> None:
    assert track("xxxx" + "." * 6 + "xx" + "." * 12, lulls=True) == [
        "start 0 at 2", "lull 4 at 8, 80 ms", "over at 10", "lull 12 at 16, 120 ms", "end 12 at 20, 120 ms",
    ]  # fmt: skip
    assert track("xxx" + "." * 12 + "xxx" + "." * 5, lulls=True)[-2:] == ["start 15 at 17", "lull 18 at 22, 60 ms"]


def test_speech_that_was_ended_from_outside_begins_anew() -> None:
    config = CallConfig().vad
    tracker = create_tracker(config)
    for _ in range(10):
        tracker.push(1.0, -40.0)
    tracker.end()
    assert tracker.voiced_ms == 0
    found = [tracker.push(1.0, -40.0) for _ in range(4)]
    assert found[-1] == SpeechStarted(10 * 320)


def onsets(levels: list[float], voiced_from: int, reach_back_ms: int = VadConfig().reach_back_ms) -> list[int]:
    """In which frames speech begins for a tracker that hears a voice from frame ``voiced_from`` on."""
    tracker = create_tracker(VadConfig(reach_back_ms=reach_back_ms))
    found = (tracker.push(float(k >= voiced_from), level) for k, level in enumerate(levels))
    return [event.onset // 320 for event in found if isinstance(event, SpeechStarted)]


ROOM, VOICE = -70.0, -45.0


def test_speech_that_was_noticed_late_begins_200_ms_after_its_sound_which_the_preroll_covers() -> None:
    assert onsets([ROOM] * 100 + [VOICE] * 50, 120) == [110]
    assert onsets([ROOM] * 100 + [VOICE] * 10 + [ROOM] * 12 + [VOICE] * 50, 125) == [110]  # a spelled letter
    assert onsets([ROOM] * 100 + [VOICE] * 50, 110) == [110]


def test_looking_back_ends_with_a_pause_with_the_option_and_with_the_room() -> None:
    assert onsets([ROOM] * 100 + [VOICE] * 10 + [ROOM] * 30 + [VOICE] * 50, 143) == [143]  # a noise before it
    assert onsets([ROOM] * 150, 120) == [120]
    assert onsets([ROOM] * 100 + [VOICE] * 80, 150) == [120]
    assert onsets([ROOM] * 100 + [VOICE] * 50, 120, reach_back_ms=0) == [120]
    assert onsets([VOICE] * 60, 20) == [20]  # the call began in the middle of it: there is no room to stand out from


def test_speech_does_not_reach_back_into_the_speech_before_it() -> None:
    tracker = create_tracker(VadConfig())
    flags = [False] * 50 + [True] * 20 + [False] * 45 + [True] * 20
    levels = [ROOM] * 50 + [VOICE] * 85  # something loud goes on between two stretches of speech
    found = [tracker.push(float(flag), level) for flag, level in zip(flags, levels, strict=True)]
    ended = next(k for k, event in enumerate(found) if isinstance(event, SpeechEnded))
    first, second = (event.onset // 320 for event in found if isinstance(event, SpeechStarted))
    assert first == 50
    assert ended + 1 <= second <= 115


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [-20, -30, -36, -42])
def test_a_quiet_microphone_keeps_the_first_word(kind: str, level: float) -> None:
    """A turn begins before its speech does, with the pre-roll of the call."""
    preroll = CallConfig().turn.preroll_ms * 16
    for path in SPEECH:
        wave, _ = soundfile.read(path, dtype="float32")
        recording = Recording(path.stem, "", "", wave)
        quiet = at_level(recording, level, lead_s=1.5, tail_s=1.0, seed=0)
        begin = round(16_000 * (1.5 + true_onset_s(recording)))
        starts = [event for event in events(kind, 32_768 * quiet) if isinstance(event, SpeechStarted)]
        assert begin - 16_000 < starts[0].onset <= begin + preroll, path.name


def spoken_ms(wave: np.ndarray) -> int:
    """How much of ``wave``, float32 with full scale at 1, a call takes for said: the most at any time."""
    config = CallConfig().vad
    detector, tracker = create_detector(config), create_tracker(config)
    pcm = (32_767 * np.concatenate([np.zeros(16_000), wave, np.zeros(16_000)])).astype(np.int16)
    most = 0
    for i in range(0, len(pcm) - 319, 320):
        frame = pcm[i : i + 320]
        tracker.push(detector.push(frame), level_dbfs(frame))
        most = max(most, tracker.spoken_ms)
    return most


def test_a_burst_of_voice_is_speech_when_its_surest_moment_is() -> None:
    spoken = SpokenTime(0.7)
    for probability in (0.6,) * 30:
        spoken.push(probability, 1)
    assert spoken.ms == 0  # long, and never sure: a laugh
    spoken.lull()
    for probability in (0.9,) * 10:
        spoken.push(probability, 1)
    assert spoken.ms == 200  # of this burst alone
    spoken.lull()
    for probability in (0.9,) * 6:
        spoken.push(probability, 1)
    assert spoken.ms == 200  # too short to be sure of


@pytest.mark.parametrize("path", SPEECH, ids=lambda path: path.stem)
def test_all_that_people_say_is_taken_for_said(path: Path) -> None:
    wave, _ = soundfile.read(path, dtype="float32")
    assert spoken_ms(wave * (0.3 / np.abs(wave).max())) > 400
