"""The answer's own sound in the microphone: which frames are nothing but that."""
