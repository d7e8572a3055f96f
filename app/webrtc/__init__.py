"""The WebRTC side of a call (aiortc): one peer, its tracks, its data channel, its session descriptions."""
