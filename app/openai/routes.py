"""``POST /v1/chat/completions`` and ``GET /v1/models``."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http import HTTPStatus

from aiohttp import web

from app.errors import RequestError
from app.openai.errors import ApiError, from_engine, from_server
from app.openai.fetch import fetch
from app.openai.read import Asked, read_request
from app.openai.reply import Reply
from app.server.api import Handler
from app.server.limits import Share
from engine.client import MAX_CHAT_BYTES, ChatPiece, ChatStream, Engine, EngineError, EngineInfo
from engine.serving.chat_queue import MAX_WAITING_CHATS

log = logging.getLogger(__name__)

PREFIX = "/v1/"
MAX_BODY_BYTES = MAX_CHAT_BYTES * 4 // 3 + (2 << 20)
"""Base64 takes four bytes for three."""

BODY_TIMEOUT_S = 60.0
LOOK_S = 0.5
"""How often it is looked whether a client that waits is still there."""

KEEP_ALIVE_S = 10.0
"""A stream that has nothing to say says so after so long, in a comment, lest somebody between takes it for dead."""


MOST_OF_ONE = MAX_WAITING_CHATS // 2
"""Requests that one address may have under way, so that others find room among those that wait."""


@dataclass(frozen=True, slots=True)
class ChatApi:
    """What the routes need of the server."""

    engine: Engine
    begun: int
    """Unix time at which the server was started, for ``created``."""
    remote: bool
    """Whether files are fetched from addresses that a request names."""
    share: Share = field(default_factory=lambda: Share(MOST_OF_ONE))


CHAT_API: web.AppKey[ChatApi] = web.AppKey("chat_api", ChatApi)
routes = web.RouteTableDef()


@routes.get("/v1/models")
async def models(request: web.Request) -> web.Response:
    """The one model that is loaded."""
    api = request.app[CHAT_API]
    return web.json_response({"object": "list", "data": [_model(_info(api), api.begun)]})


@routes.get("/v1/models/{name:.+}")
async def model(request: web.Request) -> web.Response:
    """The model of this name."""
    api = request.app[CHAT_API]
    info = _info(api)
    _check_model(request.match_info["name"], info)
    return web.json_response(_model(info, api.begun))


@routes.post("/v1/chat/completions")
async def complete(request: web.Request) -> web.StreamResponse:
    """Answer a conversation, whole or as server-sent events."""
    api = request.app[CHAT_API]
    with api.share.of(request.remote or ""):
        return await _complete(request, api)


async def _complete(request: web.Request, api: ChatApi) -> web.StreamResponse:
    info = _info(api)
    asked = await asyncio.to_thread(read_request, await _body(request), remote=api.remote)
    _check_model(asked.model, info)
    fetched = await fetch(asked.remote) if asked.remote else []
    answer = api.engine.chat(asked.request(fetched))
    pieces = _watched(request, answer)
    try:
        return await _answer(request, asked, Reply(info.name, asked.sound, asked.include_usage), pieces)
    except EngineError as error:
        raise from_engine(error) from None
    finally:
        await answer.aclose()


@web.middleware
async def errors_in_form(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever goes wrong below ``/v1/`` is answered in OpenAI's form."""
    if not request.path.startswith(PREFIX):
        return await handler(request)
    try:
        return await handler(request)
    except ApiError as error:
        return error.response()
    except RequestError as error:
        return from_server(error).response()
    except web.HTTPNotFound:
        unknown = ApiError("There is nothing at this address.", code="unknown_url", status=HTTPStatus.NOT_FOUND)
        return unknown.response()
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        refused = ApiError(
            f"This method is not possible here; {allowed} is.",
            code="method_not_allowed",
            status=HTTPStatus.METHOD_NOT_ALLOWED,
        ).response()
        refused.headers["Allow"] = allowed
        return refused
    except (ConnectionError, asyncio.CancelledError):  # the client is gone
        raise
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        message = "Something went wrong here; the server's log says what."
        return ApiError(message, code="internal", status=HTTPStatus.INTERNAL_SERVER_ERROR).response()


async def _answer(
    request: web.Request, asked: Asked, reply: Reply, pieces: AsyncIterator[ChatPiece | None]
) -> web.StreamResponse:
    if not asked.stream:
        return web.json_response(reply.completion([piece async for piece in pieces if piece is not None]))
    headers = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    silent_s = 0.0
    try:
        async for piece in pieces:
            if piece is None:
                silent_s += LOOK_S
                if response.prepared and silent_s >= KEEP_ALIVE_S:
                    silent_s = 0.0
                    await response.write(b": still at it\n\n")
                continue
            silent_s = 0.0
            if not response.prepared:  # not before there is something to say: an error has a status then
                await response.prepare(request)
            for chunk in reply.chunks(piece):
                await response.write(_event(json.dumps(chunk, ensure_ascii=False)))
        await response.write(_event("[DONE]"))
    except EngineError as error:
        if not response.prepared:
            raise
        await response.write(_event(json.dumps(from_engine(error).body(), ensure_ascii=False)))
    await response.write_eof()
    return response


async def _watched(request: web.Request, answer: ChatStream) -> AsyncIterator[ChatPiece | None]:
    """The pieces of an answer, and None whenever none has come for a moment. Raises ConnectionResetError when nobody
    waits for them any more, and EngineError when it was broken off."""
    coming: asyncio.Future[ChatPiece] | None = None
    try:
        while True:
            if coming is None:
                coming = asyncio.ensure_future(anext(answer))
            done, _ = await asyncio.wait([coming], timeout=LOOK_S)
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the client has gone")
            if not done:
                yield None
                continue
            try:
                piece = coming.result()
            except StopAsyncIteration:
                return
            coming = None
            if piece.finish == "cancelled":
                raise EngineError("worker_lost", "The server is being stopped; try again in a minute.", retryable=True)
            yield piece
    finally:
        if coming is not None:
            coming.cancel()


def _event(data: str) -> bytes:
    return f"data: {data}\n\n".encode()


async def _body(request: web.Request) -> bytes:
    if request.content_type != "application/json":
        raise RequestError("wrong_content_type", "Send the body as Content-Type: application/json.")
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for piece in request.content.iter_any():
                data += piece
                if len(data) > MAX_BODY_BYTES:
                    raise RequestError("too_large", f"The body is larger than {MAX_BODY_BYTES >> 20} MB; send less.")
    except TimeoutError:
        raise RequestError("too_slow", f"The body did not arrive within {BODY_TIMEOUT_S:.0f} s.") from None
    except web.RequestPayloadError:
        raise RequestError("bad_request", "The body is not what its Content-Encoding or chunks say.") from None
    return bytes(data)


def _info(api: ChatApi) -> EngineInfo:
    if (info := api.engine.info) is None:
        message = "The model is being loaded, or does not answer at the moment; try again in a few seconds."
        raise ApiError(message, code="engine_not_ready", status=HTTPStatus.SERVICE_UNAVAILABLE, retry_after_s=2)
    return info


def _check_model(name: str, info: EngineInfo) -> None:
    if name != info.name:
        message = f"The model {name[:80]!r} is not here; {info.name!r} is."
        raise ApiError(message, param="model", code="model_not_found", status=HTTPStatus.NOT_FOUND)


def _model(info: EngineInfo, created: int) -> dict[str, object]:
    able = {name: getattr(info, name) for name in ("sees", "one_picture", "hears", "speaks", "trained")}
    return {
        "id": info.name,
        "object": "model",
        "created": created,
        "owned_by": "omni-call",
        "context_length": info.context_limit,
        "voices": list(info.voices) if info.speaks else [],
        **able,
    }
