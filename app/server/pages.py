"""The pages (call, chat, key and help), their static files, and the certificate that a device can be made to trust."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Callable
from pathlib import Path

import jinja2
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from markupsafe import Markup

from app.errors import RequestError
from app.server.access import ACCESS, may_enter
from app.server.addresses import LOOPBACK
from app.server.certs import fingerprint, runs_out
from app.server.qr import svg

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "static"
MAX_HOST = 253
"""Characters of a host name (RFC 1035 section 2.3.4)."""
CERTIFICATE_TYPE = "application/x-x509-ca-cert"

SECURITY_HEADERS = {
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'self'",
            "img-src 'self' data: blob:",
            "media-src 'self' blob:",
            "style-src 'self' 'unsafe-inline'",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        ]
    ),
    "Permissions-Policy": "camera=(self), microphone=(self), display-capture=(self), screen-wake-lock=(self)",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """What every answer carries. Pages and scripts are revalidated each time, so that an update is seen at once."""
    response.headers.update(SECURITY_HEADERS)
    response.headers.setdefault("Cache-Control", "no-cache" if request.path.startswith("/static/") else "no-store")


def add_pages(
    app: web.Application, ca: Path | None, origins: Callable[[], list[str]], only_chats: Callable[[], bool]
) -> None:
    """Serve the pages. ``ca`` is the authority that signed the server's certificate, None if it is not ours;
    ``origins`` gives the addresses of the pages for other devices, the likeliest first; ``only_chats`` says whether
    the model is one that cannot be called."""
    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(ROOT / "templates"), autoescape=True)

    def behind_the_key(request: web.Request, name: str) -> web.Response:
        if may_enter(request):
            return _page(templates.get_template(name).render())
        return _page(templates.get_template("key.html").render(), status=401)

    async def call_page(request: web.Request) -> web.Response:
        if only_chats():
            return web.Response(status=302, headers={"Location": "/chat"})
        return behind_the_key(request, "call.html")

    async def chat_page(request: web.Request) -> web.Response:
        return behind_the_key(request, "chat.html")

    async def help_page(request: web.Request) -> web.Response:
        access, inside = request.app[ACCESS], may_enter(request)
        addresses = _with_own(request, origins())
        link = f"{addresses[0]}/help{access.fragment if access and inside else ''}" if addresses else ""
        html = templates.get_template("help.html").render(
            ca_sha256=fingerprint(ca) if ca else None,
            ca_until=runs_out(ca) if ca else None,
            addresses=addresses,
            qr=Markup(svg(link)) if link else None,
            key_wanted=not inside,
            link_has_key=access is not None and inside,
        )
        return _page(html)

    async def ca_pem(request: web.Request) -> web.Response:
        return web.Response(body=_authority(ca), content_type=CERTIFICATE_TYPE)

    async def ca_der(request: web.Request) -> web.Response:
        der = x509.load_pem_x509_certificate(_authority(ca)).public_bytes(serialization.Encoding.DER)
        return web.Response(body=der, content_type=CERTIFICATE_TYPE)

    app.router.add_get("/", call_page)
    app.router.add_get("/chat", chat_page)
    app.router.add_get("/help", help_page)
    app.router.add_get("/ca.pem", ca_pem)
    app.router.add_get("/ca.crt", ca_der)
    app.router.add_get("/static/{name:.*}", static_file)
    app.on_response_prepare.append(add_headers)


async def static_file(request: web.Request) -> web.Response:
    """A file of ``static/``, whole, or 304 if the browser has this version. Names are looked up, never trusted."""
    path = STATIC / request.match_info["name"]
    try:
        path = path.resolve()
        status = path.stat()
        if not path.is_relative_to(STATIC) or not path.is_file():
            raise FileNotFoundError
    except (OSError, ValueError):  # ValueError: a null byte, or what is no Unicode
        raise web.HTTPNotFound from None
    version = f"{status.st_mtime_ns:x}-{status.st_size:x}"
    if any(tag.value in (version, "*") for tag in request.if_none_match or ()):
        response = web.Response(status=304)
    else:
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        response = web.Response(body=await asyncio.to_thread(path.read_bytes), content_type=kind)
        if kind.startswith("text/"):
            response.charset = "utf-8"
    response.etag = version
    return response


def _page(html: str, status: int = 200) -> web.Response:
    return web.Response(text=html, status=status, content_type="text/html", charset="utf-8")


def _with_own(request: web.Request, origins: list[str]) -> list[str]:
    """The addresses of the server, first the one that the asker came by: it works. One that only this machine has, or
    that is no address, is left out."""
    try:
        host, own = request.url.host or "", str(request.url.origin())
    except ValueError:
        return origins
    if host in LOOPBACK or not 0 < len(host) <= MAX_HOST:
        return origins
    return [own, *(address for address in origins if address != own)]


def _authority(ca: Path | None) -> bytes:
    if ca is None:
        raise RequestError("not_found", "This server uses a certificate of its owner; there is no local CA to trust.")
    return ca.read_bytes()
