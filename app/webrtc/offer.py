"""What a call makes of an offer: the sections that it uses, what aiortc is asked to answer, and the answer.

Offer and answer are RFC 3264 and for WebRTC RFC 9429 section 5, BUNDLE is RFC 9143. A call needs one ``m=audio`` for
microphone and voice (or one for each) and uses a camera and a data channel. The sections may stand in any order. One
that cannot be used is rejected alone, with port 0, and the call goes on without it.

aiortc cannot reject a section. It is given an offer of its own, therefore: only the accepted sections, the voice
first, each with the transport that BUNDLE gives it. Its answer is put back into the order of the offer that came.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.errors import RequestError
from app.webrtc.encoding import encoder_parameters
from app.webrtc.section import Attributes, Section, Transport, read_sections, split

log = logging.getLogger(__name__)

MAX_SECTIONS = 8
"""Sections in use. Stopped ones, which a page collects over time, do not count."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A section that the answer accepts, as aiortc gets it."""

    section: Section
    mid: str
    direction: str
    transport: Transport


class Offer:
    """A checked offer. ``sdp`` is what aiortc is to answer; :meth:`answer` makes of its answer the one to send."""

    def __init__(self, sections: Sequence[Section], accepted: Sequence[Accepted], bundle: Sequence[Section]) -> None:
        """``sections``: all, in the order of the offer; ``bundle``: those of the group, in the order of the group."""
        self._sections = sections
        self._accepted = accepted
        self._bundled = [section for section in bundle if any(each.section is section for each in accepted)]
        lines = ["v=0", "o=- 0 0 IN IP4 0.0.0.0", "s=-", "t=0 0"]
        if mids := [each.mid for each in accepted if each.section in self._bundled]:
            lines.append(f"a=group:BUNDLE {' '.join(mids)}")
        for each in accepted:
            lines += each.section.for_aiortc(each.mid, each.direction, each.transport)
        self.sdp = "\r\n".join(lines) + "\r\n"

    def answer(self, text: str) -> str:
        """The answer to send, of aiortc's answer to :attr:`sdp`. Raises RequestError ``no_address`` if the server has
        no candidate: nobody could connect."""
        lines, sections = split(text)
        if not all(any(line.startswith("a=candidate:") for line in section) for section in sections):
            raise RequestError(
                "no_address", "The server has no network address for a call; its option --ice-hosts must name one."
            )
        answered = {each.section: part for each, part in zip(self._accepted, sections, strict=True)}
        lines = [line for line in lines if not line.startswith("a=group:")]
        if self._bundled:
            lines.append(f"a=group:BUNDLE {' '.join(section.mid for section in self._bundled)}")
        for section in self._sections:
            lines += _answered(section, answered[section]) if section in answered else section.rejected()
        return "\r\n".join(lines) + "\r\n"


def read_offer(text: str, *, keep_candidates: bool = False) -> Offer:
    """Read an offer and choose what a call uses of it.

    A browser finds the server by the server's candidates, and the server learns the browser's address from its
    first check (peer-reflexive, RFC 8445 section 7.3.1.3). Leaving out the offered ones saves the resolving of
    ``.local`` names, which holds up the answer for a second. A TURN server lets through only whom it was told of
    (RFC 8656 section 9): with one, ``keep_candidates`` keeps those that can be used.

    Raises RequestError ``bad_sdp`` (cannot be read, no ICE or DTLS), ``no_audio`` (no microphone, or one without Opus).
    """
    session, sections = read_sections(text)
    if not sections:
        raise RequestError("no_audio", "The offer has no media, and a call needs audio both ways: add an audio track.")
    bundles = _bundles(session, sections)
    for section in sections:
        if section.bundle_only and not any(section in bundle for bundle in bundles):
            section.fault = section.fault or "is bundle-only, and in no bundle"
    active = sum(not section.stopped for section in sections)
    if active > MAX_SECTIONS:
        raise RequestError("bad_sdp", f"The offer has {active} media sections; {MAX_SECTIONS} are enough.")
    audio = _audio(sections)
    bundle = next((bundle for bundle in bundles if audio[0] in bundle), [])
    shared = _shared_transport(bundle, keep_candidates)
    accepted = []
    used = [*audio, *_first(sections, "video"), *_first(sections, "application")]
    for section in [*used, *_idle(bundle, used)]:
        bundled = section in bundle
        transport = shared if bundled else section.transport(keep_candidates=keep_candidates)
        if isinstance(transport, Transport) and not (section.multiplexed or (bundled and transport.multiplexed)):
            transport = "has no rtcp-mux, which is required"
        if isinstance(transport, Transport):
            mid = section.mid or f"section-{sections.index(section)}"
            accepted.append(Accepted(section, mid, section.direction if section in used else "inactive", transport))
        elif section in audio:
            raise RequestError("bad_sdp", f"The offer's m=audio {transport}.")
        else:
            section.fault = transport
    for section in sections:
        if section.fault and not section.stopped:
            log.debug("rejected: m=%s %s", section.kind, section.fault)
    return Offer(sections, accepted, bundle)


