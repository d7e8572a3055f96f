"""Everything that can be wrong with a request, and the HTTP status that says so."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

STATUS: dict[str, HTTPStatus] = {
    "bad_json": HTTPStatus.BAD_REQUEST,
    "bad_request": HTTPStatus.BAD_REQUEST,
    "bad_sdp": HTTPStatus.BAD_REQUEST,
    "bad_candidate": HTTPStatus.BAD_REQUEST,
    "bad_options": HTTPStatus.BAD_REQUEST,
    "prompt_too_long": HTTPStatus.BAD_REQUEST,
    "key_missing": HTTPStatus.UNAUTHORIZED,
    "key_wrong": HTTPStatus.FORBIDDEN,
    "token_missing": HTTPStatus.UNAUTHORIZED,
    "token_wrong": HTTPStatus.FORBIDDEN,
    "unknown_call": HTTPStatus.NOT_FOUND,
    "taken_over": HTTPStatus.CONFLICT,
    "not_found": HTTPStatus.NOT_FOUND,
    "method_not_allowed": HTTPStatus.METHOD_NOT_ALLOWED,
    "too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "wrong_content_type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "too_slow": HTTPStatus.REQUEST_TIMEOUT,
    "no_audio": HTTPStatus.UNPROCESSABLE_ENTITY,
    "rate_limited": HTTPStatus.TOO_MANY_REQUESTS,
    "internal": HTTPStatus.INTERNAL_SERVER_ERROR,
    "no_address": HTTPStatus.SERVICE_UNAVAILABLE,
    "full": HTTPStatus.SERVICE_UNAVAILABLE,
    "not_ready": HTTPStatus.SERVICE_UNAVAILABLE,
    "engine_failed": HTTPStatus.SERVICE_UNAVAILABLE,
    "shutting_down": HTTPStatus.SERVICE_UNAVAILABLE,
}
"""The one mapping from an error's code to its HTTP status."""


class RequestError(Exception):
    """A request that is answered with an error.

    ``code`` is a key of :data:`STATUS`; ``message`` is a sentence for people that names the cause and the remedy.
    ``retry_after`` (seconds) becomes the ``Retry-After`` header; the members of ``more`` stand in the answer's body
    next to ``error``.
    """

    def __init__(
        self, code: str, message: str, *, retry_after: float | None = None, more: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = STATUS[code]
        self.message = message
        self.retry_after = retry_after
        self.more = dict(more or {})


class StartError(Exception):
    """The server cannot start as it was asked to; the message is one sentence for the person who started it."""
