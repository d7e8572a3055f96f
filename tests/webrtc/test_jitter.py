"""The jitter buffers, fed by hand: order, loss, wrap, jumps, the marker bit."""

from __future__ import annotations

from collections.abc import Iterable

from aiortc.rtp import RtpPacket
from hypothesis import given
from hypothesis import strategies as st

from app.webrtc.jitter import AudioJitterBuffer, Frame, VideoJitterBuffer


def packet(number: int, timestamp: int = 0, *, data: bytes = b"", marker: int = 0, ssrc: int = 7) -> RtpPacket:
    made = RtpPacket(sequence_number=number & 0xFFFF, timestamp=timestamp & 0xFFFFFFFF, payload_type=96, marker=marker)
    made.ssrc = ssrc
    made._data = data or b"%d" % number  # type: ignore[attr-defined]
    return made


def audio(number: int, *, ssrc: int = 7) -> RtpPacket:
    return packet(number, 960 * number, ssrc=ssrc)


def released(frames: Iterable[Frame]) -> list[int]:
    return [int(frame.encoded.data) for frame in frames]


def test_a_clean_stream_is_not_delayed() -> None:
    buffer = AudioJitterBuffer()
    for number in range(50):
        assert released(buffer.add(audio(number))) == [number]


def test_one_lost_packet_delays_the_ones_behind_it_once() -> None:
    buffer = AudioJitterBuffer(max_wait=2)
    out = [released(buffer.add(audio(number))) for number in range(12) if number != 5]
    assert out == [[0], [1], [2], [3], [4], [], [], [6, 7, 8], [9], [10], [11]]


def test_reordered_packets_come_out_in_order_and_none_is_lost() -> None:
    buffer = AudioJitterBuffer()
    out = [n for number in (0, 2, 1, 4, 5, 3, 6) for n in released(buffer.add(audio(number)))]
    assert out == list(range(7))


def test_latecomers_and_repetitions_are_dropped() -> None:
    buffer = AudioJitterBuffer()
    for number in range(10):
        buffer.add(audio(number))
    assert buffer.add(audio(3)) == []
    assert buffer.add(audio(9)) == []
    assert released(buffer.add(audio(10))) == [10]


def test_sequence_numbers_wrap() -> None:
    buffer = AudioJitterBuffer()
    out = [n for number in range(65_530, 65_545) for n in released(buffer.add(audio(number)))]
    assert out == list(range(65_530, 65_545))


def test_a_loss_across_the_wrap_is_given_up_too() -> None:
    buffer = AudioJitterBuffer()
    out = [n for number in (65_534, 1, 2, 3, 4) for n in released(buffer.add(audio(number)))]
    assert out == [65_534, 1, 2, 3, 4]


def test_a_stream_that_jumps_goes_on_at_once_in_both_directions() -> None:
    buffer = AudioJitterBuffer()
    buffer.add(audio(20_000))
    assert released(buffer.add(audio(25_000))) == [25_000]
    assert released(buffer.add(audio(3_000))) == [3_000]
    assert released(buffer.add(audio(3_001))) == [3_001]


def test_what_was_waiting_before_a_jump_is_not_lost() -> None:
    buffer = AudioJitterBuffer()
    buffer.add(audio(1))
    buffer.add(audio(3))
    assert released(buffer.add(audio(5_000))) == [3, 5_000]


def test_a_new_source_begins_anew_whatever_its_numbers() -> None:
    buffer = AudioJitterBuffer()
    buffer.add(audio(100))
    assert released(buffer.add(audio(60, ssrc=8))) == [60]


@given(
    start=st.integers(0, 65_535),
    lost=st.sets(st.integers(1, 99)),
    swaps=st.lists(st.integers(0, 97), max_size=20),
    wait=st.integers(0, 4),
)
def test_audio_comes_out_in_order_and_only_losses_are_missing(
    start: int, lost: set[int], swaps: list[int], wait: int
) -> None:
    numbers = [start + i for i in range(100) if i not in lost]
    arrived = list(numbers)
    for place in swaps:  # neighbours change places
        if place + 1 < len(arrived):
            arrived[place], arrived[place + 1] = arrived[place + 1], arrived[place]
    buffer = AudioJitterBuffer(max_wait=wait)
    out: list[int] = []
    for place, number in enumerate(arrived):
        out += released(buffer.add(audio(number)))
        held = set(arrived[: place + 1]) - set(out) - {n for n in arrived if n < arrived[0]}
        assert len([n for n in held if n > max(out, default=0)]) <= wait
    assert out == sorted(out)
    assert set(out) <= set(numbers)
    if not swaps:
        assert len(numbers) - len(out) <= wait


