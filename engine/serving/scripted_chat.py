"""Chats with a scripted engine: its sentences, word by word, and spoken as its melody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from engine.client import ChatPart, ChatPiece, ChatRequest, ChatStream, EngineError, FinishReason
from engine.serving.answer import AnswerPipe, AnswerStream, refused
from engine.serving.chat_queue import ChatQueue
from engine.serving.checks import check_picture
from engine.serving.melody import speak
from engine.spec import MAX_CHATS

PICTURE_TOKENS = 64


@dataclass(slots=True, eq=False)
class _ScriptedChat:
    request: ChatRequest
    pipe: AnswerPipe[ChatPiece] = field(default_factory=AnswerPipe)
    task: asyncio.Task[None] | None = None


class ScriptedChats:
    """The chats of one scripted engine."""

    def __init__(self, answers: Sequence[str], piece_s: float) -> None:
        """``answers`` as a script has them, one for each turn; their words come ``piece_s`` apart."""
        self._answers, self._piece_s = answers, piece_s
        self._queue: ChatQueue[_ScriptedChat] = ChatQueue(self._start, MAX_CHATS)

    def ask(self, request: ChatRequest) -> ChatStream:
        """See :meth:`engine.client.Engine.chat`."""
        chat = _ScriptedChat(request)
        try:
            self._queue.add(chat)
        except EngineError as error:
            return refused(error)
        return AnswerStream(chat.pipe, lambda: None, partial(self._leave, chat))

    def close(self) -> None:
        """End all of them."""
        self._queue.clear()
        for chat in list(self._queue.running):
            self._leave(chat)

    def _leave(self, chat: _ScriptedChat) -> None:
        if not self._queue.give_up(chat) and chat.task is not None:
            chat.task.cancel()

    def _start(self, chat: _ScriptedChat) -> None:
        chat.task = asyncio.get_running_loop().create_task(self._answer(chat))
        chat.task.add_done_callback(lambda _: self._queue.done(chat))

    async def _answer(self, chat: _ScriptedChat) -> None:
        request, push = chat.request, chat.pipe.push
        try:
            grids = tuple(check_picture(part.data) for part in _parts(request, "picture"))
            words = _answer_to(request, self._answers)
        except EngineError as error:
            push(error)
            return
        texts = sum(len(part.text.split()) for part in _parts(request, "text"))
        push(ChatPiece(prompt_tokens=texts + PICTURE_TOKENS * len(grids), grids=grids))
        most = request.max_new_tokens or len(words)
        finish: FinishReason = "length" if len(words) > most else "stop"
        words = words[:most]
        try:
            if request.speak:
                for text, pcm, _ in speak(words):
                    push(ChatPiece(text, pcm))
                    await asyncio.sleep(self._piece_s)
            else:
                for index, word in enumerate(words):
                    push(ChatPiece(f" {word}" if index else word))
                    await asyncio.sleep(self._piece_s)
        except asyncio.CancelledError:
            push(ChatPiece(finish="cancelled"))
            raise
        push(ChatPiece(tokens=len(words), finish=finish))


def _answer_to(request: ChatRequest, answers: Sequence[str]) -> list[str]:
    """The words of a script's answer to a conversation."""
    turn = sum(message.role == "user" for message in request.messages)
    said = [part.text for message in request.messages if message.role == "assistant" for part in message.parts]
    fields = {
        "turn": turn, "frames": len(_parts(request, "picture")), "said": said[-1] if said else "", "units": 0,
        "typed": " ".join(part.text for part in request.messages[-1].parts if part.text),
        "seconds": "0.0", "voiced": "0.0", "heard": "0.0",
    }  # fmt: skip
    return answers[(turn - 1) % len(answers)].format(**fields).split()


def _parts(request: ChatRequest, kind: str) -> list[ChatPart]:
    return [part for message in request.messages for part in message.parts if part.kind == kind]
