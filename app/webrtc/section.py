"""One ``m=`` section of an offer (RFC 8866 section 5.14): read, judged, and written again for aiortc.

aiortc's parser stops at attributes that it does not know how to read and takes some for what they are not. It is
therefore given the little that it needs of a section, in the form in which it expects it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from aiortc.codecs import CODECS, HEADER_EXTENSIONS
from aiortc.rtcpeerconnection import find_common_codecs
from aiortc.sdp import DTLS_SETUP_ROLE, SessionDescription

from app.errors import RequestError
from app.webrtc.candidates import parse_candidate

CODEC_NAMES = {"audio": ("opus",), "video": ("vp8", "h264", "rtx")}
"""Encoding names of which aiortc is told. It speaks more for audio; the call does not."""

CODEC_PARAMETERS = ("apt", "packetization-mode", "profile-level-id")
"""Parameters by which aiortc tells whether a codec is one that it speaks."""

SENDS, RECEIVES = ("sendrecv", "sendonly"), ("sendrecv", "recvonly")
DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")

MID_EXTENSION = "urn:ietf:params:rtp-hdrext:sdes:mid"
MAX_SENT_MID = 16
"""Bytes. A longer a=mid does not fit the short form of a header extension (RFC 8285 section 4.2); it is not sent."""

SCTP_PORT = "5000"
"""Used by every browser, and assumed where an offer names no port."""

MAX_EVENT_BYTES = 16 * 1024
"""The longest event that the server sends."""


class Attributes:
    """The ``a=`` lines of a section, or of the session."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._pairs = [(name, value.strip()) for name, _, value in (line[2:].strip().partition(":") for line in lines)]

    def all(self, name: str) -> list[str]:
        """The values of all lines of this name, in their order; of a line without a value, an empty text."""
        return [value for each, value in self._pairs if each == name]

    def get(self, name: str) -> str:
        """The value of the last line of this name, or an empty text."""
        return (self.all(name) or [""])[-1]

    def __contains__(self, name: str) -> bool:
        return any(each == name for each, _ in self._pairs)

    def direction(self) -> str:
        """The last direction that is named (RFC 8866 section 6.7), or an empty text."""
        return next((name for name, _ in reversed(self._pairs) if name in DIRECTIONS), "")


@dataclass(frozen=True, slots=True)
class Transport:
    """Where a section's packets go and how they are protected: ICE (RFC 8839) and DTLS (RFC 8842)."""

    ufrag: str
    password: str
    fingerprints: tuple[str, ...]
    setup: str
    candidates: tuple[str, ...]
    multiplexed: bool
    """Whether it says that RTCP comes on the port of RTP, for all sections that share it."""

    def lines(self) -> list[str]:
        return [
            *(f"a={candidate}" for candidate in self.candidates),
            f"a=ice-ufrag:{self.ufrag}",
            f"a=ice-pwd:{self.password}",
            *(f"a=fingerprint:{fingerprint}" for fingerprint in self.fingerprints),
            f"a=setup:{self.setup}",
        ]


