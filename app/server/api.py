"""Signalling over HTTP: offers, candidates, restarts, hang-ups, and whether the server is alive and ready.

Every answer is JSON; every error is ``{"error": {"code", "message"}}`` with the status that :mod:`app.errors` maps its
code to. There is no CORS: pages of other origins cannot make calls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod

from app.errors import RequestError
from app.server.calls import AnsweredOffer, CallRegistry
from app.server.limits import RateLimiter
from app.server.places import RETRY_FULL_S
from app.text import JsonError, printable, read_json

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024
BODY_TIMEOUT_S = 10.0
CANDIDATES_PER_MINUTE = 120
"""Requests with candidates that one address may make: a browser makes some ten, all at the beginning."""

MAX_PAGE_CHARS = 64

METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REGISTRY: web.AppKey[CallRegistry] = web.AppKey("registry", CallRegistry)
LIMITER: web.AppKey[RateLimiter] = web.AppKey("limiter", RateLimiter)
CANDIDATE_LIMITER: web.AppKey[RateLimiter] = web.AppKey("candidate_limiter", RateLimiter)
READY: web.AppKey[Callable[[], dict[str, Any]]] = web.AppKey("ready")
"""Gives the body of ``GET /ready``; its member ``ready`` decides the status."""

routes = web.RouteTableDef()


@routes.get("/health")
async def health(request: web.Request) -> web.Response:
    """The process is alive."""
    return web.json_response({"status": "ok"})


@routes.get("/ready")
async def ready(request: web.Request) -> web.Response:
    """Whether calls can begin now, and with which engine."""
    body = request.app[READY]()
    if body["ready"]:
        return web.json_response(body)
    return error_response(RequestError("not_ready", body["message"], retry_after=2, more=body))


@routes.post("/api/calls")
async def open_call(request: web.Request) -> web.Response:
    """Offer → answer: ``{"type": "offer", "sdp", "options"?, "ticket"?, "page"?}``. ``page`` is a name that the page
    has drawn for itself; see :func:`restart_call`."""
    limit_rate(request)
    body = await json_body(request)
    options = body.get("options", {})
    if not isinstance(options, dict):
        raise RequestError("bad_options", "options must be a JSON object.")
    registry, address = request.app[REGISTRY], request.remote or ""
    return _answer(await registry.open(offer_of(body), options, _ticket(body), address, page=_page(body)), 201)


@routes.post("/api/line")
async def ask_for_a_place(request: web.Request) -> web.Response:
    """Whether a call could begin now: ``{"ticket"?}``. A caller asks before opening the microphone, and goes on asking
    with the ticket of the answer 202; once there is a place, 204, asking keeps it for the holder of the ticket."""
    limit_rate(request)
    place = request.app[REGISTRY].ask(_ticket(await json_body(request)))
    if place is None:
        return web.Response(status=204)
    return web.json_response(asdict(place), status=202, headers={"Retry-After": str(round(RETRY_FULL_S))})


@routes.delete("/api/line/{ticket}")
async def leave_the_line(request: web.Request) -> web.Response:
    """Give up a place in the line; a ticket that is unknown, or has been used, is no error."""
    request.app[REGISTRY].leave(request.match_info["ticket"])
    return web.Response(status=204)


@routes.patch("/api/calls/{call_id}")
async def add_candidates(request: web.Request) -> web.Response:
    """Trickled ICE: ``{"candidate": "candidate:…"}`` as from RTCIceCandidate.toJSON(), or a list ``candidates`` of
    such objects. Not needed where the browser can reach the server's addresses."""
    limit_rate(request, CANDIDATE_LIMITER)
    body = await json_body(request)
    listed = body.get("candidates", [body])
    if not isinstance(listed, list) or not all(
        isinstance(item, dict) and isinstance(item.get("candidate"), str) for item in listed
    ):
        raise RequestError("bad_candidate", 'Send {"candidate": "candidate:…"} or {"candidates": [ such objects ]}.')
    candidates = [item["candidate"] for item in listed]
    await request.app[REGISTRY].add_candidates(request.match_info["call_id"], candidates, request.remote or "")
    return web.Response(status=204)


@routes.post("/api/calls/{call_id}/restart")
async def restart_call(request: web.Request) -> web.Response:
    """A new connection for a call that goes on: ``{"type": "offer", "sdp", "resume_token", "page"?, "take"?}``.

    Two pages that both know the token must not take the call from each other for ever: a page goes on with what it has,
    and only with ``take`` true takes over what another ``page`` has, when it is loaded or a person asks for it. Where
    no page is named there is nobody to confuse."""
    limit_rate(request)
    body = await json_body(request)
    token, take = body.get("resume_token"), body.get("take", False)
    if token is not None and not isinstance(token, str):
        raise RequestError("bad_request", "resume_token must be a text.")
    if not isinstance(take, bool):
        raise RequestError("bad_request", "take must be true or false.")
    # An offer may also come as {"offer": {"type", "sdp"}, …}, as RTCSessionDescription.toJSON() gives it.
    offer = body.get("offer")
    offer = offer_of(offer if isinstance(offer, dict) else body)
    registry, call_id, address = request.app[REGISTRY], request.match_info["call_id"], request.remote or ""
    return _answer(await registry.restart(call_id, offer, token, address, page=_page(body), take=take), 200)


