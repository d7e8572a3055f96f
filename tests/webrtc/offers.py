"""Offers as browsers and libraries write them, and what holds for every answer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

FINGERPRINT = "sha-256 D2:B9:31:8F:DF:24:D8:0E:ED:D2:EF:25:9E:AF:6F:B8:34:AE:53:9C:E6:F3:8F:F2:64:15:FA:E8:7F:53:2D:38"
ICE = ("a=ice-ufrag:OyNc", "a=ice-pwd:ffhJrVQ2uE2sHJ3ZJ6bKzGJ6")
DTLS = (f"a=fingerprint:{FINGERPRINT}", "a=setup:actpass")
CANDIDATES = (
    "a=candidate:1467250027 1 udp 2122260223 8ce5a2a3-0b7e-4f34-8f5f-4d3f5b0c7a11.local 46243 typ host generation 0",
    "a=candidate:1467250028 1 udp 2122260222 192.168.0.4 46244 typ host generation 0",
    "a=candidate:1467250029 1 tcp 1518280447 192.168.0.4 9 typ host tcptype active generation 0",
    "a=end-of-candidates",
)


@dataclass(frozen=True)
class Stack:
    """How one browser or library writes its offers: payload types and their lines, and where the transport stands."""

    audio: dict[int, tuple[str, ...]]
    video: dict[int, tuple[str, ...]]
    session: tuple[str, ...] = ()
    transport: tuple[str, ...] = (*ICE, "a=ice-options:trickle", *DTLS)
    rtp: tuple[str, ...] = ("a=rtcp-mux", "a=rtcp-rsize")


def _feedback(payload_type: int) -> tuple[str, ...]:
    return tuple(f"a=rtcp-fb:{payload_type} {kind}" for kind in ("goog-remb", "transport-cc", "nack", "nack pli"))


def _video(number: int, name: str, fmtp: str = "") -> tuple[str, ...]:
    parameters = (f"a=fmtp:{number} {fmtp}",) if fmtp else ()
    return (f"a=rtpmap:{number} {name}/90000", *_feedback(number), *parameters)


def _rtx(number: int, of: int) -> tuple[str, ...]:
    return (f"a=rtpmap:{number} rtx/90000", f"a=fmtp:{number} apt={of}")


def _h264(mode: int, profile: str, separator: str = ";") -> str:
    return separator.join(["level-asymmetry-allowed=1", f"packetization-mode={mode}", f"profile-level-id={profile}"])


CHROMIUM = Stack(
    audio={
        111: ("a=rtpmap:111 opus/48000/2", "a=rtcp-fb:111 transport-cc", "a=fmtp:111 minptime=10;useinbandfec=1"),
        63: ("a=rtpmap:63 red/48000/2", "a=fmtp:63 111/111"),
        9: ("a=rtpmap:9 G722/8000",),
        0: ("a=rtpmap:0 PCMU/8000",),
        126: ("a=rtpmap:126 telephone-event/8000",),
    },
    video={
        45: _video(45, "AV1", "level-idx=5;profile=0;tier=0"),
        46: _rtx(46, 45),
        98: _video(98, "VP9", "profile-id=0"),
        96: _video(96, "VP8"),
        97: _rtx(97, 96),
        103: _video(103, "H264", _h264(1, "42001f")),
        104: _rtx(104, 103),
        107: _video(107, "H264", _h264(0, "42001f")),
        39: _video(39, "H264", _h264(1, "4d001f")),
        116: ("a=rtpmap:116 red/90000",),
        118: ("a=rtpmap:118 ulpfec/90000",),
    },
    session=("a=extmap-allow-mixed", "a=msid-semantic: WMS stream"),
    rtp=(
        "a=rtcp:9 IN IP4 0.0.0.0",
        "a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
        "a=extmap:3/recvonly http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
        "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid",
        "a=msid:stream track",
        "a=rtcp-mux",
        "a=rtcp-rsize",
    ),
)
FIREFOX = Stack(
    audio={
        109: ("a=rtpmap:109 opus/48000/2", "a=fmtp:109 maxplaybackrate=48000;stereo=1;useinbandfec=1"),
        101: ("a=fmtp:101 0-15", "a=rtpmap:101 telephone-event/8000/1"),
    },
    video={
        120: _video(120, "VP8", "max-fs=12288;max-fr=60"),
        124: _rtx(124, 120),
        126: _video(126, "H264", "profile-level-id=42e01f;level-asymmetry-allowed=1;packetization-mode=1"),
        127: _rtx(127, 126),
    },
    session=("a=sendrecv", f"a=fingerprint:{FINGERPRINT}", "a=ice-options:trickle", "a=msid-semantic:WMS *"),
    transport=("a=ice-pwd:5f9d1be2c1a6e6e0c0f3d2b1a4958677", "a=ice-ufrag:1c2b3a49", "a=setup:actpass"),
    rtp=(
        "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level",
        "a=extmap:3 urn:ietf:params:rtp-hdrext:sdes:mid",
        "a=msid:{f00} {ba2}",
        "a=rtcp-mux",
        "a=ssrc:2655508255 cname:{735484ea}",
    ),
)
SAFARI = Stack(
    audio={111: CHROMIUM.audio[111], 8: ("a=rtpmap:8 PCMA/8000",), 105: ("a=rtpmap:105 CN/16000",)},
    video={
        96: _video(96, "H264", _h264(1, "640c1f")),
        97: _rtx(97, 96),
        98: _video(98, "H264", _h264(1, "42e01f")),
        99: _rtx(99, 98),
        100: _video(100, "H265", "level-id=93;tx-mode=SRST"),
        104: _video(104, "VP8"),
        105: _rtx(105, 104),
    },
    session=CHROMIUM.session,
    rtp=CHROMIUM.rtp,
)
PION = Stack(
    audio={111: ("a=rtpmap:111 opus/48000/2", "a=fmtp:111 minptime=10;useinbandfec=1"), 9: CHROMIUM.audio[9]},
    video={
        96: _video(96, "VP8"),
        97: _rtx(97, 96),
        102: _video(102, "H264", _h264(1, "42001f")),
        125: _video(125, "H264", _h264(1, "42e01f")),
    },
    session=("a=msid-semantic:WMS*", f"a=fingerprint:{FINGERPRINT}", "a=extmap-allow-mixed"),
    transport=("a=setup:actpass", "a=ice-ufrag:kPUYHXAznMGwbYgl", "a=ice-pwd:BgyzUGEhlEAWNqZhuVGFNRUXRabfodYS"),
    rtp=("a=rtcp-mux", "a=rtcp-rsize", "a=msid:pion audio", "a=ssrc:1823804162 cname:pion", "a=ssrc:1823804162 msid"),
)
LIBDATACHANNEL = Stack(
    audio={96: ("a=rtpmap:96 opus/48000/2", "a=fmtp:96 minptime=10;maxaveragebitrate=96000;stereo=1")},
    video={102: _video(102, "H264", _h264(1, "42e01f", "; "))},
    session=(
        "a=msid-semantic:WMS *",
        "a=setup:actpass",
        "a=ice-ufrag:zU8f",
        "a=ice-pwd:r0XfNyB6Mo4rUSQGD3x7ki",
        "a=ice-options:ice2,trickle",
        f"a=fingerprint:{FINGERPRINT}",
    ),
    transport=(),
    rtp=("a=rtcp-mux", "a=ssrc:42 cname:stream", "a=ssrc:42 msid:stream track"),
)
AIORTC = Stack(
    audio={
        96: ("a=rtpmap:96 opus/48000/2",),
        9: CHROMIUM.audio[9],
        0: CHROMIUM.audio[0],
    },
    video={
        97: _video(97, "VP8"),
        98: _rtx(98, 97),
        99: _video(99, "H264", _h264(1, "42001f")),
        100: _rtx(100, 99),
    },
    session=("a=msid-semantic:WMS *",),
    transport=(*CANDIDATES, *ICE, *DTLS, f"a=fingerprint:sha-512 {':'.join(['0A'] * 64)}"),
    rtp=("a=msid:a b", "a=rtcp:9 IN IP4 0.0.0.0", "a=rtcp-mux", "a=ssrc:77 cname:c"),
)


@dataclass(frozen=True)
class Part:
    """One section of an offer, and what the answer is to say to it: a direction, ``data`` or ``rejected``."""

    kind: str
    answer: str
    direction: str = "sendrecv"
    mid: str | None = ""
    """Empty for the section's number, None for no such line."""

    port: int = 9
    codecs: tuple[int, ...] | None = None
    """Payload types out of the stack's; None for all."""

    protocol: str = ""
    transport: bool = True
    lines: tuple[str, ...] = ()
    without: str = ""
    """Lines that begin so are left out."""

    def write(self, index: int, stack: Stack) -> list[str]:
        if self.kind == "application":
            head = [f"m=application {self.port} {self.protocol or 'UDP/DTLS/SCTP'} webrtc-datachannel"]
            body: Iterable[str] = ["a=sctp-port:5000", "a=max-message-size:262144"]
        else:
            offered = stack.audio if self.kind == "audio" else stack.video
            numbers = list(offered) if self.codecs is None else list(self.codecs)
            head = [f"m={self.kind} {self.port} {self.protocol or 'UDP/TLS/RTP/SAVPF'} {' '.join(map(str, numbers))}"]
            body = [*([f"a={self.direction}"] if self.direction else []), *stack.rtp]
            body = [*body, *(line for number in numbers for line in offered.get(number, ()))]
        lines = [*head, "c=IN IP4 0.0.0.0", *(stack.transport if self.transport else ())]
        lines += [] if self.mid is None else [f"a=mid:{self.mid or index}"]
        lines = [line for line in [*lines, *body] if not self.without or not line.startswith(self.without)]
        return [*lines, *self.lines]