class Section:
    """One section of an offer. ``fault`` says what makes it unusable, as the end of a sentence, or is empty."""

    def __init__(self, lines: Sequence[str], session: Attributes) -> None:
        """``lines`` begins with the ``m=`` line. Raises RequestError ``bad_sdp``."""
        found = re.fullmatch(r"m=(\S+) (\d+)(?:/\d+)? (\S+) +(\S.*)", lines[0].strip())
        if not found:
            raise unreadable(lines[0])
        self.kind, self.protocol, self.formats = found[1], found[3], found[4].split()
        self.attributes = Attributes(line for line in lines[1:] if line.startswith("a="))
        self.session = session
        self.mid = self.attributes.get("mid")
        self.direction = self.attributes.direction() or session.direction() or "sendrecv"
        self.bundle_only = "bundle-only" in self.attributes
        self.stopped = int(found[2]) == 0 and not self.bundle_only
        self.fault = "is stopped" if self.stopped else self._fault()

    @property
    def sends(self) -> bool:
        """Whether the offering side wants to send in this section."""
        return self.direction in SENDS

    @property
    def receives(self) -> bool:
        """Whether the offering side wants to receive in this section."""
        return self.direction in RECEIVES

    @property
    def multiplexed(self) -> bool:
        """Whether RTCP comes on the port of RTP (RFC 5761), as it must; a section within a bundle need not say so."""
        return self.kind == "application" or self.bundle_only or "rtcp-mux" in self.attributes

    def transport(self, *, keep_candidates: bool) -> Transport | str:
        """The section's own transport, or what it lacks, as the end of a sentence."""
        own, session = self.attributes, self.session
        ufrag, password = (own.get(name) or session.get(name) for name in ("ice-ufrag", "ice-pwd"))
        if not all(re.fullmatch(r"[!-~]{1,256}", text) for text in (ufrag, password)):
            return "has no ice-ufrag and ice-pwd (RFC 8839)"
        fingerprints = own.all("fingerprint") or session.all("fingerprint")
        if not fingerprints or not all(re.fullmatch(r"[\w-]+ [\w:]+", text) for text in fingerprints):
            return "has no fingerprint (RFC 8122)"
        setup = own.get("setup") or session.get("setup") or "active"  # the offer's default, RFC 4145 section 4
        if setup not in DTLS_SETUP_ROLE:
            raise unreadable(f"a=setup:{setup}")
        candidates = [f"candidate:{text}" for text in own.all("candidate")] if keep_candidates else []
        return Transport(
            ufrag,
            password,
            tuple(fingerprints),
            setup,
            tuple(candidate for candidate in candidates if parse_candidate(candidate)),
            self.multiplexed,
        )

    def for_aiortc(self, mid: str, direction: str, transport: Transport) -> list[str]:
        """The section's lines under the name ``mid``."""
        media = self._sctp() if self.kind == "application" else self._rtp(direction)
        return [media[0], "c=IN IP4 0.0.0.0", f"a=mid:{mid}", *media[1:], *transport.lines()]

    def rejected(self) -> list[str]:
        """The lines of an answer that declines this section (RFC 3264 section 6)."""
        lines = [f"m={self.kind} 0 {self.protocol} {' '.join(self.formats)}", "c=IN IP4 0.0.0.0"]
        lines += [f"a=mid:{self.mid}"] if self.mid else []
        return lines if self.kind == "application" else [*lines, "a=inactive"]

    def _fault(self) -> str:
        if self.kind == "application":
            return self._sctp_fault()
        if self.kind not in CODEC_NAMES:
            return "is of a kind that this server does not speak"
        if not re.fullmatch(r"((UDP|TCP)/TLS/)?RTP/S?AVPF?", self.protocol):  # RFC 9429 section 5.1.2
            return f"has the protocol {self.protocol}; use UDP/TLS/RTP/SAVPF"
        try:
            (media,) = SessionDescription.parse("\r\n".join(["v=0", *self._rtp(self.direction), ""])).media
            spoken = find_common_codecs(CODECS[self.kind], media.rtp.codecs)
        except Exception:  # aiortc's parser asserts, indexes and converts; whatever it meets, the text is at fault
            raise unreadable(f"m={self.kind}") from None
        names = "Opus, the one audio codec" if self.kind == "audio" else "VP8 or H264 (baseline), the video codecs"
        return "" if spoken else f"has no {names} of this server"

    def _sctp_fault(self) -> str:
        ports = self.formats[:1] if self._old_sctp else [self.attributes.get("sctp-port") or SCTP_PORT]
        if not re.fullmatch(r"((UDP|TCP)/)?DTLS/SCTP", self.protocol):
            return f"has the protocol {self.protocol}; use UDP/DTLS/SCTP"
        if not self._old_sctp and self.formats != ["webrtc-datachannel"]:
            return "is no webrtc-datachannel (RFC 8841)"
        if not all(port.isdecimal() and 0 < int(port) < 65536 for port in ports):
            return "has no SCTP port"
        size = self.attributes.get("max-message-size")
        if size.isdecimal() and 0 < int(size) < MAX_EVENT_BYTES:
            return f"takes no messages of {MAX_EVENT_BYTES} bytes"
        return ""

    @property
    def _old_sctp(self) -> bool:
        """The form of Firefox before version 63 and of Chromium before version 75, with the port as the format."""
        return self.protocol == "DTLS/SCTP"

    def _sctp(self) -> list[str]:
        if self._old_sctp:
            port = self.formats[0]
            return [f"m=application 9 DTLS/SCTP {port}", f"a=sctpmap:{port} webrtc-datachannel 65535"]
        size = self.attributes.get("max-message-size")
        return [
            "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
            f"a=sctp-port:{self.attributes.get('sctp-port') or SCTP_PORT}",
            *([f"a=max-message-size:{size}"] if size.isdecimal() else []),
        ]

    def _rtp(self, direction: str) -> list[str]:
        codecs: dict[str, str] = {}
        for value in self.attributes.all("rtpmap"):
            payload_type, _, encoding = value.partition(" ")
            if payload_type in self.formats and encoding.split("/")[0].lower() in CODEC_NAMES[self.kind]:
                codecs.setdefault(payload_type, encoding)
        return [
            f"m={self.kind} 9 UDP/TLS/RTP/SAVPF {' '.join(codecs) or '0'}",
            f"a={direction}",
            "a=rtcp-mux",
            *self._extensions(),
            *(f"a=rtpmap:{payload_type} {encoding}" for payload_type, encoding in codecs.items()),
            *self._codec_lines("fmtp", codecs, _codec_parameters),
            *self._codec_lines("rtcp-fb", [*codecs, "*"], str),
            *(f"a=ssrc:{ssrc} cname:-" for ssrc in self._ssrcs()),
        ]

    def _codec_lines(self, name: str, payload_types: Collection[str], keep: Callable[[str], str]) -> Iterator[str]:
        for value in self.attributes.all(name):
            payload_type, _, rest = value.partition(" ")
            if payload_type in payload_types and (kept := keep(rest)):
                yield f"a={name}:{payload_type} {kept}"

    def _extensions(self) -> Iterator[str]:
        """The header extensions that aiortc knows (RFC 8285 section 8), without what else may stand in their lines."""
        known = {extension.uri for extension in HEADER_EXTENSIONS[self.kind]}
        if not 0 < len(self.mid) <= MAX_SENT_MID:
            known.discard(MID_EXTENSION)
        for value in self.attributes.all("extmap"):
            found = re.match(r"(\d+)(?:/\w+)? (\S+)", value)
            if found and found[2] in known and 0 < int(found[1]) < 256:
                yield f"a=extmap:{found[1]} {found[2]}"

    def _ssrcs(self) -> list[str]:
        """The stream's number and that of its retransmissions (RFC 5576 section 4.2): of several streams the first."""
        for group in self.attributes.all("ssrc-group"):
            semantics, *ssrcs = group.split()
            if semantics == "FID" and len(ssrcs) == 2 and all(map(_is_ssrc, ssrcs)):
                return ssrcs
        return [ssrc for value in self.attributes.all("ssrc") if _is_ssrc(ssrc := value.partition(" ")[0])][:1]


