"""Whether a word that somebody says during an answer means that it is to stop: the model itself is asked.

A model that hears needs no list of how words sound. In a conversation of its own, which leaves no trace in the call, it
says what it would answer to the sound. The sound means one of some words if that answer has the word in it ("You said
stop."), or is the one that the model gives when the word is typed ("I am waiting.") and not what it says to everything:
to an "mhm", for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import wave

import numpy as np
from numpy.typing import NDArray

from engine.client import INPUT_RATE, ChatMessage, ChatPart, ChatRequest, Engine, EngineError

ASSENT = ("okay", "yes", "mhm")
"""An answer that one of these gets, too, does not tell that anything else was said."""
ANSWER_TOKENS = 12
"""Enough to tell one answer from another."""


def words_of(option: str) -> tuple[str, ...]:
    """The words that ``turn.barge_in_words`` lists."""
    return tuple(word for part in option.lower().split(",") if (word := part.strip()))


class StopWords:
    """Asks one engine that hears, and remembers what it answers to typed words. All calls may share it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._typed: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def begin(self, words: tuple[str, ...]) -> None:
        """Somebody may be asked soon: find out now what can be known beforehand. To be called on the event loop."""
        if not self._typed.keys() >= set(words) and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._begin(words))

    async def _begin(self, words: tuple[str, ...]) -> None:
        with contextlib.suppress(EngineError):  # it is asked again when it has to be known
            await self.prepare(words)

    async def prepare(self, words: tuple[str, ...]) -> None:
        """Ask what can be known beforehand. Raises EngineError."""
        for word in (*ASSENT, *words):
            if word not in self._typed:
                self._typed[word] = await self._answer(ChatPart("text", word))

    async def are_meant(self, audio: NDArray[np.int16], words: tuple[str, ...]) -> bool:
        """Whether ``audio``, int16 [n] at 16 kHz, means one of ``words``. Raises EngineError."""
        await self.prepare(words)
        answer = await self._answer(ChatPart("sound", data=_wav(audio)))
        if any(re.search(rf"\b{re.escape(word)}\b", answer.lower()) for word in words):
            return True
        return answer in {self._typed[word] for word in words} - {self._typed[word] for word in ASSENT}

    async def _answer(self, said: ChatPart) -> str:
        request = ChatRequest((ChatMessage("user", (said,)),), max_new_tokens=ANSWER_TOKENS, temperature=0)
        return "".join([piece.text async for piece in self._engine.chat(request)])


def _wav(audio: NDArray[np.int16]) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(INPUT_RATE)
        sound.writeframes(audio.tobytes())
    return file.getvalue()