def picture(first: int, time: int, packets: int, *, marker: bool = True) -> list[RtpPacket]:
    return [
        packet(first + i, time * 9_000, data=b"%d/%d;" % (time, i), marker=int(marker and i == packets - 1))
        for i in range(packets)
    ]


def fed(buffer: VideoJitterBuffer, packets: Iterable[RtpPacket]) -> tuple[list[bytes], bool]:
    pictures, lost = [], False
    for each in packets:
        frames, gave_up = buffer.add(each)
        pictures += [frame.encoded.data for frame in frames]
        lost |= gave_up
    return pictures, lost


def test_a_picture_is_released_by_its_marker() -> None:
    buffer = VideoJitterBuffer()
    assert fed(buffer, picture(10, 0, 3)) == ([b"0/0;0/1;0/2;"], False)
    assert fed(buffer, picture(13, 1, 1)) == ([b"1/0;"], False)


def test_without_markers_the_next_picture_releases_it() -> None:
    buffer = VideoJitterBuffer()
    assert fed(buffer, picture(10, 0, 2, marker=False)) == ([], False)
    assert fed(buffer, picture(12, 1, 2, marker=False)) == ([b"0/0;0/1;"], False)


def test_a_retransmitted_packet_releases_all_that_waited_for_it() -> None:
    buffer = VideoJitterBuffer()
    first, second = picture(10, 0, 3), picture(13, 1, 2)
    assert fed(buffer, [first[0], first[2], *second]) == ([], False)
    assert fed(buffer, [first[1]]) == ([b"0/0;0/1;0/2;", b"1/0;1/1;"], False)


def test_a_picture_that_stays_incomplete_is_given_up() -> None:
    buffer = VideoJitterBuffer(max_wait_s=0.5)
    first = picture(10, 0, 3)
    fed(buffer, [first[0], first[2]])
    pictures, lost = [], False
    for time in range(1, 8):  # a picture each 100 ms
        more, gave_up = fed(buffer, picture(11 + 2 * time, time, 2))
        pictures += more
        lost |= gave_up
    assert lost
    assert pictures == [b"%d/0;%d/1;" % (time, time) for time in range(1, 8)]


def test_a_picture_lost_whole_stops_the_others_for_the_wait_only() -> None:
    buffer = VideoJitterBuffer(max_wait_s=0.5)
    fed(buffer, picture(10, 0, 2))
    pictures, lost = fed(buffer, [p for time in range(2, 9) for p in picture(10 + 2 * time, time, 2)])
    assert lost
    # Picture 2 goes too: whether its first packets were among the lost ones cannot be seen.
    assert pictures == [b"%d/0;%d/1;" % (time, time) for time in range(3, 9)]


def test_a_video_stream_that_jumps_asks_for_a_key_frame_and_goes_on() -> None:
    buffer = VideoJitterBuffer()
    fed(buffer, picture(10, 0, 2))
    assert fed(buffer, picture(9_000, 50, 2)) == ([b"50/0;50/1;"], True)


def test_video_sequence_numbers_and_timestamps_wrap() -> None:
    buffer = VideoJitterBuffer()
    before = [packet(65_534, -9_000, data=b"a"), packet(65_535, -9_000, data=b"b", marker=1)]
    after = [packet(65_536, 0, data=b"c"), packet(65_537, 0, data=b"d", marker=1)]
    assert fed(buffer, before + after) == ([b"ab", b"cd"], False)


@given(lost=st.sets(st.integers(1, 199)))
def test_pictures_come_out_whole_in_order_and_soon(lost: set[int]) -> None:
    buffer = VideoJitterBuffer(max_wait_s=0.5)
    packets = [p for time in range(50) for p in picture(4 * time, time, 4)]
    pictures, _ = fed(buffer, [p for i, p in enumerate(packets) if i not in lost])
    times = [int(data.split(b"/")[0]) for data in pictures]
    assert times == sorted(set(times))
    whole = {time for time in range(50) if not lost & set(range(4 * time, 4 * time + 4))}
    assert set(times) <= whole
    clean_end = [time for time in range(50) if all(t in whole for t in range(time, 50))]
    if len(clean_end) > 8:  # after the wait nothing is held back any more
        assert 49 in times
