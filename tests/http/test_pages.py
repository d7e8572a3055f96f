"""Pages, static files, the certificate for devices, and the headers that every answer carries."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import pytest
from aiohttp import ClientSession
from cryptography import x509
from yarl import URL

from app.server.certs import ensure_certificates
from app.server.options import ServerOptions
from app.server.server import Server, engine_spec
from engine.serving.factory import create_engine
from tests.http.conftest import Site

ROOT = Path(__file__).resolve().parents[2]


async def test_the_call_page_and_all_that_it_loads_are_served(site: Site) -> None:
    for path in ("/", "/help"):
        async with site.http.get(path) as response:
            html = await response.text()
            assert (response.status, response.content_type) == (200, "text/html")
        for link in re.findall(r'(?:src|href)="(/static/[^"]+)"', html):
            async with site.http.get(link) as response:
                assert response.status == 200, link


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/js",
        "/static/../certs/ca.key",
        "/static/%2e%2e/certs/ca.key",
        "/static/..%2fcerts%2fca.key",
        "/static//etc/passwd",
        "/static/%00",
        "/certs/ca.key",
        "/ca.key",
        "/server.key",
        "/app/server/server.py",
    ],
)
async def test_nothing_else_is_served(site: Site, path: str) -> None:
    url = URL(f"http://127.0.0.1:{site.server.port}{path}", encoded=True)
    async with site.http.get(url) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/", "/health", "/static/js/main.js", "/nothing"])
async def test_every_answer_carries_the_security_headers(site: Site, path: str) -> None:
    async with site.http.get(path) as response:
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "camera=(self)" in response.headers["Permissions-Policy"]
        assert "Access-Control-Allow-Origin" not in response.headers
        assert response.headers["Cache-Control"] in ("no-store", "no-cache")


async def test_the_authority_can_be_downloaded_in_the_form_that_devices_install(tmp_path: Path) -> None:
    files = ensure_certificates(tmp_path)
    options = ServerOptions.parse(["--engine", "scripted", "--host", "127.0.0.1", "--port", "0"], {})
    async with Server(options, create_engine(engine_spec(options))) as server:
        await server.listen(files)
        trust = ssl.create_default_context(cafile=str(files.ca))
        async with ClientSession(f"https://localhost:{server.port}") as http:
            for path, load in (
                ("/ca.pem", x509.load_pem_x509_certificate),
                ("/ca.crt", x509.load_der_x509_certificate),
            ):
                async with http.get(path, ssl=trust) as response:
                    assert response.content_type == "application/x-x509-ca-cert"
                    body = await response.read()
                assert b"PRIVATE" not in body
                assert load(body).extensions.get_extension_for_class(x509.BasicConstraints).value.ca


async def test_without_an_authority_of_ours_there_is_none_to_download(site: Site) -> None:
    async with site.http.get("/ca.pem") as response:
        assert response.status == 404
