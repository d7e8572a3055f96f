"""The parameters of an answer's codecs."""

from __future__ import annotations

from app.webrtc.encoding import OPUS_PARAMETERS, VIDEO_PARAMETERS, encoder_parameters


def test_the_answer_tells_the_browser_how_to_encode() -> None:
    section = [
        "m=video 9 UDP/TLS/RTP/SAVPF 96 97 106",
        "a=rtpmap:96 VP8/90000",
        "a=rtpmap:97 rtx/90000",
        "a=fmtp:97 apt=96",
        "a=rtpmap:106 H264/90000",
        "a=fmtp:106 profile-level-id=42e01f",
    ]
    assert encoder_parameters(section) == [
        *section[:2],
        f"a=fmtp:96 {VIDEO_PARAMETERS}",
        *section[2:5],
        f"a=fmtp:106 profile-level-id=42e01f;{VIDEO_PARAMETERS}",
    ]
    audio = ["m=audio 9 UDP/TLS/RTP/SAVPF 96", "a=rtpmap:96 opus/48000/2"]
    assert encoder_parameters(audio) == [*audio, f"a=fmtp:96 {OPUS_PARAMETERS}"]
