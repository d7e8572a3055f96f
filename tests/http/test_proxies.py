"""Who a request comes from, when a reverse proxy passes it on."""

from __future__ import annotations

import pytest

from app.server.proxies import client_address, networks
from tests.http.conftest import StartServer

PROXIES = networks("10.0.0.0/8, 2001:db8::5")


@pytest.mark.parametrize(
    ("sender", "forwarded", "client"),
    [
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),  # anybody can write the header
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["192.0.2.77, 198.51.100.1"], "198.51.100.1"),  # the first is what the client claims
        ("10.0.0.1", ["192.0.2.77", "198.51.100.1,10.9.9.9"], "198.51.100.1"),  # two proxies, two headers
        ("::ffff:10.0.0.1", ["[2001:db8::77]"], "2001:db8::77"),
        ("2001:db8::5", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.2"], "10.0.0.2"),
        ("", ["198.51.100.1"], ""),
    ],
)
def test_the_client_is_whom_the_nearest_believed_proxy_names(sender: str, forwarded: list[str], client: str) -> None:
    assert client_address(sender, forwarded, PROXIES) == client


@pytest.mark.parametrize(("flags", "limited"), [((), True), (("--proxies", "127.0.0.0/8"), False)])
async def test_clients_behind_a_proxy_are_limited_one_by_one(
    start: StartServer, flags: tuple[str, ...], limited: bool
) -> None:
    site = await start("--offers-per-minute", "2", *flags)

    async def code(client: str) -> str:
        headers = {"X-Forwarded-For": client}
        async with site.http.post("/api/calls", json={"type": "offer", "sdp": ""}, headers=headers) as response:
            return str((await response.json())["error"]["code"])

    assert await code("198.51.100.1") == "bad_sdp"
    assert await code("198.51.100.1") == "rate_limited"
    assert (await code("198.51.100.2") == "rate_limited") is limited
