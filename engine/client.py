"""The one interface between a call and a model.

``Engine.open`` gives an :class:`EngineSession`: all that the model remembers of one call. A session takes
units while the person talks (``prefill``), answers on request (``generate``), and stops at the next chunk
boundary when it is told to (``cancel``). Every implementation (worker process, scripted) passes the same
conformance tests, so that the call never knows which one it talks to.

Nothing in this module imports torch: the call app imports it in the media process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.spoken import Starts

INPUT_RATE = 16_000
"""Rate of unit audio, Hz."""

UNIT_SAMPLES = INPUT_RATE
"""Samples of a whole unit: one second."""

OUTPUT_RATE = 24_000
"""Rate of answer audio, Hz."""

MAX_REWIND_UNITS = 4
"""How many units a session can forget again."""

FinishReason = Literal["stop", "length", "cancelled"]

MAX_CHAT_BYTES = 16 << 20
"""Pictures, sounds and videos of one chat request together, encoded."""


class EngineError(Exception):
    """A request that the engine refuses or could not finish.

    ``code`` is a stable word for programs (``bad_unit``, ``text_too_long``, ``session_closed``, ``full``,
    ``worker_lost``, ``answer_lost``, ``engine_stalled``, ``engine_restarting``, …),
    ``message`` a sentence for people that names the cause and the remedy. ``retryable`` says whether the same
    request may succeed later. The session stays usable unless the code is ``session_closed`` or ``worker_lost``.
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What is loaded: shown by ``/ready``, by the page and in the log."""

    name: str
    trained: bool
    device: str
    parameters: int
    context_limit: int
    """Tokens that one session can hold before the window drops the oldest."""
    max_sessions: int
    voices: tuple[str, ...] = ("default",)
    hears: bool = True
    """False for an engine that does not listen to the audio (the scripted one)."""
    sees: bool = True
    """False for a model without eyes: pictures do not reach it."""
    one_picture: bool = False
    """A conversation has one picture at most, with its first message, and no video."""
    speaks: bool = True
    """False for a model without a voice: nobody can call it, it only chats."""
    note: str = ""
    """One sentence for the caller about what this model can and cannot do."""
    examples: tuple[str, ...] = ()
    """Sentences that a caller can begin with, because this model is good at them."""


DEFAULT_VOICE = "default"


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What a call asks of its session. All fields have defaults that suit a call."""

    preset: Literal["omni", "audio_assistant", "audio_roleplay", "voice_cloning", "default"] = "omni"
    language: Literal["en", "zh"] = "en"
    voice: str = DEFAULT_VOICE
    prompt: str = ""
    """Text put in place of the system sentence of ``preset``; empty keeps the model's own."""
    seed: int = 0
    """Sampling is seeded per session, so that a replayed call gives the same answers."""
    max_new_tokens: int = 256
    speak: bool = True


@dataclass(frozen=True, slots=True)
class Unit:
    """One slice of the person's side of the call.

    ``audio`` is int16 mono at 16 kHz, at most :data:`UNIT_SAMPLES` long; a shorter one is the flushed end of a
    turn, an empty one carries no sound. ``frame`` is one encoded picture (JPEG or PNG). ``text`` is typed input.
    At least one of the three must be there.
    """

    audio: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))
    frame: bytes | None = None
    text: str | None = None
    hd: bool = False
    """Slice the frame in high definition (the last frame of a turn)."""
    ask_end: bool = False
    """Ask how probable it is that the person's message ends with this unit (:attr:`Prefilled.end_probability`), of
    an engine that can tell."""


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The answer to ``prefill``: what the session holds now."""

    tokens: int
    """Tokens that this unit added."""
    context_used: int
    context_limit: int
    dropped_tokens: int = 0
    """Tokens that the KV window let go of to make room for this unit."""
    end_probability: float | None = None
    """How probable the language model finds it that the person's message ends here; None where it was not asked, or
    cannot tell."""
    picture_tokens: int = 0
    """Those of ``tokens`` that the picture takes."""
    words: str = ""
    """What an engine that reads is certain now to have heard of the person's message, and was not before. The pieces
    of a message follow each other as they are."""
    rest: str = ""
    """What it has read beyond that: the next unit may change it. All of it counts once an answer is asked for."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One piece of an answer, in order. Either part may be empty; the last one has ``finish`` set."""

    epoch: int
    index: int
    text: str = ""
    pcm: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))
    """Mono at 24 kHz, following the pcm of the chunk before without a gap."""
    starts: Starts = ()
    """When pieces of the answer are spoken (:mod:`engine.spoken`): of the text that is new, and of any whose start is
    known better now. With ``pcm`` the starts of all that begins in it are final."""
    finish: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class ChatPart:
    """One part of a chat message: ``text``, or the bytes of an encoded picture, sound or video (``data``)."""

    kind: Literal["text", "picture", "sound", "video"]
    text: str = ""
    data: bytes = b""
    max_slices: int | None = None
    """Cells that this picture may be cut into; None: as many as the request says of all."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    role: Literal["system", "user", "assistant"]
    parts: tuple[ChatPart, ...]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A whole conversation that asks for one answer. None stands for what the checkpoint says."""

    messages: tuple[ChatMessage, ...]
    """A system message at most, first; the user's and the assistant's after it, the user's last."""
    max_new_tokens: int | None = None
    temperature: float | None = None
    """0 always takes the likeliest token."""
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int = 0
    stop: tuple[str, ...] = ()
    """Texts before which a written answer ends."""
    speak: bool = False
    voice: str = DEFAULT_VOICE
    max_slices: int | None = None
    """Cells that a picture may be cut into."""
    max_frames: int = 32
    """Pictures of a video, evenly spaced where one a second would be more."""


