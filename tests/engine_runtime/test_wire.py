"""Messages survive the wire, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.client import Chunk, EngineInfo, SessionOptions, Unit
from engine.serving.wire import MAX_FRAME, WireError, pack, plain, revive, unpack
from engine.spec import EngineSpec


@given(st.binary(max_size=64).filter(lambda data: len(data) % 2 == 0), st.text(max_size=20), st.none() | st.binary())
def test_units_and_chunks_survive(pcm: bytes, text: str, frame: bytes | None) -> None:
    unit = Unit(np.frombuffer(pcm, np.int16), frame, text, hd=True)
    back = revive(Unit, unpack(pack(plain(unit))[4:]))
    assert (back.audio.tolist(), back.frame, back.text, back.hd) == (unit.audio.tolist(), frame, text, True)
    chunk = Chunk(3, 1, text, np.frombuffer(pcm, np.int16), ((0, 9), (4, 17)), "stop")
    other = revive(Chunk, unpack(pack(plain(chunk))[4:]))
    assert (other.epoch, other.index, other.text, other.pcm.tolist(), other.starts, other.finish) == (
        3, 1, text, chunk.pcm.tolist(), ((0, 9), (4, 17)), "stop",
    )  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        SessionOptions(seed=4),
        EngineSpec(kind="scripted"),
        EngineInfo("a", True, "cpu", 1, 2, 3, ("x", "y"), note="It counts.", examples=("Count to three.",)),
    ],
)
def test_plain_dataclasses_survive(value: object) -> None:
    assert revive(type(value), unpack(pack(plain(value))[4:])) == value


@given(st.binary(max_size=40))
def test_garbage_is_refused_or_is_a_map(body: bytes) -> None:
    try:
        message = unpack(body)
    except WireError:
        return
    assert isinstance(message, dict)


@pytest.mark.parametrize(
    "damaged", [None, [], {"audio": 3}, {"audio": b"\0"}, {"audio": b"", "other": 1}, {"frame": b""}], ids=repr
)
def test_a_damaged_unit_is_refused(damaged: object) -> None:
    with pytest.raises(WireError, match="Unit"):
        revive(Unit, damaged)


def test_a_message_that_does_not_fit_is_refused() -> None:
    with pytest.raises(WireError, match="does not fit"):
        pack({"frame": bytes(MAX_FRAME)})
