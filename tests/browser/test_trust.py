"""A browser that was told to trust the authority: no warning for this server, a refusal for what it may not sign."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.x509 import DNSName
from playwright.async_api import Error, async_playwright

from app.server.certs import Certificates, ensure_certificates
from tests.browser.caller import CHROMIUM
from tests.http.test_certs import forge

pytestmark = pytest.mark.skipif(
    shutil.which("certutil") is None, reason="needs certutil: apt-get install libnss3-tools"
)


def trust(home: Path, ca: Path | None) -> None:
    """Put the authority where Chromium looks for a user's own ones (NSS; which folder depends on the version)."""
    for folder in (home / ".pki/nssdb", home / ".local/share/pki/nssdb"):
        folder.mkdir(parents=True)
        subprocess.run(["certutil", "-N", "-d", f"sql:{folder}", "--empty-password"], check=True)
        subprocess.run(
            ["certutil", "-A", "-d", f"sql:{folder}", "-n", "omni", "-t", "C,,", "-i", str(ca)],
            check=True,
        )


async def say_hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    await writer.drain()
    writer.close()


async def test_a_trusted_authority_opens_this_server_and_nothing_else(tmp_path: Path) -> None:
    files = ensure_certificates(tmp_path / "certs")
    forged = forge(files, [DNSName("localhost"), DNSName("www.example.com")])
    trust(tmp_path / "home", files.ca)
    ours = await asyncio.start_server(say_hello, "127.0.0.1", 0, ssl=files.ssl_context())
    stolen = Certificates(forged, forged.with_suffix(".key"), None)
    theirs = await asyncio.start_server(say_hello, "127.0.0.1", 0, ssl=stolen.ssl_context())
    async with ours, theirs, async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP www.example.com 127.0.0.1"],
            env={**os.environ, "HOME": str(tmp_path / "home")},
        )
        page = await chromium.new_page()
        for host in ("localhost", "127.0.0.1"):
            answer = await page.goto(f"https://{host}:{ours.sockets[0].getsockname()[1]}/")
            assert answer is not None
            assert await answer.text() == "hello"
        for host in ("localhost", "www.example.com"):
            with pytest.raises(Error, match="ERR_CERT"):
                await page.goto(f"https://{host}:{theirs.sockets[0].getsockname()[1]}/")
        await chromium.close()
