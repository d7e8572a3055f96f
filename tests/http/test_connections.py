"""Raw bytes on the TCP port: what is no proper request is answered in JSON, what stalls or is too much is closed."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
from asyncio import sslproto
from pathlib import Path

import pytest

from app.server import connections
from app.server.certs import ensure_certificates
from app.server.connections import BoundedListener, ConnectionCount
from app.server.limits import client_of
from app.server.options import ServerOptions
from app.server.proxies import networks
from app.server.server import Server, engine_spec
from engine.serving.factory import create_engine
from tests.http.conftest import Site, StartServer
from tests.webrtc.caller import until

HEADERS = b"\r\nHost: here\r\nConnection: close\r\n"
JSON_HEADERS = HEADERS + b"Content-Type: application/json\r\n"
POST = b"POST /api/calls HTTP/1.1" + JSON_HEADERS

BAD = {
    "unknown method": (b"BREW / HTTP/1.1" + HEADERS + b"\r\n", 405, "method_not_allowed"),
    "a method for others": (b"PROPFIND / HTTP/1.1" + HEADERS + b"\r\n", 405, "method_not_allowed"),
    "TLS on a plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 405, "method_not_allowed"),
    "long path": (b"GET /" + b"a" * 4_000 + b" HTTP/1.1" + HEADERS + b"\r\n", 404, "not_found"),
    "long file name": (b"GET /static/" + b"a" * 4_000 + b" HTTP/1.1" + HEADERS + b"\r\n", 404, "not_found"),
    "deep folder": (b"GET /static/" + b"a/" * 2_000 + b" HTTP/1.1" + HEADERS + b"\r\n", 404, "not_found"),
    "path of 9 KB": (b"GET /" + b"a" * 9_000 + b" HTTP/1.1" + HEADERS + b"\r\n", 400, "bad_request"),
    "null byte": (b"GET /static/%00 HTTP/1.1" + HEADERS + b"\r\n", 404, "not_found"),
    "surrogate in a path": (b"GET /static/%ED%A0%80 HTTP/1.1" + HEADERS + b"\r\n", 404, "not_found"),
    "no UTF-8 in a path": (b"GET /api/%ff%fe HTTP/1.1" + HEADERS + b"\r\n", 404, "not_found"),
    "raw byte in a path": (b"GET /\xff HTTP/1.1" + HEADERS + b"\r\n", 400, "bad_request"),
    "out of static": (b"GET /static/../README.md HTTP/1.1" + HEADERS + b"\r\n", 404, "not_found"),
    "out of static, hidden": (b"GET /static/%2e%2e/README.md HTTP/1.1" + HEADERS + b"\r\n", 404, "not_found"),
    "absolute name": (b"GET /static//etc/passwd HTTP/1.1" + HEADERS + b"\r\n", 404, "not_found"),
    "folder": (b"GET /static/js HTTP/1.1" + HEADERS + b"\r\n", 404, "not_found"),
    "no address": (b"GET http://[::1 HTTP/1.1" + HEADERS + b"\r\n", 400, "bad_request"),
    "no version": (b"GET / HTTP/9.9" + HEADERS + b"\r\n", 400, "bad_request"),
    "long header": (b"GET / HTTP/1.1" + HEADERS + b"X: " + b"x" * 20_000 + b"\r\n\r\n", 400, "bad_request"),
    "header of no ASCII": (b"GET / HTTP/1.1\r\n\xff: x\r\n\r\n", 400, "bad_request"),
    "odd expectation": (b"GET / HTTP/1.1" + HEADERS + b"Expect: wonders\r\n\r\n", 400, "bad_request"),
    "negative length": (POST + b"Content-Length: -4\r\n\r\n{}", 400, "bad_request"),
    "odd content type": (
        b"POST /api/calls HTTP/1.1" + HEADERS + b"Content-Type: \xff\r\n\r\n",
        415,
        "wrong_content_type",
    ),
    "gzip that is none": (POST + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd", 400, "bad_json"),
    "chunks that are none": (POST + b"Transfer-Encoding: chunked\r\n\r\nno\r\n", 400, "bad_request"),
}


async def answer_to(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(60):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


@pytest.mark.parametrize("name", BAD)
async def test_what_is_no_proper_request_is_refused_in_json(
    site: Site, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    request, status, code = BAD[name]
    got, headers, body = await answer_to(site.server.port, request)
    assert (got, json.loads(body)["error"]["code"]) == (status, code)
    assert headers["content-type"].startswith("application/json")
    assert "default-src 'self'" in headers["content-security-policy"]
    assert ("allow" in headers) == (status == 405)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]


async def test_a_range_of_a_file_is_answered_with_the_whole(site: Site) -> None:
    request = b"GET /static/js/main.js HTTP/1.1" + HEADERS + b"Range: bytes=99999999-\r\n\r\n"
    status, headers, body = await answer_to(site.server.port, request)
    assert (status, len(body)) == (200, int(headers["content-length"]))
    again = b"GET /static/js/main.js HTTP/1.1" + HEADERS + b"If-None-Match: " + headers["etag"].encode() + b"\r\n\r\n"
    assert (await answer_to(site.server.port, again))[0] == 304


@pytest.mark.parametrize("begin", [b"", b"GET / HT", b"GET /health HTTP/1.1\r\nHost: here\r\n\r\nGET / HT"])
async def test_a_connection_that_stalls_is_closed(
    start: StartServer, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    monkeypatch.setattr(connections, "IDLE_S", 0.2)
    site = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
    writer.write(begin)
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200") == (b"health" in begin)


async def test_a_client_that_does_not_take_its_answer_is_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ANSWER_S", 0.2)
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        lazy.setblocking(False)
        await asyncio.get_running_loop().sock_connect(lazy, ("127.0.0.1", site.server.port))
        request = b"GET /static/img/screenshot.png HTTP/1.1\r\nHost: here\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(lazy, request * 60)
        runner = site.server._runner
        assert runner is not None
        assert runner.server is not None
        served = runner.server
        await until(
            lambda: any(c.transport and c.transport.get_write_buffer_size() for c in served.connections), "a jam"
        )
        await until(lambda: not served.connections, "the end of the connection")


async def test_a_tls_handshake_that_stalls_is_closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_S", 0.2)
    options = ServerOptions.parse(["--engine", "scripted", "--host", "127.0.0.1", "--port", "0"], {})
    async with Server(options, create_engine(engine_spec(options))) as server:
        await server.listen(ensure_certificates(tmp_path))
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()


async def test_a_tls_connection_keeps_a_small_buffer(site: Site) -> None:
    """Fails when an upgrade of Python moves the name."""
    loop, context = asyncio.get_running_loop(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    protocol = sslproto.SSLProtocol(loop, asyncio.Protocol(), context, loop.create_future(), server_side=True)
    assert len(protocol.get_buffer(0)) == connections.TLS_BUFFER_BYTES


def test_connections_are_counted_by_address_and_together() -> None:
    count = ConnectionCount(most=5, most_per_address=2)
    assert [count.add("a") for _ in range(3)] == [True, True, False]
    assert [count.add(address) for address in "bcde"] == [True, True, True, False]
    assert (count.total, count.refused) == (5, 2)
    count.remove("a")
    assert count.add("a")
    for address in "aabcd":
        count.remove(address)
    assert count.total == 0
    assert all(count.add("a") for _ in range(2))


def test_a_proxy_may_have_as_many_connections_as_there_are() -> None:
    count = ConnectionCount(most=5, most_per_address=2, proxies=networks("10.0.0.0/8"))
    assert [count.add("203.0.113.9") for _ in range(3)] == [True, True, False]
    assert [count.add("10.0.0.1") for _ in range(4)] == [True, True, True, False]


async def test_one_address_gets_so_many_connections_and_others_still_get_theirs() -> None:
    count = ConnectionCount(most=20, most_per_address=4)
    loop = asyncio.get_running_loop()
    listener = BoundedListener(socket.AF_INET, ("127.0.0.1", 0), count)
    port = listener.getsockname()[1]
    server = await loop.create_server(asyncio.Protocol, sock=listener)
    greedy = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
    await until(lambda: count.refused == 8, "the refusals")
    assert count.total == 4
    _, other = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
    await until(lambda: count.total == 5, "the other's connection")
    for _, writer in [*greedy, (None, other)]:
        writer.close()
    await until(lambda: count.total == 0, "the end of all")
    server.close()


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
    ],
)
def test_a_client_is_an_address_or_an_ipv6_network(address: str, client: str) -> None:
    assert client_of(address) == client
