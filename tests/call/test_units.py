"""The microphone and the unit cutter: any packets in, exact units out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.call.media_time import FRAME_SAMPLES
from app.call.microphone import Microphone, StreamResampler
from app.call.units import MIN_UNIT_SAMPLES, UnitCutter
from engine.client import UNIT_SAMPLES


def collect(max_gap_s: float = 5.0) -> tuple[Microphone, list[np.ndarray]]:
    frames: list[np.ndarray] = []
    return Microphone(frames.append, max_gap_s), frames


def wave(samples: int) -> np.ndarray:
    return (np.arange(samples) % 30_000 + 1).astype(np.int16)


@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=60), st.integers(-(2**31), 2**40))
def test_packet_sizes_do_not_matter(sizes: list[int], first_pts: int) -> None:
    microphone, frames = collect()
    sent, at = wave(sum(sizes)), 0
    for size in sizes:
        microphone.push(sent[at : at + size], 16_000, first_pts + at)
        at += size
    heard = np.concatenate([np.zeros(0, np.int16), *frames])
    assert all(len(frame) == FRAME_SAMPLES for frame in frames)
    assert np.array_equal(heard, sent[: len(sent) // FRAME_SAMPLES * FRAME_SAMPLES])


@given(st.lists(st.sampled_from(["keep", "lose", "swap", "twice"]), min_size=2, max_size=120))
def test_loss_reorder_and_repetition_keep_the_time_line(fates: list[str]) -> None:
    """Every sample that comes in time lies where its time stamp says; all other places are zero and counted."""
    microphone, frames = collect()
    sent = wave(320 * len(fates))
    order: list[int] = []
    for i, fate in enumerate(fates):
        if fate == "swap" and order:
            order.insert(len(order) - 1, i)
        elif fate != "lose" or i == 0:
            order.extend([i] * (2 if fate == "twice" else 1))
    expected = np.zeros(0, np.int16)
    begin = order[0] * 320
    for i in order:
        microphone.push(sent[i * 320 : (i + 1) * 320], 16_000, i * 320)
        position = i * 320 - begin
        if position >= len(expected):
            gap = np.zeros(position - len(expected), np.int16)
            expected = np.concatenate([expected, gap, sent[i * 320 : (i + 1) * 320]])
    heard = np.concatenate([np.zeros(0, np.int16), *frames])
    assert np.array_equal(heard, expected)
    assert microphone.stats.gap_samples == int((expected == 0).sum())


@given(st.integers(-3, 3), st.integers(1, 400))
def test_drifting_time_stamps_decide(drift: int, packets: int) -> None:
    microphone, frames = collect()
    for i in range(packets):
        microphone.push(wave(960), 48_000, i * (960 + drift))
    line = (packets - 1) * (960 + drift) + 960
    assert abs(len(frames) * FRAME_SAMPLES - line / 3) <= FRAME_SAMPLES + 20


def test_a_long_jump_is_a_pause() -> None:
    microphone, frames = collect(max_gap_s=5.0)
    microphone.push(wave(320), 16_000, 0)
    microphone.push(wave(320), 16_000, 320 + 5 * 16_000)
    assert len(frames) == 252
    microphone.push(wave(320), 16_000, 100 * 16_000)
    microphone.push(wave(320), 16_000, 5)
    assert len(frames) == 254
    assert microphone.stats.jumps == 2
    assert microphone.stats.gap_samples == 5 * 16_000


def test_a_changed_rate_goes_on() -> None:
    microphone, frames = collect()
    microphone.push(wave(48_000), 48_000, 0)
    microphone.push(wave(8_000), 8_000, 77)
    assert len(frames) in (99, 100)


@pytest.mark.parametrize(("samples", "rate"), [(np.zeros(4, np.float32), 48_000), (np.zeros((2, 4), np.int16), 48_000),
                                               (np.zeros(4, np.int16), 0)])  # fmt: skip
def test_what_is_no_packet_is_refused(samples: np.ndarray, rate: int) -> None:
    microphone, _ = collect()
    with pytest.raises(ValueError, match="microphone"):
        microphone.push(samples, rate, 0)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
@pytest.mark.parametrize("tone", [300, 3_000])
def test_resampler_is_clean_and_streams(rate: int, tone: int) -> None:
    source = np.round(16_000 * np.sin(2 * np.pi * tone * np.arange(rate) / rate)).astype(np.int16)
    once = StreamResampler(rate)
    whole = np.concatenate([once.push(source), once.flush()])
    pieces = StreamResampler(rate)
    cuts = np.cumsum([0, 1, 7, 160, 480, 961, 2_000])
    streamed = [pieces.push(part) for part in np.split(source, cuts[1:])]
    assert np.array_equal(np.concatenate([*streamed, pieces.flush()]), whole)
    assert abs(len(whole) - 16_000) <= 1
    body, time = whole[1_000:-1_000].astype(float), np.arange(len(whole) - 2_000) / 16_000
    basis = np.stack([np.sin(2 * np.pi * tone * time), np.cos(2 * np.pi * tone * time)], axis=1)
    fit = basis @ np.linalg.lstsq(basis, body, rcond=None)[0]
    assert 10 * np.log10(fit.var() / (body - fit).var()) > 60


@given(
    length=st.integers(1, 80_000),
    onset=st.integers(0, 40_000),
    preroll=st.integers(0, 8_000),
    step=st.integers(100, 9_000),
)
@settings(max_examples=150)
def test_a_turn_loses_nothing(length: int, onset: int, preroll: int, step: int) -> None:
    """All from the pre-roll to the end comes out, once, in whole units and one rest."""
    cutter = UnitCutter(preroll, 0)
    sent = wave(onset + length)
    cutter.push(sent[:onset])
    cutter.open(onset)
    units = []
    for at in range(onset, len(sent), step):
        cutter.push(sent[at : at + step])
        units += cutter.cut(cutter.end)
    assert all(len(unit) == UNIT_SAMPLES for unit in units)
    units += cutter.close(None)
    assert all(len(unit) == UNIT_SAMPLES for unit in units[:-1])
    assert MIN_UNIT_SAMPLES <= len(units[-1]) <= UNIT_SAMPLES
    begin = max(0, onset - preroll)
    said = np.concatenate(units)
    assert np.array_equal(said[: len(sent) - begin], sent[begin:])
    assert not said[len(sent) - begin :].any()


@given(voiced=st.integers(1, 50_000), silence=st.integers(0, 30_000), hangover=st.integers(0, 4_000))
def test_silence_at_the_end_is_trimmed(voiced: int, silence: int, hangover: int) -> None:
    cutter = UnitCutter(0, hangover)
    sent = wave(voiced + silence)
    cutter.open(0)
    units = []
    for at in range(0, len(sent), 320):
        cutter.push(sent[at : at + 320])
        units += cutter.cut(min(voiced, cutter.end))
    units += cutter.close(voiced)
    assert sum(map(len, units)) >= voiced
    assert sum(map(len, units[:-1])) < voiced + hangover


@given(voiced=st.integers(1, 40_000), silence=st.integers(1, 3_000), hangover=st.integers(0, 4_000))
def test_a_tail_that_is_tried_has_its_whole_hangover(voiced: int, silence: int, hangover: int) -> None:
    """What is not there yet is the silence so far, mirrored; the turn itself is not changed by it."""
    cutter = UnitCutter(0, hangover)
    cutter.open(0)
    cutter.push(wave(voiced))
    cutter.push(-wave(silence))
    missing = max(0, hangover - silence)
    quiet = np.concatenate([-wave(silence), np.pad(-wave(silence), (0, missing), mode="symmetric")[silence:]])
    expected = np.concatenate([wave(voiced), quiet[:hangover]])
    tried = np.concatenate(cutter.tail(voiced))
    known = min(len(tried), len(expected))  # no unit is made of the hangover alone
    assert known >= voiced
    assert np.array_equal(tried[:known], expected[:known])
    cutter.push(wave(4_000))
    said = np.concatenate([wave(voiced), -wave(silence), wave(4_000)])
    assert np.array_equal(np.concatenate(cutter.close(None))[: len(said)], said)


def test_turns_do_not_overlap() -> None:
    cutter = UnitCutter(8_000, 0)
    cutter.push(wave(20_000))
    cutter.open(10_000)
    assert [len(unit) for unit in cutter.close(20_000)] == [16_000, 2_000]
    cutter.push(wave(4_000))
    cutter.open(22_000)
    assert [len(unit) for unit in cutter.close(None)] == [4_000]
