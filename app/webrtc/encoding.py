"""How an answer asks the browser to encode: codec parameters, in ``a=fmtp`` lines (RFC 8866 section 6.15)."""

from __future__ import annotations

import re
from collections.abc import Sequence

OPUS_PARAMETERS = "minptime=10;useinbandfec=1;stereo=0;maxaveragebitrate=32000"
"""Of the microphone (RFC 7587 section 6.1). No DTX: turn-taking wants every frame, silence included."""

VIDEO_PARAMETERS = "x-google-start-bitrate=900;x-google-min-bitrate=100;x-google-max-bitrate=2000"
"""Of the camera, kb/s. Without them Chromium starts at 300, with a smaller picture for the first twenty seconds."""


def encoder_parameters(section: Sequence[str]) -> list[str]:
    """The lines of one section of an answer, with parameters for the browser's encoders."""
    wanted = {}
    for line in section:
        if found := re.fullmatch(r"a=rtpmap:(\d+) (opus|VP8|H264)/.*", line, re.IGNORECASE):
            wanted[found[1]] = OPUS_PARAMETERS if found[2].lower() == "opus" else VIDEO_PARAMETERS
    with_parameters = {found[1] for line in section if (found := re.match(r"a=fmtp:(\d+) ", line))}
    lines = []
    for line in section:
        found = re.match(r"a=(fmtp|rtpmap):(\d+) ", line)
        extra = wanted.get(found[2]) if found else None
        if found and extra and found[1] == "fmtp":
            line = f"{line};{extra}"
        lines.append(line)
        if found and extra and found[1] == "rtpmap" and found[2] not in with_parameters:
            lines.append(f"a=fmtp:{found[2]} {extra}")
    return lines
