"""What mini understands over a network that loses packets, with gaps left silent and with gaps repaired.

    python -m tests.ears.loss FOLDER [--loss 0.1] [--draws N] [--tuning] [--most N]

Each utterance is encoded as a browser does, loses packets at random or in bursts, and passes the call's jitter buffer,
decoder and microphone; the same packets are lost for every decoder. ``silence`` is aiortc's decoder, ``concealed`` ours
for a sender that adds no copies, ``recovered`` ours for one that does, as browsers do. FOLDER is as
:mod:`tests.ears.corpus` describes it.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
from aiortc.codecs.opus import OpusDecoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtp import RtpPacket
from av import AudioFrame, AudioResampler, CodecContext
from av.frame import Frame
from numpy.typing import NDArray

from app.call.microphone import Microphone
from app.webrtc.jitter import AudioJitterBuffer
from app.webrtc.patches.opus_decoder import LossRepair
from engine.client import INPUT_RATE
from tests.ears.corpus import Recording, Wave, at_level, read_corpus
from tests.ears.words import Score, understand

RTC_RATE = 48_000
PACKET_SAMPLES = 960
BIT_RATE = 32_000
"""What the answer asks browsers for (app/webrtc/encoding.py)."""

LEVEL_DBFS = -26.0
BURST_PACKETS = 3.0
"""Mean length of a burst, 60 ms."""

Pattern = Callable[[int, float, np.random.Generator], NDArray[np.bool_]]
"""Which of so many packets are lost, where this share shall be."""


def encode(wave: Wave, *, fec: bool, expected_loss: float) -> list[bytes]:
    """float32 [n] at 16 kHz → an Opus packet each 20 ms, with copies of the packet before if ``fec``."""
    codec = CodecContext.create("libopus", "w")
    codec.bit_rate, codec.sample_rate, codec.format, codec.layout = BIT_RATE, RTC_RATE, "flt", "mono"
    codec.options = {"application": "voip", "fec": str(int(fec)), "packet_loss": str(round(100 * expected_loss))}
    whole = AudioFrame.from_ndarray(wave[np.newaxis], format="flt", layout="mono")
    whole.sample_rate, whole.pts, whole.time_base = INPUT_RATE, 0, Fraction(1, INPUT_RATE)
    resampler = AudioResampler("flt", "mono", RTC_RATE, frame_size=PACKET_SAMPLES)
    return [bytes(packet) for frame in resampler.resample(whole) for packet in codec.encode(frame)]


def lost_at_random(packets: int, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Each packet is lost with probability ``share``."""
    return rng.random(packets) < share


def lost_in_bursts(packets: int, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Bursts of :data:`BURST_PACKETS` on average (Gilbert's model), ``share`` of all packets."""
    end = 1 / BURST_PACKETS
    begin = end * share / (1 - share)
    lost = np.zeros(packets, bool)
    inside = rng.random() < share
    for k in range(packets):
        lost[k] = inside
        inside = rng.random() < (1 - end if inside else begin)
    return lost


def received(packets: Sequence[bytes], lost: NDArray[np.bool_], decoder: OpusDecoder) -> NDArray[np.int16]:
    """What the call hears, int16 [n] at 16 kHz."""
    heard: list[NDArray[np.int16]] = []
    microphone, buffer = Microphone(heard.append), AudioJitterBuffer()
    for number in map(int, np.flatnonzero(~lost)):
        packet = RtpPacket(payload_type=96, sequence_number=number, timestamp=PACKET_SAMPLES * number)
        packet._data = packets[number]  # type: ignore[attr-defined]
        for frame in buffer.add(packet):
            for sound in decoder.decode(frame.encoded):
                assert isinstance(sound, AudioFrame)
                assert sound.pts is not None
                pcm = sound.to_ndarray().reshape(-1, len(sound.layout.channels))[:, 0]
                microphone.push(pcm, sound.sample_rate, sound.pts)
    return np.concatenate(heard)


class Silent(OpusDecoder):
    """aiortc's decoder: what is lost stays silent."""


class Repairing(OpusDecoder):
    """The call's decoder, whether or not its patch is in place."""

    def __init__(self) -> None:
        self._repair = LossRepair()

    def decode(self, encoded_frame: JitterFrame) -> list[Frame]:
        return self._repair.decode(encoded_frame.data, encoded_frame.timestamp)


def score(
    recordings: Sequence[Recording],
    pattern: Pattern,
    share: float,
    decoder: type[OpusDecoder],
    *,
    fec: bool,
    draws: int = 1,
) -> Score:
    """What mini understands of all of them."""
    sounds, texts = {}, {}
    for recording, draw in product(recordings, range(draws)):
        name = f"{recording.name}-{draw}"
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        wave = at_level(recording, LEVEL_DBFS, lead_s=0.5, tail_s=1.0, seed=draw)
        packets = encode(wave, fec=fec, expected_loss=share)
        sounds[name] = received(packets, pattern(len(packets), share, rng), decoder())
        texts[name] = recording.text
    said = understand(sounds, INPUT_RATE)
    total = Score()
    for name, text in texts.items():
        total.add(text, said[name])
    return total


WAYS: tuple[tuple[str, type[OpusDecoder], bool], ...] = (
    ("silence", Silent, True),
    ("concealed", Repairing, False),
    ("recovered", Repairing, True),
)
"""Name, decoder, and whether the sender adds copies."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.ears.loss", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="recorded people with a manifest.jsonl")
    parser.add_argument("--loss", type=float, default=0.1, help="share of the packets that is lost [0.1]")
    parser.add_argument("--tuning", action="store_true", help="the people for tuning in place of those for the report")
    parser.add_argument("--most", type=int, help="at most so many utterances, evenly chosen")
    parser.add_argument("--draws", type=int, default=1, help="how often each utterance is sent, with other losses [1]")
    args = parser.parse_args()
    recordings = read_corpus(args.folder, tuning=args.tuning, most=args.most)
    people = {recording.speaker for recording in recordings}
    print(f"{len(recordings)} utterances of {len(people)} people, {args.loss:.0%} of packets lost")
    print(f"none:                 {score(recordings, lost_at_random, 0.0, Silent, fec=True)}", flush=True)
    for name, pattern in (("at random", lost_at_random), ("in bursts", lost_in_bursts)):
        for way, decoder, fec in WAYS:
            total = score(recordings, pattern, args.loss, decoder, fec=fec, draws=args.draws)
            print(f"{name}, {way:9}: {total}", flush=True)


if __name__ == "__main__":
    main()