@dataclass(frozen=True)
class Case:
    """An offer and what is to come of it."""

    name: str
    parts: tuple[Part, ...]
    stack: Stack = CHROMIUM
    bundle: str | None = ""
    """The mids of the group; empty for all, None for no group."""

    lines: tuple[str, ...] = field(default=())
    """Further lines of the session."""

    @property
    def text(self) -> str:
        mids = " ".join(str(index) if part.mid == "" else part.mid or "" for index, part in enumerate(self.parts))
        group = [] if self.bundle is None else [f"a=group:BUNDLE {self.bundle or mids}"]
        lines = ["v=0", "o=- 4611731400430051336 2 IN IP4 127.0.0.1", "s=-", "t=0 0", *group, *self.lines]
        lines += self.stack.session
        for index, part in enumerate(self.parts):
            lines += part.write(index, self.stack)
        return "\r\n".join(lines) + "\r\n"


AUDIO = Part("audio", "sendrecv")
CAMERA = Part("video", "recvonly", "sendonly")
DATA = Part("application", "data")

OFFER = Case("as the page makes it", (AUDIO, CAMERA, DATA)).text
CAMERA_ALONE = Case("no microphone", (CAMERA,)).text


def sections(sdp: str) -> list[list[str]]:
    """The lines of each section."""
    return [part.splitlines() for part in re.split(r"^(?=m=)", sdp, flags=re.MULTILINE)[1:]]


