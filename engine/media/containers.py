"""What a sound file says of its own length, read from its bytes.

Decoders read what is there and keep silent about the rest: the end that a cut-off file has lost, and recordings that
were appended to a container that holds one only.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

XING_OFFSETS = (36, 21, 13)
"""Bytes of an MP3 frame before its Xing header: MPEG-1 stereo; MPEG-1 mono or MPEG-2 stereo; MPEG-2 mono."""
UNKNOWN_WAV = 0x7FFF_0000
"""Sizes from here on are those of a WAV written to a pipe: its length was not known."""
COPY, JOIN = "copy or export it again", "join the recordings with an audio editor"


class Lost(Exception):
    """A file of which a decoder would give a part only: the halves of a sentence."""

    def __init__(self, fault: str, remedy: str) -> None:
        super().__init__(fault)
        self.fault, self.remedy = fault, remedy


def refuse_lost(path: Path) -> None:
    """Raise :class:`Lost` for a file that is cut off or has another one behind it, and OSError."""
    with path.open("rb") as file:
        head, size = file.read(32), path.stat().st_size
        if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
            _check_wav(path, size)
        elif (told := _told_size(head)) is not None and told > size:
            raise Lost(f"is cut off: it has {size:,} bytes and its header tells of {told:,}", COPY)
        elif head[4:8] == b"ftyp":
            _check_mp4(path, size)
        elif head[:4] == b"fLaC":
            _check_flac(path)


def promised_seconds(path: Path) -> float | None:
    """The least length of FLAC (RFC 9639 section 8.2) and of MP3s with Xing headers, None for what tells none so."""
    with path.open("rb") as file:
        head = file.read(42)
    if head[:4] == b"fLaC":
        packed = int.from_bytes(head[18:26])  # rate 20 bits, channels 3, width 5, samples 36
        rate, samples = packed >> 44, packed & ((1 << 36) - 1)
        return samples / rate if rate else None
    if head[:3] == b"ID3" or (head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE0 == 0xE0):
        return _mp3_seconds(path.read_bytes())
    return None


def ogg_links(path: Path) -> list[bytes]:
    """The streams of an Ogg file that follow each other; empty for other files. Raises Lost.

    A page (RFC 3533 section 6) that begins a stream, behind one that does not, begins the next link of the chain.
    """
    with path.open("rb") as file:
        if file.read(4) != b"OggS":
            return []
    data = path.read_bytes()
    starts: list[int] = []
    at, begins = 0, False
    while at < len(data):
        header = data[at : at + 27]
        if header[:4] != b"OggS":
            raise Lost("is damaged: an Ogg page does not follow the one before it", COPY)
        table = data[at + 27 : at + 27 + header[-1]]
        end = at + 27 + len(table) + sum(table)
        if len(header) < 27 or len(table) < header[26] or end > len(data):
            raise Lost("is cut off in the middle of an Ogg page", COPY)
        if at == 0 or (header[5] & 2 and not begins):
            starts.append(at)
        begins, at = bool(header[5] & 2), end
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def _told_size(head: bytes) -> int | None:
    """Bytes of an AIFF file, or of an RF64 file (EBU Tech 3306), as its header tells."""
    if head[:4] == b"FORM":
        return 8 + int.from_bytes(head[4:8])
    if head[:4] == b"RF64" and head[12:16] == b"ds64":
        return 8 + int.from_bytes(head[20:28], "little")
    return None


def _check_wav(path: Path, size: int) -> None:
    """Walk over the chunks (Multimedia Programming Interface and Data Specifications 1.0, 1991)."""
    frame_bytes, rate = 0, 0
    with path.open("rb") as file:
        file.seek(12)
        while len(header := file.read(8)) == 8:
            name, length = header[:4], struct.unpack("<I", header[4:])[0]
            if name == b"RIFF":
                raise Lost("holds two recordings, one behind the other", JOIN)
            begin = file.tell()
            if name == b"fmt ":
                _, _, rate, _, frame_bytes = struct.unpack("<HHIIH", file.read(14).ljust(14, b"\0"))
            if name == b"data" and length < UNKNOWN_WAV and begin + length > size:
                per_s = frame_bytes * rate
                held = f": it holds {(size - begin) / per_s:.1f} s and its header tells of more" if per_s else ""
                raise Lost(f"is cut off{held}", COPY)
            if name == b"data" and length >= UNKNOWN_WAV:
                return
            file.seek(begin + length + length % 2)


def _check_mp4(path: Path, size: int) -> None:
    """Walk over the outer boxes (ISO/IEC 14496-12 section 4.2)."""
    movies, at = 0, 0
    with path.open("rb") as file:
        while at + 8 <= size:
            file.seek(at)
            length, name = struct.unpack(">I4s", file.read(8))
            if length == 1:
                length = int.from_bytes(file.read(8))
            if length == 0:  # the last box, up to the end of the file
                length = size - at
            if length < 8 or at + length > size:
                raise Lost("is cut off or damaged", COPY)
            movies += name == b"moov"
            at += length
    if movies > 1:
        raise Lost("holds two recordings, one behind the other", JOIN)


def _check_flac(path: Path) -> None:
    """Raise :class:`Lost` for one FLAC file behind another: decoders take the second for damage of the first."""
    data = path.read_bytes()
    # The marker and the header of a stream information block, which is always 34 bytes long.
    if data.find(b"fLaC\x00\x00\x00\x22", 4) > 0 or data.find(b"fLaC\x80\x00\x00\x22", 4) > 0:
        raise Lost("holds two recordings, one behind the other", JOIN)


def _mp3_seconds(data: bytes) -> float | None:
    """Length by the Xing headers of MP3s that follow each other: each is in a first frame and counts all frames."""
    parts = []
    for found in re.finditer(b"Xing|Info", data):
        at = found.start()
        for side in XING_OFFSETS:
            if at >= side and (seconds := _xing_seconds(data[at - side : at], data[at : at + 12])) is not None:
                parts.append(seconds)
    return sum(parts) if parts else None


def _xing_seconds(frame: bytes, header: bytes) -> float | None:
    """``frame`` is an MP3 frame up to its Xing header (ISO/IEC 11172-3 section 2.4.1.3)."""
    version, layer, rate_index, mono = frame[1] >> 3 & 3, frame[1] >> 1 & 3, frame[2] >> 2 & 3, frame[3] >> 6 == 3
    side = {(True, True): 21, (True, False): 36, (False, True): 13, (False, False): 21}[version == 3, mono]
    synchronous = frame[0] == 0xFF and frame[1] & 0xE0 == 0xE0
    if not synchronous or layer != 1 or version == 1 or rate_index == 3 or len(frame) != side or len(header) < 12:
        return None
    counted, frames = struct.unpack(">xxxxII", header)
    if not counted & 1:
        return None
    rate = (44_100, 48_000, 32_000)[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    # Up to three frames are not heard: the header's own, and what the encoder put before and behind.
    return float(max(0, frames - 3) * (1152 if version == 3 else 576) / rate)
