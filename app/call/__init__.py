"""One call, deterministic: microphone, camera and client events in; speech and server events out. No aiohttp, no
aiortc."""