def values(lines: Iterable[str], name: str) -> list[str]:
    """The values of all attributes of this name."""
    return [line.partition(":")[2] for line in lines if line == f"a={name}" or line.startswith(f"a={name}:")]


def bundle_of(sdp: str) -> list[str] | None:
    """The mids of the BUNDLE group, or None where there is no group."""
    found = re.search(r"^a=group:BUNDLE *(.*?)\s*$", sdp, re.MULTILINE)
    return found[1].split() if found else None


def outcome(section: list[str]) -> str:
    """What an answer says to a section: ``rejected``, ``data`` or a direction."""
    kind, port = section[0].split()[:2]
    if port == "0":
        return "rejected"
    if kind == "m=application":
        return "data"
    (direction,) = [line[2:] for line in section if line[2:] in ("sendrecv", "sendonly", "recvonly", "inactive")]
    return direction


def check_answer(offer: str, answer: str) -> None:
    """What holds for every answer, whatever the offer (RFC 3264 section 6, RFC 9429 section 5.3.1, RFC 9143)."""
    offered, answered = sections(offer), sections(answer)
    head = [
        [line.split()[0] + line.split()[2] for line in (part[0] for part in parts)] for parts in (offered, answered)
    ]
    assert head[0] == head[1]  # as many sections, of the same kinds and protocols
    assert [values(part, "mid") for part in offered] == [values(part, "mid") for part in answered]
    accepted = [index for index, part in enumerate(answered) if outcome(part) != "rejected"]
    mids = {mid: index for index, part in enumerate(answered) for mid in values(part, "mid")}
    group = bundle_of(offer)
    bundled = [mid for mid in bundle_of(answer) or [] if mid]
    assert bundled == [mid for mid in group or [] if mids[mid] in accepted and mid in bundled]
    assert (bundle_of(answer) is None) == (not bundled)
    ports = {}
    for index in accepted:
        part, asked = answered[index], offered[index]
        assert values(part, "candidate")
        assert all(line.split()[4] == "127.0.0.1" for line in values(part, "candidate"))
        for name in ("ice-ufrag", "ice-pwd", "fingerprint"):
            assert values(part, name)
        (setup,) = values(part, "setup")
        wanted = {"actpass": "active", "active": "passive", "passive": "active"}
        assert setup == wanted[(values(asked, "setup") or values(offer.splitlines(), "setup") or ["active"])[0]]
        ports[index] = values(part, "candidate")[0].split()[5]
        if not part[0].startswith("m=application"):
            _check_media(asked, part)
    together = {ports[mids[mid]] for mid in bundled}
    assert len(together) <= 1
    apart = [ports[index] for index in accepted if index not in {mids[mid] for mid in bundled}]
    assert len(set(apart) | together) == len(apart) + len(together)


def _check_media(offered: list[str], answered: list[str]) -> None:
    codecs = dict(value.lower().split(" ", 1) for value in values(offered, "rtpmap"))
    for value in values(answered, "rtpmap"):
        number, encoding = value.lower().split(" ", 1)
        assert codecs[number].split("/")[:2] == encoding.split("/")[:2]
    assert answered[0].split()[3:] == [value.split()[0] for value in values(answered, "rtpmap")]
    assert values(answered, "rtcp-mux") == [""]
    extensions = {tuple(re.split(r"[/ ]", value)[:1] + value.split()[1:2]) for value in values(offered, "extmap")}
    assert {tuple(value.split()) for value in values(answered, "extmap")} <= extensions
