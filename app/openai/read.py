"""The body of ``POST /v1/chat/completions`` → what the engine is asked, and in which form the answer is wanted.

Source: OpenAI's API reference, "Create chat completion". What of it the engine cannot do is refused by name; what
changes nothing here (:data:`IGNORED`) is let pass. Beyond it: ``top_k``, ``repetition_penalty``, ``max_slices``,
``max_frames``, and parts of the type ``video_url``.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.openai.errors import ApiError
from app.openai.fields import Fields
from app.openai.media import RemotePart, read_part
from app.text import JsonError, read_json
from engine.client import DEFAULT_VOICE, ChatMessage, ChatPart, ChatRequest

MAX_TOKENS = 4_096
"""Of an answer: more is taken for this."""

MAX_STOPS, MAX_STOP_CHARS = 4, 200
MAX_MESSAGES, MAX_PARTS = 500, 100
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
FORMATS = ("wav", "pcm16")

IGNORED = (
    "user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "reasoning_effort", "verbosity",
)  # fmt: skip
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "prediction": (),
    "web_search_options": (),
}
"""What the engine cannot do, and the values that do not ask for it."""

READ = (
    "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "repetition_penalty",
    "seed", "stop", "stream", "stream_options", "modalities", "audio", "max_slices", "max_frames",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class AskedMessage:
    """A message whose parts may still have to be fetched."""

    role: str
    parts: tuple[ChatPart | RemotePart, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that is in order as far as this side can tell."""

    model: str
    messages: tuple[AskedMessage, ...]
    options: dict[str, Any]
    """Fields of the engine's request besides the messages."""
    stream: bool = False
    include_usage: bool = False
    sound: str | None = None
    """The format of the spoken answer; None: it is only written."""

    def request(self, fetched: Sequence[bytes] = ()) -> ChatRequest:
        """What the engine is asked, with what was fetched for :attr:`remote`, in that order."""
        came = iter(fetched)
        messages = tuple(
            ChatMessage(
                message.role,  # type: ignore[arg-type]
                tuple(part.holding(next(came)) if isinstance(part, RemotePart) else part for part in message.parts),
            )
            for message in self.messages
        )
        return ChatRequest(messages, **self.options)

    @property
    def remote(self) -> list[RemotePart]:
        """What has to be fetched."""
        return [part for message in self.messages for part in message.parts if isinstance(part, RemotePart)]


def read_request(raw: bytes, *, remote: bool) -> Asked:
    """Read a body. With ``remote`` pictures and videos may be addresses. Raises ApiError."""
    try:
        fields = Fields(read_json(raw))
    except JsonError as error:
        raise ApiError(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    fields.only((*READ, *IGNORED, *NEUTRAL))
    for name, values in NEUTRAL.items():
        value = fields.get(name)
        if value is not None and value not in values:
            raise fields.error(name, "asks for what this server cannot do; leave it out", "unsupported_parameter")
    messages = fields.entries("messages")
    if len(messages) > MAX_MESSAGES:
        raise fields.error("messages", f"has {len(messages)} entries; at most {MAX_MESSAGES} are read")
    sound = _sound(fields)
    stream = fields.flag("stream")
    if stream and sound == "wav":
        raise ApiError("A spoken answer is streamed as pcm16.", param="audio.format", code="unsupported_value")
    options = _options(fields)
    if sound is not None:
        options |= {"speak": True, "voice": fields.inner("audio").text("voice") or DEFAULT_VOICE}
    read = tuple(_message(message, f"messages[{index}]", remote) for index, message in enumerate(messages))
    usage = fields.get("stream_options") is not None and _include_usage(fields, stream)
    return Asked(fields.required("model"), read, options, stream, usage, sound)


def _options(fields: Fields) -> dict[str, Any]:
    top_p = fields.number("top_p", 0, 1)
    seed = fields.whole("seed", -(2**62), 2**62)
    options: dict[str, Any] = {
        "temperature": fields.number("temperature", 0, 2),
        "top_p": None if top_p is None else max(top_p, 1e-6),
        "top_k": fields.whole("top_k", 1, 1_000_000),
        "repetition_penalty": fields.number("repetition_penalty", 0.01, 10),
        "seed": secrets.randbits(48) if seed is None else seed,
        "max_slices": fields.whole("max_slices", 1, 9),
        "max_frames": fields.whole("max_frames", 1, 64),
    }
    limits = [fields.whole(name, 1, 2**31) for name in ("max_completion_tokens", "max_tokens")]
    longest = next((limit for limit in limits if limit is not None), None)
    if longest is not None:
        options["max_new_tokens"] = min(longest, MAX_TOKENS)
    if stops := _stops(fields):
        options["stop"] = stops
    return {name: value for name, value in options.items() if value is not None}


def _stops(fields: Fields) -> tuple[str, ...]:
    stop = fields.get("stop")
    stops = [] if stop is None else stop if isinstance(stop, list) else [stop]
    if len(stops) > MAX_STOPS or not all(isinstance(text, str) and 0 < len(text) <= MAX_STOP_CHARS for text in stops):
        raise fields.error("stop", f"must be a string, or up to {MAX_STOPS}, of 1 to {MAX_STOP_CHARS} characters")
    return tuple(stops)


def _sound(fields: Fields) -> str | None:
    """The format of a spoken answer, if one is wanted."""
    modalities = fields.get("modalities")
    if modalities is None:
        return None
    if not isinstance(modalities, list) or not set(map(str, modalities)) <= {"text", "audio"} or not modalities:
        raise fields.error("modalities", 'must be ["text"] or ["text", "audio"]')
    if "audio" not in modalities:
        return None
    audio = fields.inner("audio")
    audio.only(("voice", "format"))
    audio.required("format")
    audio.one_of("format", FORMATS)
    return audio.text("format")


def _include_usage(fields: Fields, stream: bool) -> bool:
    if not stream:
        raise fields.error("stream_options", "goes with stream: true only")
    inner = fields.inner("stream_options")
    inner.only(("include_usage", "include_obfuscation"))
    return inner.flag("include_usage")


def _message(message: Any, path: str, remote: bool) -> AskedMessage:
    fields = Fields(message, path)
    fields.only(("role", "content", "name", "refusal", "audio", "tool_calls", "function_call", "annotations"))
    if fields.get("tool_calls") or fields.get("function_call"):
        raise fields.error("tool_calls", "asks for what this server cannot do", "unsupported_parameter")
    fields.required("role")
    role = ROLES[fields.one_of("role", ROLES) or ""]
    content = fields.get("content")
    if isinstance(content, str):
        return AskedMessage(role, (ChatPart("text", content),))
    if content is None and fields.get("audio") is not None:
        raise fields.error("audio", "is not kept here; send the transcript as content", "unsupported_parameter")
    parts = fields.entries("content")
    if len(parts) > MAX_PARTS:
        raise fields.error("content", f"has {len(parts)} parts; at most {MAX_PARTS} are read")
    read = tuple(read_part(part, f"{path}.content[{index}]", remote=remote) for index, part in enumerate(parts))
    if role != "user" and any(isinstance(part, RemotePart) or part.kind != "text" for part in read):
        raise fields.error("content", f"of the {role}'s can only be text")
    return AskedMessage(role, read)
