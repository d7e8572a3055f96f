"""What goes wrong with a request of OpenAI's protocol, in that protocol's form.

``{"error": {"message", "type", "param", "code"}}``, where ``param`` names the field at fault as its path in the body.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

from app.errors import RequestError
from engine.client import EngineError

FROM_ENGINE: Mapping[str, tuple[HTTPStatus, str, str | None]] = {
    "bad_chat": (HTTPStatus.BAD_REQUEST, "invalid_value", None),
    "bad_media": (HTTPStatus.BAD_REQUEST, "invalid_media", "messages"),
    "chat_too_long": (HTTPStatus.BAD_REQUEST, "context_length_exceeded", "messages"),
    "full": (HTTPStatus.TOO_MANY_REQUESTS, "engine_overloaded", None),
    "engine_stalled": (HTTPStatus.SERVICE_UNAVAILABLE, "engine_not_ready", None),
    "engine_restarting": (HTTPStatus.SERVICE_UNAVAILABLE, "engine_not_ready", None),
    "not_started": (HTTPStatus.SERVICE_UNAVAILABLE, "engine_not_ready", None),
    "worker_lost": (HTTPStatus.SERVICE_UNAVAILABLE, "engine_not_ready", None),
    "out_of_memory": (HTTPStatus.SERVICE_UNAVAILABLE, "engine_overloaded", None),
    "engine_timeout": (HTTPStatus.SERVICE_UNAVAILABLE, "engine_overloaded", None),
}
"""Status, code and field for an engine's code; any other is a fault of the server."""

FROM_SERVER: Mapping[str, str] = {
    "key_missing": "invalid_api_key",
    "key_wrong": "invalid_api_key",
    "rate_limited": "rate_limit_exceeded",
    "not_found": "unknown_url",
    "bad_json": "invalid_json",
}
"""Codes of the server's own errors that OpenAI's clients know by another name."""

RETRY_S = 2


class ApiError(Exception):
    """A request that is answered with an error. ``message`` is a sentence that names the cause and the remedy."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str = "invalid_value",
        status: HTTPStatus = HTTPStatus.BAD_REQUEST,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.code, self.status = message, param, code, status
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """The error as JSON."""
        return {"error": {"message": self.message, "type": self._type, "param": self.param, "code": self.code}}

    def response(self) -> web.Response:
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return web.json_response(self.body(), status=self.status, headers=headers)

    @property
    def _type(self) -> str:
        if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return "server_error"
        if self.status is HTTPStatus.TOO_MANY_REQUESTS:
            return "rate_limit_error"
        return "authentication_error" if self.status is HTTPStatus.UNAUTHORIZED else "invalid_request_error"


def from_engine(error: EngineError) -> ApiError:
    """An engine's refusal, or its fault."""
    fault = HTTPStatus.INTERNAL_SERVER_ERROR, "engine_failed", None
    status, code, param = FROM_ENGINE.get(error.code, fault)
    retry = RETRY_S if error.retryable else None
    return ApiError(error.message, param=param, code=code, status=status, retry_after_s=retry)


def from_server(error: RequestError) -> ApiError:
    """An error of the server's own, such as a missing key."""
    code = FROM_SERVER.get(error.code, error.code)
    retry = None if error.retry_after is None else max(1, round(error.retry_after))
    # OpenAI's clients take 403 for a lack of rights of a key that is right.
    status = HTTPStatus.UNAUTHORIZED if code == "invalid_api_key" else error.status
    return ApiError(error.message, code=code, status=status, retry_after_s=retry)