def read_sections(text: str) -> tuple[Attributes, list[Section]]:
    """The attributes of the session and its sections. Raises RequestError ``bad_sdp``."""
    if not text.startswith("v=0"):
        raise RequestError("bad_sdp", "The offer's SDP does not begin with v=0; send pc.localDescription.sdp.")
    head, sections = split(text)
    session = Attributes(line for line in head if line.startswith("a="))
    return session, [Section(lines, session) for lines in sections]


def split(text: str) -> tuple[list[str], list[list[str]]]:
    """The lines before the first section, and those of each section."""
    parts: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("m="):
            parts.append([])
        parts[-1].append(line)
    return parts[0], parts[1:]


def unreadable(what: str) -> RequestError:
    return RequestError("bad_sdp", f"The offer's SDP cannot be read ({what[:60]}); see RFC 8866.")


def _codec_parameters(text: str) -> str:
    """``a=fmtp`` parameters that decide about a codec; some senders put spaces between them (RFC 6184 section 8.2)."""
    pairs = [pair.strip().partition("=") for pair in text.split(";")]
    kept = [(name, value.strip()) for name, _, value in pairs if name in CODEC_PARAMETERS]
    return ";".join(f"{name}={value}" for name, value in kept if name != "apt" or value.isdecimal())


def _is_ssrc(text: str) -> bool:
    return text.isdecimal() and int(text) < 2**32
