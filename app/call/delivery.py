"""An answer on its way to the listener: its words as captions, its speech, and the account of both."""

from __future__ import annotations

from typing import Any

import numpy as np

from app.call import turn
from app.call.config import CallConfig
from app.call.outbox import Outbox
from app.call.playout import SpeechQueue
from app.call.protocol import MAX_DELTA_CHARS
from app.call.response import Heard, Response
from engine.client import OUTPUT_RATE, Chunk

LAST_WORDS_S = 0.5
"""As much do people's turns overlap without anybody meaning to interrupt."""


class AnswerDelivery:
    """Hands one answer after the other to the listener. Times ``now`` are media time, samples at 16 kHz."""

    def __init__(self, config: CallConfig, speech: SpeechQueue, outbox: Outbox) -> None:
        self._config = config
        self._speech = speech
        self._outbox = outbox
        self._response: Response | None = None

    def configure(self, config: CallConfig) -> None:
        """New options take effect at once."""
        self._config = config

    def has_room(self, prepared: int) -> bool:
        """Whether more speech is wanted when ``prepared`` samples (24 kHz) of a draft wait beside what is queued."""
        return self._speech.buffered + prepared < self._config.media.max_buffered_s * OUTPUT_RATE

    @property
    def has_last_words(self) -> bool:
        """Whether less waits to be played than the last words of an answer."""
        return self._speech.buffered < LAST_WORDS_S * OUTPUT_RATE

    def begin(self, action: turn.Generate, units_before: int, now: int) -> None:
        """The answer was decided on; it waits for unit number ``units_before``, 0 for none."""
        speak = action.speak and self._config.speak
        self._response = Response(action.turn, action.epoch, speak, now, action.speech_end, units_before)
        if not units_before:
            self._response.prefilled = now
        self._speech.push(action.epoch, np.zeros(0, np.int16))

    def unit_prefilled(self, index: int, now: int) -> None:
        """The session holds unit ``index``, or refused it."""
        if self._response is not None:
            self._response.unit_prefilled(index, now)

    def play(self, chunk: Chunk, now: int) -> None:
        """The next piece of the answer."""
        response = self._response
        assert response is not None
        before = len(response.spoken.text)
        response.add(chunk, now)
        for begin in range(0, len(chunk.text), MAX_DELTA_CHARS):
            delta = chunk.text[begin : begin + MAX_DELTA_CHARS]
            spoken = response.timing(before + begin, before + begin + len(delta))
            self._outbox.event("assistant.text", {"delta": delta} | spoken, turn=response.turn, epoch=response.epoch)
        mended = response.mended(chunk, before)
        for begin in range(0, len(mended), MAX_DELTA_CHARS):
            starts = {"starts": mended[begin : begin + MAX_DELTA_CHARS]}
            self._outbox.event("assistant.timing", starts, turn=response.turn, epoch=response.epoch)
        if response.speak:
            self._speech.push(chunk.epoch, chunk.pcm)

    def pause(self) -> None:
        """Hold the speech back, without losing any of it."""
        self._speech.pause()
        self._outbox.event("response.paused", {"reason": "voice"})

    def resume(self) -> None:
        """Go on with the speech that was held back."""
        self._speech.resume()
        self._outbox.event("response.resumed", {"reason": "voice_ended"})

    def flush(self) -> None:
        """Drop the speech that waits to be played."""
        self._speech.flush()

    def played(self, epoch: int, now: int) -> None:
        """The listener was handed speech of the answer of ``epoch``."""
        response = self._response
        if response is not None and response.epoch == epoch and response.first_audio is None:
            response.first_audio = now

    def report_buffer(self, epoch: int, buffered_ms: float) -> None:
        """The listener has that much of the answer of ``epoch`` in its own buffer."""
        if self._response is not None and self._response.epoch == epoch:
            self._response.reported_buffer_ms = buffered_ms

    @property
    def position(self) -> dict[str, Any] | None:
        """How far the answer under way was played, as ``welcome`` tells a client that comes back; None between answers
        and for one that is only written."""
        response = self._response
        if response is None or not response.speak:
            return None
        return {"epoch": response.epoch, "played_ms": round(self._speech.played * 1000 / OUTPUT_RATE, 1)}

    def end(self, action: turn.Done) -> Heard:
        """The answer is over; how much of it was heard."""
        response, self._response = self._response, None
        assert response is not None
        heard = response.heard(self._speech.played, complete=action.status == "completed")
        data = {"status": action.status, "reason": action.reason} | response.summary(heard)
        self._outbox.event("response.done", data, turn=action.turn, epoch=action.epoch)
        return heard
