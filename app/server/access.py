"""Who may come in: with a key, the call page and every request of a call need it.

The key travels in the fragment of a link, which browsers send to no server and write into no log. The page sends it
once, in a body, and gets a cookie that no script can read and no other site can make a browser send. The cookie's
value is drawn at every start and is not made from the key, so that guessing it is no way around the limit on tries.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import unicodedata
from urllib.parse import quote

from aiohttp import web

from app.errors import RequestError
from app.server.api import Handler, json_body
from app.server.limits import RateLimiter

TRIES_PER_MINUTE = 12
"""Wrong keys that one address may try in the long run, and half of that at once."""

COOKIE_S = 30 * 24 * 3600

LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
"""Of a key that is made here: none that looks like another one when it is typed from a screen."""

OPEN = ("/", "/chat", "/health", "/help", "/ca.pem", "/ca.crt", "/api/key", "/static/{name}")
"""Routes that need no key: the sign of life, how to trust the certificate, and the way in (``/`` and ``/chat`` are the
key page then). The files of ``/static/`` hold nothing of a call, and the open pages need them."""


PROGRAMS = "/v1/"
"""Where programs come, which know no cookies."""


class Access:
    """The key of a server, and who has shown it."""

    def __init__(self, key: str, port: int, api_key: str = "") -> None:
        """``key``: the text of the option, or ``auto`` for one that is made here: 59 bits in twelve letters.
        ``api_key`` is what programs show for :data:`PROGRAMS`; without one, ``key``."""
        self.key = _normal(key if key != "auto" else _made_up())
        self._api_key = api_key or self.key
        self._cookie = f"__Host-omni-call-{port}"
        self._ticket = secrets.token_urlsafe(32)
        self._tries = RateLimiter(TRIES_PER_MINUTE)

    @property
    def fragment(self) -> str:
        """What a link to the server's pages ends with."""
        return f"#key={quote(self.key, safe='')}"

    def has(self, request: web.Request) -> bool:
        """Whether a request comes from somebody who has shown the key."""
        return _same(request.cookies.get(self._cookie, ""), self._ticket)

    def check_program(self, request: web.Request) -> None:
        """Let a program in that shows its key as a bearer token, and whoever has shown the key. Raises RequestError
        ``key_missing``, ``key_wrong``, or ``rate_limited`` after too many wrong ones."""
        if self.has(request):
            return
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise RequestError("key_missing", "This server asks for a key: send it as Authorization: Bearer KEY.")
        self._try(token.strip(), self._api_key, request.remote or "")

    def enter(self, key: str, address: str) -> web.Response:
        """204 with the cookie. Raises RequestError ``key_wrong``, or ``rate_limited`` after too many wrong ones."""
        self._try(_normal(key), self.key, address)
        response = web.Response(status=204)
        response.set_cookie(
            self._cookie, self._ticket, max_age=COOKIE_S, path="/", secure=True, httponly=True, samesite="Strict"
        )
        return response

    def _try(self, shown: str, key: str, address: str) -> None:
        if wait_s := self._tries.wait_s(address):
            raise RequestError("rate_limited", f"Too many wrong keys; try again in {wait_s:.0f} s.", retry_after=wait_s)
        if not _same(shown, key):
            self._tries.take(address)
            raise RequestError("key_wrong", "This is not the key. Look at the link that the server printed last.")


ACCESS: web.AppKey[Access | None] = web.AppKey("access")
"""None where anyone may call."""

routes = web.RouteTableDef()


@routes.get("/api/key")
async def whether_inside(request: web.Request) -> web.Response:
    """204 if no key is needed or it was shown, else the error. A page asks that came from another site's link: for its
    own first request the browser kept the cookie back."""
    require_key(request)
    return web.Response(status=204)


@routes.post("/api/key")
async def show_key(request: web.Request) -> web.Response:
    """``{"key": …}`` → the cookie that all other requests need."""
    key = (await json_body(request)).get("key")
    if not isinstance(key, str):
        raise RequestError("bad_request", 'The body must be {"key": the text of the key}.')
    access = request.app[ACCESS]
    return web.Response(status=204) if access is None else access.enter(key, request.remote or "")


def may_enter(request: web.Request) -> bool:
    """Whether no key is needed, or it was shown."""
    access = request.app[ACCESS]
    return access is None or access.has(request)


def require_key(request: web.Request) -> None:
    """Raise RequestError ``key_missing`` if :func:`may_enter` says no."""
    if not may_enter(request):
        raise RequestError("key_missing", "This server asks for a key: open the link that it printed at its start.")


@web.middleware
async def behind_the_key(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Nothing but the key page and what is :data:`OPEN` is answered to somebody without the key, not even whether a
    path is known."""
    resource = request.match_info.route.resource
    if request.path.startswith(PROGRAMS):
        if (door := request.app[ACCESS]) is not None:
            door.check_program(request)
    elif resource is None or resource.canonical not in OPEN:
        require_key(request)
    return await handler(request)


def _made_up() -> str:
    return "-".join("".join(secrets.choice(LETTERS) for _ in range(4)) for _ in range(3))


def _normal(key: str) -> str:
    """One spelling for what may be typed in two ways (é as one character, or as e and an accent)."""
    return unicodedata.normalize("NFC", key.strip())


def _same(one: str, other: str) -> bool:
    """In a time that tells nothing of either; not even the length, since digests are compared."""
    return hmac.compare_digest(*(hashlib.sha256(text.encode()).digest() for text in (one, other)))
