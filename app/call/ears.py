"""What a call hears in its microphone: when somebody speaks, how loud it is, whether they are done, and "stop"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.call import turn
from app.call.config import CallConfig
from app.call.echo.gate import EchoGate
from app.call.echo.self_test import EchoTest
from app.call.end_of_turn import EndOfTurn, SoundJudge
from app.call.feeder import samples_of
from app.call.stop_words import StopWords, words_of
from app.call.vad import create_detector, create_tracker, level_dbfs
from app.call.vad.detector import SILENCE_DBFS
from app.call.vad.meter import LevelMeter
from app.call.vad.speech import SpeechEvent

UNVOICED = 0.5
"""What is below that is taken for the room."""


class CallEars:
    """The voice detector with its tracker behind the echo gate, the level meter, and those who are asked whether a turn
    is over, and whether a word means that an answer is to stop."""

    def __init__(
        self,
        config: CallConfig,
        sound_test: EchoTest,
        stop_words: StopWords | None,
        judged: Callable[[int, float], None],
        meant: Callable[[int, bool], None],
        *,
        held: bool,
    ) -> None:
        """``sound_test`` hears first, and what it takes is silent for everybody else. Without ``stop_words`` no word
        is understood. ``judged(end, probability)`` hears whether a turn is over, ``meant(end, stop)`` what a word
        means; with ``held`` nobody is asked, since a recording has what they said."""
        self._config = config
        self._held = held
        self._melody: EndOfTurn | None = None
        self._stop_words = stop_words
        self._detector = create_detector(config.vad)
        self.speech = create_tracker(config.vad)
        self._echo = EchoGate(config.echo)
        self._test = sound_test
        self._meter = LevelMeter()
        self._end = SoundJudge(self._over, judged)
        self._meaning = SoundJudge(self._means_stop, meant)
        self._level = 0.0
        self._room_dbfs = SILENCE_DBFS
        """Level of the newest frame without voice or echo."""
        if self._asks_melody:
            self._melody = _listener()

    def push(self, frame: NDArray[np.int16]) -> SpeechEvent | None:
        """The next 20 ms, int16 [320] at 16 kHz; what that changes for whoever speaks."""
        self._end.push(frame)
        self._meaning.push(frame)
        self._level = level = level_dbfs(frame)
        voice = self._detector.push(frame)
        explained = self._echo.explains(frame)
        if self._test.hears(frame, voice >= UNVOICED) or explained:
            voice, level = 0.0, min(level, self._room_dbfs)
        elif voice < UNVOICED:
            self._room_dbfs = level
        return self.speech.push(voice, level)

    def played(self, pcm: NDArray[np.int16]) -> None:
        """What was pulled for the listener, int16 at 24 kHz, silence included: the microphone may hear it."""
        self._echo.played(pcm)
        self._test.played(pcm)

    def shown(self, t_samples: int) -> dict[str, Any] | None:
        """What the client is told of the newest frame; None for nothing new."""
        return self._meter.push(t_samples, self.speech.speaking, self._level)

    def ask(self, end: int, turn_samples: int) -> None:
        """Ask whether the person was done at media time ``end``, in a turn that is so long without its pre-roll."""
        if self._asks_melody:
            self._end.ask(end, turn_samples + samples_of(self._config.turn.preroll_ms))

    def understand(self, end: int, samples: int) -> None:
        """Ask whether the newest ``samples`` with their pre-roll, said until media time ``end``, mean to stop."""
        if self._stop_words is not None and not self._held:
            self._meaning.ask(end, samples + samples_of(self._config.turn.preroll_ms))

    def configure(self, config: CallConfig) -> turn.SpeechEnded | None:
        """New options take effect at once; a changed detector begins anew, and speech that it heard is over."""
        before, self._config = self._config, config
        if config.echo != before.echo:
            self._echo = EchoGate(config.echo)
        if config.vad == before.vad:
            return None
        speech = self.speech
        self._detector, self.speech = create_detector(config.vad), create_tracker(config.vad, speech.now)
        return turn.SpeechEnded(speech.last_voiced, speech.spoken_ms) if speech.speaking else None

    async def idle(self) -> None:
        """Return when no question is open."""
        await self._end.idle()
        await self._meaning.idle()

    def close(self) -> None:
        """Ask no more."""
        self._end.close()
        self._meaning.close()

    @property
    def _asks_melody(self) -> bool:
        return "smart_turn" in self._config.turn.judges and not self._held

    async def _over(self, audio: NDArray[np.int16]) -> float:
        self._melody = self._melody or _listener()
        return await self._melody.probability(audio)

    async def _means_stop(self, audio: NDArray[np.int16]) -> bool:
        assert self._stop_words is not None
        return await self._stop_words.are_meant(audio, words_of(self._config.turn.barge_in_words))


def _listener() -> EndOfTurn:
    from app.call.end_of_turn.smart_turn import SmartTurn  # loads onnxruntime, which not every call needs

    return SmartTurn()
