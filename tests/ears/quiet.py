"""How well a call hears quiet microphones, and whether it takes noise for speech.

    python -m tests.ears.quiet FOLDER [--detectors KIND …] [--levels DBFS …] [--words] [--tuning] [--most N]

prints, for both detectors and speech at several levels: in how many utterances speech was noticed, how much of its
beginning the turn misses although it reaches back by the pre-roll, and with ``--words`` what mini understands. Then how
often a minute noises of many kinds pass for speech. FOLDER is as :mod:`tests.ears.corpus` describes it.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.call.config import CallConfig
from app.call.turn import SpeechEnded, SpeechStarted
from app.call.vad import create_detector, create_tracker, level_dbfs
from engine.client import INPUT_RATE
from tests.ears.corpus import Recording, Wave, at_level, frames_of, read_corpus, room_noise, to_pcm, true_onset_s
from tests.ears.words import Score, understand

DETECTORS = ("webrtc", "silero")
LEVELS_DBFS = (-20, -30, -36, -42)
LEAD_S, TAIL_S = 1.5, 1.0
NOISE_S = 20
MISSED_S = 0.04
"""A turn that begins later than this after the speech has lost some of it."""
EARLY_S = 0.5
"""A turn that begins so long before the speech began in noise."""


def speech_s(kind: str, pcm: NDArray[np.int16]) -> list[tuple[float, float]]:
    """From when to when the detector ``kind`` sees speech in int16 [n] at 16 kHz, seconds."""
    config = CallConfig.from_mapping({"vad": {"kind": kind}}).vad
    detector, tracker = create_detector(config), create_tracker(config)
    found: list[tuple[float, float]] = []
    for frame in frames_of(pcm):
        match tracker.push(detector.push(frame), level_dbfs(frame)):
            case SpeechStarted(onset):
                found.append((onset / INPUT_RATE, len(pcm) / INPUT_RATE))
            case SpeechEnded(end):
                found[-1] = (found[-1][0], end / INPUT_RATE)
    return found


def sounds(recordings: Sequence[Recording], level: float) -> dict[str, NDArray[np.int16]]:
    """Each recording as a quiet microphone has it, with its room around it."""
    return {
        r.name: to_pcm(at_level(r, level, lead_s=LEAD_S, tail_s=TAIL_S, seed=zlib.crc32(r.name.encode())))
        for r in recordings
    }


def lateness_s(kind: str, recordings: Sequence[Recording], level: float) -> list[float | None]:
    """How long after the speech the detector says that it began, seconds; None where it noticed nothing, negative where
    it began in the noise before."""
    late: list[float | None] = []
    for recording, pcm in zip(recordings, sounds(recordings, level).values(), strict=True):
        begin = LEAD_S + true_onset_s(recording)
        late.append(next((onset - begin for onset, end in speech_s(kind, pcm) if end > begin), None))
    return late


def noises(recordings: Sequence[Recording]) -> Iterator[tuple[str, Wave]]:
    """Name and sound, float32 at 16 kHz: what a call hears when nobody speaks to it."""
    rng = np.random.default_rng(3)
    n = NOISE_S * INPUT_RATE
    time = np.arange(n) / INPUT_RATE
    frequency = np.maximum(np.fft.rfftfreq(n, 1 / INPUT_RATE), 20.0)

    def coloured(slope: float) -> Wave:
        wave = np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * frequency**slope, n)
        return np.asarray(wave / np.sqrt(np.mean(wave**2)), np.float32)

    swell = 10 ** (6 * np.sin(2 * np.pi * 0.3 * time) / 20)
    hum = np.sum([np.sin(2 * np.pi * 50 * k * time) / k for k in range(1, 12)], axis=0)
    clicks = np.zeros(n)
    for at in rng.uniform(0, n - 800, NOISE_S * 5).astype(int):
        clicks[at : at + 800] += rng.standard_normal(800) * np.exp(-np.arange(800) / 60)
    kinds = {
        "white": coloured(0.0),
        "pink": coloured(-0.5),
        "brown": coloured(-1.0),
        "pink, swelling by 12 dB": coloured(-0.5) * swell,
        "hum": hum / np.sqrt(np.mean(hum**2)) + 0.1 * coloured(-0.5),
        "keys": clicks / np.sqrt(np.mean(clicks**2)) + 0.1 * coloured(-0.5),
    }
    for name, wave in kinds.items():
        for level in (-30, -40, -50, -60, -70):
            sound = wave * 10 ** (level / 20)
            yield f"{name}, {level} dBFS", np.asarray(sound, np.float32)
            yield f"{name}, {level} dBFS, after silence", np.concatenate([np.zeros(3 * INPUT_RATE, np.float32), sound])
    for recording in recordings[:: max(1, len(recordings) // 12)]:
        for gain in (-20, 0, 20):
            room = room_noise(recording.wave, n, rng) * 10 ** (gain / 20)
            yield f"room of {recording.name}, {gain:+d} dB", np.asarray(room, np.float32)


def print_levels(
    recordings: Sequence[Recording], detectors: Sequence[str], levels: Sequence[float], *, words: bool
) -> None:
    preroll_s = CallConfig().turn.preroll_ms / 1000
    print(f"{len(recordings)} utterances of {len({r.speaker for r in recordings})} people, pre-roll {preroll_s:.1f} s")
    for kind in detectors:
        for level in levels:
            late = lateness_s(kind, recordings, level)
            heard = np.array([x for x in late if x is not None] or [np.nan])
            cut = np.mean([x is None or x - preroll_s > MISSED_S for x in late])
            line = f"{kind:7} {level:.0f} dBFS: noticed {np.mean([x is not None for x in late]):4.0%}"
            line += f", onset late by {np.median(heard) * 1000:4.0f} ms (median)"
            line += f", {np.percentile(heard, 90) * 1000:4.0f} ms (90th percentile), beginning cut {cut:4.0%}"
            line += f", begun in noise {np.mean(heard < -EARLY_S):4.0%}"
            if words:
                said = understand(sounds(recordings, level), INPUT_RATE, {"vad": {"kind": kind}})
                score = Score()
                for recording in recordings:
                    score.add(recording.text, said[recording.name])
                line += f"; {score}"
            print(line, flush=True)


def print_noises(recordings: Sequence[Recording], detectors: Sequence[str]) -> None:
    waves = list(noises(recordings))
    minutes = sum(len(wave) for _, wave in waves) / INPUT_RATE / 60
    for kind in detectors:
        counts = {name: len(speech_s(kind, to_pcm(wave))) for name, wave in waves}
        total = sum(counts.values())
        print(f"{kind:7} {total / minutes:.2f} false onsets a minute, {total} in {len(waves)} noises")
        for name, count in counts.items():
            if count:
                print(f"          {count} in {name}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.ears.quiet", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="recorded people with a manifest.jsonl")
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=DETECTORS, help="[all]")
    parser.add_argument(
        "--levels", nargs="+", type=float, default=LEVELS_DBFS, metavar="DBFS", help="[-20 -30 -36 -42]"
    )
    parser.add_argument("--words", action="store_true", help="have mini answer, too (a second or two an utterance)")
    parser.add_argument("--tuning", action="store_true", help="the people for tuning in place of those for the report")
    parser.add_argument("--most", type=int, help="at most so many utterances, evenly chosen")
    args = parser.parse_args()
    recordings = read_corpus(args.folder, tuning=args.tuning, most=args.most)
    print_levels(recordings, args.detectors, args.levels, words=args.words)
    print_noises(recordings, args.detectors)


if __name__ == "__main__":
    main()
