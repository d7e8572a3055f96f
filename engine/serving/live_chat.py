"""Chats on a loaded model: whole conversations that are answered once, in the time that the calls leave.

A chat is a job of the calls' scheduler like any request of a session, due later than all of theirs, and made of pieces
so small that a call never waits for long behind one. It has a session's memory for as long as it is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from engine.chat.hearing import hear_words
from engine.chat.media import VIDEO_SLICES, fits_in_slices
from engine.chat.offline import Chat, ChatOptions
from engine.chat.prompt import ChatPrompt
from engine.chat.stops import StopTexts
from engine.client import ChatPiece, ChatRequest, ChatStream, EngineError, SessionOptions
from engine.conversation.reading import Reading
from engine.conversation.sampling import TextSampling
from engine.conversation.speech import SpeechChunk
from engine.conversation.streaming import LiveAnswer
from engine.conversation.text import AnswerOptions
from engine.conversation.work import FEED_TOKENS
from engine.errors import InputError, TooLongError
from engine.processing.prompts import Message, TypedText
from engine.serving.answer import AnswerPipe, AnswerStream, refused
from engine.serving.chat_media import ReadChat, read_chat
from engine.serving.chat_queue import ChatQueue
from engine.serving.live_answer import to_pcm
from engine.serving.live_session import PACE, ChatRuntime, pace_on, refusal
from engine.serving.policy import BACKGROUND_DUE_S
from engine.serving.scheduler import Cancelled, Job

PIECES_AHEAD = 16
"""Pieces that are made before the caller takes the first of them."""


@dataclass(slots=True, eq=False)
class _ServedChat:
    request: ChatRequest
    pipe: AnswerPipe[ChatPiece] = field(default_factory=AnswerPipe)
    job: Job | None = None
    pushed: int = 0
    taken: int = 0


class LiveChats:
    """The chats of one engine."""

    def __init__(
        self, runtime: ChatRuntime, prompt_of: Callable[[SessionOptions], Message], told: str, most: int
    ) -> None:
        """``prompt_of`` gives the first message of a conversation that is spoken, ``told`` what the checkpoint wants to
        be told in one that is written; ``most`` are answered at once."""
        self._runtime, self._stream = runtime, runtime.stream
        self._prompt_of, self._told = prompt_of, told
        self._chat = Chat(runtime.stream.loaded, stream=runtime.stream, text_block=PACE.text, feed_block=FEED_TOKENS)
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "chat")  # not the calls': a long video would keep a unit waiting
        self._queue: ChatQueue[_ServedChat] = ChatQueue(self._start, most)

    def ask(self, request: ChatRequest) -> ChatStream:
        """See :meth:`engine.client.Engine.chat`."""
        chat = _ServedChat(request)
        try:
            self._queue.add(chat)
        except EngineError as error:
            return refused(error)
        return AnswerStream(chat.pipe, partial(self._taken, chat), partial(self._leave, chat))

    def close(self) -> None:
        """No chat waits any longer, and those that are answered end."""
        self._queue.clear()
        for chat in self._queue.running:
            self._leave(chat)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _start(self, chat: _ServedChat) -> None:
        lane = self._runtime.scheduler.open()

        def done(error: Exception | None) -> None:
            self._runtime.scheduler.close(lane)
            self._loop.call_soon_threadsafe(self._done, chat, error)

        chat.job = Job(
            begin=partial(self._answer, chat.request),
            output=partial(self._push, chat),
            done=done,
            due=lambda since: since + BACKGROUND_DUE_S,
            paused=lambda: chat.pushed - chat.taken >= PIECES_AHEAD,
        )
        self._runtime.scheduler.submit(lane, chat.job)

    def _taken(self, chat: _ServedChat) -> None:
        chat.taken += 1
        self._runtime.scheduler.wake()

    def _leave(self, chat: _ServedChat) -> None:
        if not self._queue.give_up(chat) and chat.job is not None:
            self._runtime.scheduler.cancel(chat.job)

    def _done(self, chat: _ServedChat, error: Exception | None) -> None:
        if isinstance(error, Cancelled):
            chat.pipe.push(ChatPiece(finish="cancelled"))
        elif error is not None:
            chat.pipe.push(_refusal(error))
        self._queue.done(chat)

    # ------------------------------------------- all that follows runs on the scheduler's thread
    def _push(self, chat: _ServedChat, piece: ChatPiece) -> None:
        chat.pushed += 1
        self._loop.call_soon_threadsafe(chat.pipe.push, piece)

    def _answer(self, request: ChatRequest) -> Generator[Any, Any, None]:
        read = (yield self._thread.submit(read_chat, request)).result()
        heard = yield from hear_words(self._stream, self._introduced(read.messages, request))
        options = self._options(request, read)
        prompt = (yield self._thread.submit(self._chat.prepare, heard, options)).result()
        yield ChatPiece(prompt_tokens=len(prompt.row), grids=tuple(picture.grid or (1, 1) for picture in prompt.images))
        if request.speak:
            yield from self._speak(prompt, options, request)
        else:
            yield from self._write(prompt, options, request)

    def _introduced(self, messages: list[Message], request: ChatRequest) -> list[Message]:
        """The messages with what comes before them where nothing else does: the voice, or what the makers say."""
        system = [message for message in messages if message.role == "system"]
        if request.speak:
            told = "\n".join(part.text for part in system[0].content if isinstance(part, TypedText)) if system else ""
            voice = self._prompt_of(SessionOptions(preset="audio_assistant", voice=request.voice, prompt=told))
            return [voice, *messages[len(system) :]]
        return [Message("system", [TypedText(self._told)]), *messages] if self._told and not system else messages

    def _options(self, request: ChatRequest, read: ReadChat) -> ChatOptions:
        own = self._runtime.sampling

        def chosen(name: str) -> Any:
            value = getattr(request, name)
            return getattr(own, name) if value is None else value

        greedy = own.greedy if request.temperature is None else request.temperature == 0
        cells = request.max_slices or self._cells(read)
        return ChatOptions(
            max_new_tokens=min(request.max_new_tokens or self._chat.dialect.max_new_tokens, own.longest),
            do_sample=not greedy,
            temperature=chosen("temperature") or own.temperature,
            top_p=chosen("top_p"),
            top_k=chosen("top_k"),
            repetition_penalty=chosen("repetition_penalty"),
            seed=request.seed,
            max_slice_nums=tuple(limit or cells for limit in read.limits),
            use_image_id=False if read.has_video else None,
            generate_audio=request.speak,
        )

    def _cells(self, read: ReadChat) -> int | None:
        if not read.has_video:
            return None
        return VIDEO_SLICES if fits_in_slices(self._chat.config, len(read.limits)) else 1

    def _write(self, prompt: ChatPrompt, options: ChatOptions, request: ChatRequest) -> Generator[Any, Any, None]:
        stops, said = StopTexts(request.stop), ""
        task = self._chat.task(prompt, options)
        result: Any = None
        try:
            while not stops.met:
                item = task.send(result)
                if not isinstance(item, str):
                    result = yield item
                    continue
                result = None
                if text := stops.add(item):
                    said += text
                    yield ChatPiece(text)
        except StopIteration as end:
            yield ChatPiece(stops.rest(), tokens=len(end.value.ids), finish=end.value.finish)
        else:
            yield ChatPiece(tokens=len(self._stream.builder.typed(said)), finish="stop")
        finally:
            task.close()

    def _speak(self, prompt: ChatPrompt, options: ChatOptions, request: ChatRequest) -> Generator[Any, Any, None]:
        """Text and speech side by side, as in a call, from the end of the last message on."""
        stream = self._chat.voice
        tail = stream.answer_prompt
        state = stream.open(request.seed, request.voice)
        try:
            embeds = yield from self._chat.embedding(prompt)
            assert prompt.row.ids[-len(tail) :].tolist() == tail.ids.tolist()
            yield from self._chat.feed(state, embeds[: -len(tail)])
            state.book, state.reading = replace(state.book, first=False), Reading(begun=True)
            assert options.max_new_tokens is not None
            limit = min(options.max_new_tokens, stream.pool.context - len(embeds))
            penalty = options.repetition_penalty
            sampling = TextSampling(
                options.temperature, options.top_p, options.top_k, 1.0 if penalty is None else penalty,
                greedy=not options.do_sample,
            )  # fmt: skip
            how = AnswerOptions(max_new_tokens=limit, text=sampling)
            live = stream.generate(state, how, pace_on(stream.model.device))
            yield from _pieces(live)
            drawn = len(live.text.ids) if live.text is not None else 0
            yield ChatPiece(tokens=drawn, finish=live.finish)
        finally:
            stream.pool.drop(state)


def _pieces(live: LiveAnswer) -> Generator[Any, Any, None]:
    task = live.task()
    result: Any = None
    try:
        while True:
            item = task.send(result)
            result = None
            if not isinstance(item, SpeechChunk):
                result = yield item
            elif item.text or len(item.wave):
                yield ChatPiece(item.text, to_pcm(item.wave))
    except StopIteration:
        pass
    finally:
        task.close()


def _refusal(error: Exception) -> EngineError:
    if isinstance(error, TooLongError):
        return EngineError("chat_too_long", f"{_sentence(error)}.")
    if isinstance(error, InputError):
        return EngineError("bad_chat", f"{_sentence(error)}.")
    return refusal(error)


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]