@routes.delete("/api/calls/{call_id}")
async def hang_up(request: web.Request) -> web.Response:
    """End a call. Its id, which only the caller knows, is the permission."""
    await request.app[REGISTRY].hang_up(request.match_info["call_id"])
    return web.Response(status=204)


def limit_rate(request: web.Request, limiter: web.AppKey[RateLimiter] | None = None) -> None:
    """Raise RequestError ``rate_limited`` if this address makes too many offers (or what ``limiter`` counts)."""
    wait_s = request.app[limiter or LIMITER].take(request.remote or "")
    if wait_s:
        raise RequestError(
            "rate_limited", f"Too many requests from this address; try again in {wait_s:.0f} s.", retry_after=wait_s
        )


async def json_body(request: web.Request) -> dict[str, Any]:
    """The request's JSON object. Raises RequestError ``wrong_content_type``, ``too_large``, ``bad_json`` or
    ``too_slow``."""
    if request.content_type != "application/json":
        raise RequestError("wrong_content_type", "Send the body as Content-Type: application/json.")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            raw = await request.read()
        body = read_json(raw)
    except TimeoutError:
        raise RequestError("too_slow", f"The body did not arrive within {BODY_TIMEOUT_S:.0f} s.") from None
    except web.HTTPRequestEntityTooLarge:
        raise RequestError("too_large", f"The body is larger than {MAX_BODY_BYTES // 1024} KB.") from None
    except web.RequestPayloadError:
        raise RequestError("bad_request", "The body is not what its Content-Encoding or chunks say.") from None
    except JsonError as error:
        raise RequestError("bad_json", f"The body is not valid JSON: {error}.") from None
    if not isinstance(body, dict):
        raise RequestError("bad_request", "The body must be a JSON object.")
    return body


def offer_of(body: dict[str, Any]) -> str:
    """The SDP of ``{"type": "offer", "sdp": …}``. Raises RequestError ``bad_request`` or ``bad_sdp``."""
    if body.get("type") != "offer":
        raise RequestError("bad_request", 'The body must be an offer: {"type": "offer", "sdp": …}.')
    if not isinstance(body.get("sdp"), str):
        raise RequestError("bad_sdp", "The offer has no sdp text.")
    return str(body["sdp"])


def _ticket(body: dict[str, Any]) -> str | None:
    """The caller's ticket, if there is one. Raises RequestError ``bad_request``."""
    ticket = body.get("ticket")
    if ticket is not None and not isinstance(ticket, str):
        raise RequestError("bad_request", "ticket must be the text that came when the server was full.")
    return ticket


def _page(body: dict[str, Any]) -> str | None:
    """The name of the caller's page, if there is one. Raises RequestError ``bad_request``."""
    page = body.get("page")
    if page is not None and not (isinstance(page, str) and 0 < len(page) <= MAX_PAGE_CHARS):
        raise RequestError("bad_request", f"page must be a text of at most {MAX_PAGE_CHARS} characters.")
    return page


def error_response(error: RequestError) -> web.Response:
    """An error as JSON."""
    body = {"error": {"code": error.code, "message": error.message}, **error.more}
    headers = {} if error.retry_after is None else {"Retry-After": str(max(1, round(error.retry_after)))}
    return web.json_response(body, status=error.status, headers=headers)


def refused(cause: BaseException | None, path: str = "") -> web.Response:
    """The answer where aiohttp, not a handler, refuses: what it could not read, or has no handler for."""
    if isinstance(cause, web.HTTPNotFound):
        return error_response(RequestError("not_found", f"There is nothing at {printable(path[:200])}."))
    if not isinstance(cause, web.HTTPMethodNotAllowed | BadHttpMethod):
        return error_response(RequestError("bad_request", "This is not an HTTP request that the server can read."))
    known = cause.allowed_methods if isinstance(cause, web.HTTPMethodNotAllowed) else METHODS
    allowed = ", ".join(sorted(known))
    response = error_response(RequestError("method_not_allowed", f"This method is not possible here; {allowed} is."))
    response.headers["Allow"] = allowed
    return response


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever goes wrong in a handler is answered in the one form."""
    try:
        return await handler(request)
    except RequestError as error:
        return error_response(error)
    except web.HTTPException as refusal:
        return refused(refusal, request.path)
    except (ConnectionError, asyncio.CancelledError):  # the client is gone
        raise
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return error_response(RequestError("internal", "Something went wrong here; the server's log says what."))


def _answer(answered: AnsweredOffer, status: int) -> web.Response:
    body = {
        "type": "answer",
        "sdp": answered.sdp,
        "call_id": answered.call_id,
        "resume_token": answered.resume_token,
    }
    return web.json_response(body, status=status, headers={"Location": f"/api/calls/{answered.call_id}"})