@dataclass(frozen=True, slots=True)
class ChatPiece:
    """One piece of a chat's answer, in order. The first one says what was read, the last one has ``finish`` set."""

    text: str = ""
    pcm: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))
    """Mono at 24 kHz, following the pcm of the piece before."""
    prompt_tokens: int = 0
    """In the first piece: tokens of the conversation."""
    grids: tuple[tuple[int, int], ...] = ()
    """In the first piece: columns and rows that each picture was cut into, in the order of the messages; (1, 1) for one
    that stayed whole. The frames of a video are pictures."""
    tokens: int = 0
    """In the last piece: tokens of the answer."""
    finish: FinishReason | None = None


class ChatStream(Protocol):
    """The pieces of a chat's answer, each as soon as it is there."""

    def __aiter__(self) -> AsyncIterator[ChatPiece]: ...

    async def __anext__(self) -> ChatPiece: ...

    async def aclose(self) -> None:
        """Leave the answer, which is then cancelled. After its end, nothing."""
        ...


class EngineSession(Protocol):
    """What the model remembers of one call. Requests of one session are carried out in the order they were made,
    except :meth:`cancel`, which overtakes."""

    async def prefill(self, unit: Unit) -> Prefilled:
        """Feed one unit. Raises EngineError ``bad_unit`` (not a picture, too long, empty), ``text_too_long``,
        ``session_closed``."""
        ...

    def generate(self, epoch: int) -> AsyncIterator[Chunk]:
        """Answer what was fed. Yields chunks of ``epoch``, the last one with ``finish``; always ends.

        The engine works at most a few chunks ahead of the consumer. Leaving the iterator early cancels the answer.
        Raises EngineError ``answer_lost`` where the engine was lost and cannot go on with what had come.
        """
        ...

    async def check_text(self, text: str) -> None:
        """Raise EngineError ``text_too_long``, which names the text's tokens and the limit, if typed text does not fit
        into the session. Overtakes what was asked before, and changes nothing."""
        ...

    async def cancel(self, epoch: int) -> None:
        """Stop the answer of ``epoch`` at the next chunk boundary; its iterator then ends with ``finish="cancelled"``.
        An epoch that is over or unknown is no error."""
        ...

    async def heard(self, epoch: int, samples: int, read: int | None = None) -> None:
        """Tell how much of the answer of ``epoch`` was played (24 kHz samples). Sent once, when it ends; what was not
        heard leaves the session's memory. Of an answer that was stopped, ``read`` is the number of its characters that
        count, as the caller has them from :meth:`engine.spoken.SpokenText.heard_chars`, or of one that was shown
        without its sound, those that came."""
        ...

    async def rewind(self, units: int) -> None:
        """Forget the last ``units`` units and an answer that came after them, as if none of it had ever been asked for:
        what was prepared in a pause that turned out to be one. An answer that still runs is to be cancelled first.

        Raises EngineError ``bad_rewind`` beyond :data:`MAX_REWIND_UNITS` or what was fed since the last answer that was
        kept.
        """
        ...

    async def remember(self, text: str, samples: int = 0, starts: Starts = ()) -> None:
        """Take in an answer that was given elsewhere, to what was fed: ``text`` as far as it counts, the ``starts`` of
        its pieces, and how many of its samples (24 kHz) were played. One without text leaves nothing but its number,
        which decides what is drawn in later answers. What was fed and remembered in the same order makes the session
        that was first fed and answered itself."""
        ...

    async def close(self) -> None:
        """Forget the session and free its memory. Twice is no error."""
        ...

    def watch(self, listener: Callable[[EngineError | None], None]) -> None:
        """Tell ``listener``, on the event loop and without a request, that the engine does not answer
        (``engine_stalled``), that it was lost and is started again (``engine_restarting``), that it answers again and
        the session is as it was (None), or that the session is lost with it (``worker_lost``)."""
        ...


class Engine(Protocol):
    """A loaded model that serves many sessions with one set of weights."""

    async def start(self) -> EngineInfo:
        """Load and warm up; returns when the first request would be fast. Raises EngineError ``load_failed``."""
        ...

    @property
    def info(self) -> EngineInfo | None:
        """None until started, after the engine was lost, and while it does not answer."""
        ...

    @property
    def busy_s(self) -> float:
        """Seconds that the model has been at work on its present piece; 0 while it rests, infinite when it died."""
        ...

    async def open(self, options: SessionOptions) -> EngineSession:
        """Begin a session. Raises EngineError ``full``, ``engine_stalled`` or ``engine_restarting`` (retryable),
        ``bad_options`` or ``prompt_too_long``."""
        ...

    def chat(self, request: ChatRequest) -> ChatStream:
        """Answer a conversation, in the time that the calls leave: their units and answers go first, and chats share
        what batches of theirs have room for. What an answer says does not depend on who else is served, as in a call.

        Leaving the iterator early cancels the answer. Raises EngineError ``full`` (retryable) when as many chats wait
        as may, ``bad_chat``, ``bad_media`` (a part that cannot be read, or that the model has no sense for),
        ``chat_too_long`` (it does not fit into the context), ``engine_restarting`` or ``worker_lost`` (retryable).
        """
        ...

    async def sessions(self) -> Collection[EngineSession]:
        """The sessions that are open now, each always as the same object, among them any whose ``open`` was left
        before it returned. For whoever compares them with what should be open. Raises EngineError while the engine is
        started again."""
        ...

    async def stop(self) -> None:
        """End the engine; open sessions are closed. Returns within one second or kills what is left."""
        ...
