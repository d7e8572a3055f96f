"""Session descriptions on their way in and out: what is refused, what is taken out, what is added.

SDP is RFC 8866; the offer/answer rules for WebRTC are RFC 9429, ICE attributes RFC 8839, Opus parameters RFC 7587.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from aiortc.sdp import SessionDescription

from app.errors import RequestError
from app.webrtc.candidates import parse_candidate

OPUS_PARAMETERS = "minptime=10;useinbandfec=1;stereo=0;maxaveragebitrate=32000"
"""How the browser is to encode the microphone. No DTX: turn-taking wants every frame, silence included."""

VIDEO_PARAMETERS = "x-google-start-bitrate=900;x-google-min-bitrate=100;x-google-max-bitrate=2000"
"""kb/s. Chromium starts at 300 without them, and shows a smaller picture for the first twenty seconds of a call."""

MAX_SECTIONS = 8


def check_offer(text: str, *, keep_candidates: bool = False) -> str:
    """The offer to give to aiortc: checked, and without the candidates.

    A browser finds the server by the server's candidates, and the server learns the browser's address from its
    first check (peer-reflexive, RFC 8445 section 7.3.1.3). Leaving out the offered ones saves the resolving of
    ``.local`` names, which holds up the answer for a second. A TURN server lets through only whom it was told of
    (RFC 8656 section 9): with one, ``keep_candidates`` keeps those that can be used.

    Raises RequestError ``bad_sdp`` (cannot be read, no ICE or DTLS), ``no_audio`` (no microphone, or one without Opus).
    """
    lines = []
    for line in text.splitlines():
        if line.startswith("a=candidate:") and not (keep_candidates and parse_candidate(line)):
            continue
        if line != "a=end-of-candidates":  # more may come with PATCH
            lines.append(line)
    clean = "\r\n".join(lines) + "\r\n"
    offer = _parse(clean)
    if len(offer.media) > MAX_SECTIONS:
        raise RequestError("bad_sdp", f"The offer has {len(offer.media)} media sections; {MAX_SECTIONS} are enough.")
    for media in offer.media:
        if media.kind not in ("audio", "video", "application"):
            raise RequestError("bad_sdp", f"The offer has a section m={media.kind}; use audio, video and application.")
        if not (media.ice and media.ice.usernameFragment and media.ice.password):
            raise RequestError("bad_sdp", f"The offer's m={media.kind} has no ice-ufrag and ice-pwd (RFC 8839).")
        if media.dtls is None or not media.dtls.fingerprints:
            raise RequestError("bad_sdp", f"The offer's m={media.kind} has no fingerprint and setup (RFC 8842).")
        if media.kind != "application" and not media.rtcp_mux:
            raise RequestError("bad_sdp", f"The offer's m={media.kind} has no rtcp-mux, which is required.")
    audio = [media for media in offer.media if media.kind == "audio"]
    if not audio or not audio[0].port or audio[0].direction not in ("sendrecv", None):
        raise RequestError(
            "no_audio", "A call needs audio both ways: let the offer's first m=audio be an active one with a=sendrecv."
        )
    if not all(_speaks(media.rtp.codecs, "audio/opus") for media in audio):
        raise RequestError("no_audio", "The offer's audio has no Opus, the one codec that this server speaks.")
    cameras = [media for media in offer.media if media.kind == "video"]
    if not all(_speaks(media.rtp.codecs, "video/vp8", "video/h264") for media in cameras):
        raise RequestError("bad_sdp", "The offer's video has neither VP8 nor H264: offer one of them, or no video.")
    mids = [media.rtp.muxId for media in offer.media]
    bundled = {mid for group in offer.group if group.semantic == "BUNDLE" for mid in group.items}
    if len(set(mids)) < len(mids) or not bundled <= set(mids):
        raise RequestError("bad_sdp", "The offer's a=mid lines must differ, and a=group:BUNDLE name no others.")
    return clean


def finish_answer(text: str) -> str:
    """The answer to send: what aiortc made, with parameters for the browser's encoders."""
    lines = text.splitlines()
    wanted = {}
    for line in lines:
        if found := re.fullmatch(r"a=rtpmap:(\d+) (opus|VP8|H264)/.*", line, re.IGNORECASE):
            wanted[found[1]] = OPUS_PARAMETERS if found[2].lower() == "opus" else VIDEO_PARAMETERS
    answer = []
    # Lines of one payload type stand in its own section, since types are unique within a bundle (RFC 9143 section 9).
    with_parameters = {found[1] for line in lines if (found := re.match(r"a=fmtp:(\d+) ", line))}
    for line in lines:
        found = re.match(r"a=(fmtp|rtpmap):(\d+) ", line)
        extra = wanted.get(found[2]) if found else None
        if found and extra and found[1] == "fmtp":
            line = f"{line};{extra}"
        answer.append(line)
        if found and extra and found[1] == "rtpmap" and found[2] not in with_parameters:
            answer.append(f"a=fmtp:{found[2]} {extra}")
    return "\r\n".join(answer) + "\r\n"


def _parse(text: str) -> SessionDescription:
    if not text.startswith("v=0"):
        raise RequestError("bad_sdp", "The offer's SDP does not begin with v=0; send pc.localDescription.sdp.")
    try:
        offer = SessionDescription.parse(text)
    except Exception as error:  # aiortc's parser asserts, indexes and converts; whatever it meets, the text is at fault
        cause = f" ({error})" if isinstance(error, ValueError) else ""
        raise RequestError("bad_sdp", f"The offer's SDP cannot be read{cause}; see RFC 8866.") from None
    if not offer.media:
        raise RequestError("no_audio", "The offer has no media, and a call needs audio both ways: add an audio track.")
    return offer


def _speaks(codecs: Iterable[object], *known: str) -> bool:
    return any(getattr(codec, "mimeType", "").lower() in known for codec in codecs)
