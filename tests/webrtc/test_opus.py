"""Lost Opus packets are recovered from the next one or concealed; libopus is used through ctypes."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from aiortc.codecs import opus
from aiortc.jitterbuffer import JitterFrame
from av import AudioFrame, CodecContext, Packet
from av.error import FFmpegError
from av.frame import Frame
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.webrtc.patches import opus_decoder
from app.webrtc.patches.opus_decoder import MAX_GUESSED, MAX_LOSS, LossRepair

PACKET = 960
SPEECH = Path(__file__).parents[1] / "data" / "speech" / "digits-woman.flac"


@cache
def packets(*, fec: bool, milliseconds: int = 20) -> list[bytes]:
    """A person who says digits for two seconds, as a browser encodes it."""
    speech, rate = soundfile.read(SPEECH, dtype="float32")
    voice = np.interp(np.arange(96_000) / 48_000, np.arange(len(speech)) / rate, speech) * 60_000
    codec = CodecContext.create("libopus", "w")
    codec.bit_rate, codec.sample_rate, codec.format, codec.layout = 32_000, 48_000, "s16", "mono"
    codec.options = {
        "application": "voip", "fec": str(int(fec)), "packet_loss": "10", "frame_duration": str(milliseconds)
    }  # fmt: skip
    size = 48 * milliseconds
    made = []
    for k in range(len(voice) // size):
        piece = voice[size * k : size * (k + 1)].astype(np.int16)
        frame = AudioFrame.from_ndarray(piece[np.newaxis], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, size * k, Fraction(1, 48_000)
        made += [bytes(packet) for packet in codec.encode(frame)]
    return made


def heard(sent: list[bytes], lost: set[int], size: int = PACKET) -> list[tuple[int, NDArray[np.int16]]]:
    """Time stamp and sound of each frame that comes out."""
    repair, out = LossRepair(), []
    for number, packet in enumerate(sent):
        if number not in lost:
            for frame in repair.decode(packet, size * number):
                assert isinstance(frame, AudioFrame)
                assert frame.pts is not None
                assert (frame.sample_rate, frame.layout.name, frame.format.name) == (48_000, "mono", "s16")
                out.append((frame.pts, frame.to_ndarray()[0]))
    return out


def line(frames: list[tuple[int, NDArray[np.int16]]]) -> NDArray[np.float64]:
    """The frames at their places, silence between them."""
    whole = np.zeros(96_000)
    for pts, pcm in frames:
        whole[pts : pts + len(pcm)] = pcm
    return whole


def test_without_loss_it_decodes_as_ffmpeg_does() -> None:
    theirs = CodecContext.create("libopus", "r")
    theirs.format, theirs.layout, theirs.sample_rate = "s16", "mono", 48_000
    for packet, (_, ours) in zip(packets(fec=True), heard(packets(fec=True), set()), strict=True):
        (frame,) = theirs.decode(Packet(packet))
        assert np.array_equal(frame.to_ndarray()[0], ours)


def test_a_copy_is_better_than_a_guess_and_a_guess_better_than_silence() -> None:
    lost = range(5, 100, 10)

    def error(fec: bool) -> float:
        """Of the gaps' spectra, relative to silence in the gaps."""
        whole, holed = (line(heard(packets(fec=fec), gaps)) for gaps in (set(), set(lost)))
        spectra = [np.abs(np.fft.rfft(sound.reshape(-1, PACKET)[lost])) for sound in (whole, holed)]
        return float(((spectra[0] - spectra[1]) ** 2).sum() / (spectra[0] ** 2).sum())

    assert error(fec=True) < error(fec=False) < 0.6


def test_a_repair_takes_the_place_of_what_was_lost() -> None:
    frames = heard(packets(fec=True), {20, 40, 41})
    assert [pts for pts, _ in frames] == [PACKET * k for k in range(100)]
    assert all(len(pcm) == PACKET for _, pcm in frames)


def test_a_long_loss_is_guessed_for_a_while_and_then_silent() -> None:
    lost = set(range(20, 40))
    frames = heard(packets(fec=True), lost)
    at = [pts for pts, _ in frames].index(20 * PACKET)
    (guess_at, guess), (copy_at, copy) = frames[at : at + 2]
    assert (guess_at, len(guess)) == (20 * PACKET, MAX_GUESSED)
    assert (copy_at, len(copy)) == (39 * PACKET, PACKET)
    assert np.abs(guess[-240:].astype(int)).mean() < np.abs(guess[:240].astype(int)).mean()


@pytest.mark.parametrize("step", [MAX_LOSS + PACKET, -5 * PACKET, 7])
def test_what_is_no_loss_is_not_repaired(step: int) -> None:
    """A pause, a stream that begins anew, and time stamps that no packet of Opus could have filled."""
    repair = LossRepair()
    repair.decode(packets(fec=True)[0], 50_000)
    (frame,) = repair.decode(packets(fec=True)[1], 50_000 + PACKET + step)
    assert frame.pts == 50_000 + PACKET + step


@pytest.mark.parametrize("packet", [b"", b"\x03", b"\xff" * 4, b"\x7b\xff\xff"])
def test_what_is_no_packet_is_refused_and_then_repaired(packet: bytes) -> None:
    sent = packets(fec=True)
    repair = LossRepair()
    repair.decode(sent[0], 0)
    with pytest.raises(FFmpegError, match="Opus packet"):
        repair.decode(packet, PACKET)
    assert [frame.pts for frame in repair.decode(sent[2], 2 * PACKET)] == [PACKET, 2 * PACKET]


@given(st.lists(st.binary(max_size=60), max_size=30))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_decoded_or_refused(payloads: list[bytes]) -> None:
    repair = LossRepair()
    for number, payload in enumerate(payloads):
        try:
            frames = repair.decode(payload, 2 * PACKET * number)
        except FFmpegError:
            continue
        assert all(0 < frame.samples <= 48_000 for frame in frames if isinstance(frame, AudioFrame))


@given(st.sets(st.integers(0, 32)), st.sampled_from([10, 20, 60]))
@settings(max_examples=60, deadline=None)
def test_frames_come_in_order_and_never_overlap(lost: set[int], milliseconds: int) -> None:
    frames = heard(packets(fec=True, milliseconds=milliseconds)[:33], lost, 48 * milliseconds)
    ends = [0] + [pts + len(pcm) for pts, pcm in frames]
    assert all(pts >= end for (pts, _), end in zip(frames, ends, strict=False))


def test_the_decoder_of_a_call_repairs() -> None:
    sent, decoder = packets(fec=True), opus.OpusDecoder()
    assert len(decoder.decode(JitterFrame(sent[0], 0))) == 1
    assert [frame.pts for frame in decoder.decode(JitterFrame(sent[2], 2 * PACKET))] == [PACKET, 2 * PACKET]


def test_without_libopus_aiortc_decodes(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def theirs(decoder: opus.OpusDecoder, encoded_frame: JitterFrame) -> list[Frame]:
        return []

    monkeypatch.setattr(opus_decoder, "available", lambda: False)
    monkeypatch.setattr(opus.OpusDecoder, "decode", theirs)
    opus_decoder.apply()
    assert opus.OpusDecoder.decode is theirs
    assert "lost packets are heard as silence" in caplog.text