def _bundles(session: Attributes, sections: Sequence[Section]) -> list[list[Section]]:
    """The sections of each BUNDLE group, in the order of the group. Raises RequestError ``bad_sdp``."""
    named = [section for section in sections if section.mid]
    by_mid = {section.mid: section for section in named}
    groups = [value.split() for value in session.all("group")]
    mids = [group[1:] for group in groups if group and group[0] == "BUNDLE"]
    if len(by_mid) < len(named) or not {mid for group in mids for mid in group} <= set(by_mid):
        raise RequestError("bad_sdp", "The offer's a=mid lines must differ, and a=group:BUNDLE name no others.")
    if not all(re.fullmatch(r"[!-~]+", mid) for mid in by_mid):
        raise RequestError("bad_sdp", "The offer's a=mid must be printable ASCII without spaces (RFC 5888).")
    return [[by_mid[mid] for mid in group] for group in mids]


def _audio(sections: Sequence[Section]) -> list[Section]:
    """The section for the voice, and if it is another one that for the microphone. Raises RequestError ``no_audio``."""
    audio = [section for section in sections if section.kind == "audio"]
    fit = [section for section in audio if not section.fault]
    for section in fit:
        if section.sends and section.receives:
            return [section]
    microphone = next((section for section in fit if section.sends), None)
    voice = next((section for section in fit if section.receives), None)
    if microphone and voice:
        return [voice, microphone]
    if wrong := next((section for section in audio if section.fault and not section.stopped), None):
        raise RequestError("no_audio", f"A call needs audio, and the offer's m=audio {wrong.fault}.")
    raise RequestError("no_audio", "A call needs audio both ways: let an active m=audio of the offer have a=sendrecv.")


def _first(sections: Sequence[Section], kind: str) -> list[Section]:
    """The first section of this kind with something to receive, if there is one."""
    fit = (section for section in sections if section.kind == kind and not section.fault)
    return [section for section in fit if kind == "application" or section.sends][:1]


def _idle(bundle: Sequence[Section], used: Sequence[Section]) -> list[Section]:
    """Further sections that the answer keeps, but inactive. Outside the bundle each would cost a transport."""
    return [each for each in bundle if each not in used and not each.fault and each.kind != "application"]


def _shared_transport(bundle: Sequence[Section], keep_candidates: bool) -> Transport | str:
    """The transport of all sections of a bundle: its first one's (RFC 9143 section 7.2), or what that lacks.

    Where that section is rejected, the next one's is meant, or still the first one's if the others have none.
    """
    transport: Transport | str = "is in no bundle"
    for section in sorted((each for each in bundle if not each.stopped), key=lambda each: bool(each.fault)):
        transport = section.transport(keep_candidates=keep_candidates)
        if isinstance(transport, Transport):
            break
    return transport


def _answered(section: Section, lines: Sequence[str]) -> list[str]:
    """aiortc's lines for a section, with the protocol and the name that the offer gave it."""
    kind, port, _, formats = lines[0].split(" ", 3)
    kept = [line for line in lines[1:] if section.mid or not line.startswith("a=mid:")]
    return encoder_parameters([f"{kind} {port} {section.protocol} {formats}", *kept])
