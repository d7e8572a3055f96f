"""The call: signalling, peers, media, turn-taking, events, recording and replay. Never imports torch."""
