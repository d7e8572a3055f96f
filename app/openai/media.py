"""Parts of a message → the engine's parts. Pictures, sounds and videos come in base64, or from the web if allowed."""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from typing import Any, Literal

from app.openai.errors import ApiError
from app.openai.fields import Fields
from engine.client import ChatPart

SOUNDS = ("wav", "mp3", "flac", "ogg", "opus", "m4a", "aac", "webm")
DETAILS = ("auto", "low", "high")
DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[^;,]*)*);base64,", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RemotePart:
    """A picture or video that lies elsewhere."""

    kind: Literal["picture", "video"]
    url: str
    path: str
    """Where in the request the address stands."""
    max_slices: int | None = None

    def holding(self, data: bytes) -> ChatPart:
        """The part, once it was fetched."""
        return ChatPart(self.kind, data=data, max_slices=self.max_slices)


def read_part(part: Any, path: str, *, remote: bool) -> ChatPart | RemotePart:
    """One entry of a message's ``content``. Raises ApiError."""
    fields = Fields(part, path)
    match fields.get("type"):
        case "text":
            fields.only(("type", "text"))
            text = fields.text("text")
            if text is None:
                raise fields.error("text", "is missing", "missing_required_parameter")
            return ChatPart("text", text)
        case "image_url":
            fields.only(("type", "image_url"))
            return _linked(fields.inner("image_url"), "picture", remote)
        case "video_url":
            fields.only(("type", "video_url"))
            return _linked(fields.inner("video_url"), "video", remote)
        case "input_audio":
            fields.only(("type", "input_audio"))
            sound = fields.inner("input_audio")
            sound.only(("data", "format"))
            sound.required("format")
            sound.one_of("format", SOUNDS)
            return ChatPart("sound", data=_decoded(sound.required("data"), sound.at("data")))
        case other:
            known = "text, image_url, input_audio and video_url"
            said = f"is {str(other)[:40]!r}" if other is not None else "is missing"
            raise fields.error("type", f"{said}; known are {known}")


def _linked(fields: Fields, kind: Literal["picture", "video"], remote: bool) -> ChatPart | RemotePart:
    fields.only(("url", "detail"))
    cells = 1 if fields.one_of("detail", DETAILS) == "low" else None
    url = fields.required("url")
    if found := DATA_URL.match(url):
        expected = "image/" if kind == "picture" else "video/"
        if found[1] and not found[1].lower().startswith((expected, "application/octet-stream")):
            raise fields.error("url", f"holds {found[1]}, and this is the place of a {kind}", "invalid_media")
        return ChatPart(kind, data=_decoded(url[found.end() :], fields.at("url")), max_slices=cells)
    if url.lower().startswith(("https://", "http://")):
        if remote:
            return RemotePart(kind, url, fields.at("url"), cells)
        remedy = "send the file itself as data:…;base64,… , or start the server with REMOTE_URLS=on"
        raise fields.error("url", f"is an address on the web, from which this server fetches nothing; {remedy}")
    raise fields.error("url", "must be a data URL in base64: data:image/jpeg;base64,…")


def _decoded(data: str, path: str) -> bytes:
    try:
        decoded = binascii.a2b_base64(data, strict_mode=True)
    except (binascii.Error, ValueError):
        raise ApiError(f"{path} is not base64.", param=path, code="invalid_base64") from None
    if not decoded:
        raise ApiError(f"{path} is empty.", param=path, code="invalid_base64")
    return decoded
