"""The access key: what is open without it, how it is shown, and how often it may be guessed."""

from __future__ import annotations

import re
from http.cookies import Morsel, SimpleCookie

import pytest

from app.server.access import LETTERS, TRIES_PER_MINUTE, Access
from app.server.announce import announcement
from app.server.options import ServerOptions
from app.server.qr import blocks, svg
from tests.http.conftest import Site, StartServer

KEY = "caf\u00e9 & cake #1"


async def status(site: Site, path: str, **headers: str) -> int:
    async with site.http.get(path, headers=headers) as response:
        return response.status


async def enter(site: Site, key: str) -> Morsel[str]:
    """Show the key; the cookie that comes back."""
    async with site.http.post("/api/key", json={"key": key}) as response:
        assert response.status == 204, await response.text()
        (cookie,) = SimpleCookie(response.headers["Set-Cookie"]).values()
        return cookie


@pytest.fixture
async def locked(start: StartServer) -> Site:
    return await start("--key", KEY)


async def test_without_the_key_only_the_way_in_is_open(locked: Site) -> None:
    for path in ("/health", "/help", "/static/js/key.js", "/static/css/help.css"):
        assert await status(locked, path) == 200, path
    assert await status(locked, "/ca.pem") == 404  # this server has no authority
    closed = {
        "GET": ("/ready", "/nothing", "/api/calls", "/static%2F..%2Fready", "/api/key"),
        "POST": ("/api/calls", "/api/line", "/api/calls/x/restart", "/health"),
        "PATCH": ("/api/calls/x",),
        "DELETE": ("/api/calls/x", "/api/line/x"),
        "OPTIONS": ("/api/calls",),
    }
    for method, paths in closed.items():
        for path in paths:
            async with locked.http.request(method, path) as response:
                body = await response.json()
                assert (response.status, body["error"]["code"]) == (401, "key_missing"), (method, path)
    async with locked.http.get("/") as response:
        assert response.status == 401
        page = await response.text()
    assert 'id="key-input"' in page
    assert "start-video" not in page


async def test_the_key_becomes_a_cookie_that_opens_everything(locked: Site) -> None:
    cookie = await enter(locked, KEY)
    assert cookie.key.startswith("__Host-")
    assert cookie["secure"]
    assert cookie["httponly"]
    assert (cookie["samesite"], cookie["path"], cookie["domain"]) == ("Strict", "/", "")
    assert KEY not in cookie.value
    shown = f"{cookie.key}={cookie.value}"
    for path in ("/", "/ready"):
        assert await status(locked, path, Cookie=shown) == 200
    assert await status(locked, "/api/key", Cookie=shown) == 204
    assert await status(locked, "/nothing", Cookie=shown) == 404
    for wrong in (f"{cookie.key}=", f"{cookie.key}={cookie.value[:-1]}", f"other={cookie.value}"):
        assert await status(locked, "/ready", Cookie=wrong) == 401


async def test_another_server_with_the_same_key_wants_to_see_it_again(locked: Site, start: StartServer) -> None:
    cookie = await enter(locked, KEY)
    again = await start("--key", KEY)
    assert await status(again, "/ready", Cookie=f"{cookie.key}={cookie.value}") == 401


async def test_a_key_may_be_typed_in_two_spellings_and_with_spaces_around(locked: Site) -> None:
    await enter(locked, f"  {KEY.replace(chr(0xE9), 'e' + chr(0x301))} ")


async def test_wrong_keys_are_counted_and_right_ones_are_not(locked: Site) -> None:
    for _ in range(TRIES_PER_MINUTE * 2):
        await enter(locked, KEY)
    for _ in range(TRIES_PER_MINUTE // 2):
        code, body, _ = await locked.post("/api/key", {"key": KEY + "x"})
        assert (code, body["error"]["code"]) == (403, "key_wrong")
    for key in ("", KEY):  # who guesses on learns nothing, not even from the right one
        code, body, response = await locked.post("/api/key", {"key": key})
        assert (code, body["error"]["code"]) == (429, "rate_limited")
        assert int(response.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("body", [{}, {"key": 7}, [], {"key": None}])
async def test_what_is_no_key_is_refused(locked: Site, body: object) -> None:
    code, answer, _ = await locked.post("/api/key", body)
    assert (code, answer["error"]["code"]) == (400, "bad_request")


async def test_without_the_option_everything_is_open(site: Site) -> None:
    assert await status(site, "/api/key") == 204
    assert (await site.http.post("/api/key", json={"key": "anything"})).status == 204
    assert await status(site, "/ready") == 200


async def test_a_key_of_our_own_making_is_long_and_easy_to_type() -> None:
    keys = {Access("auto", 1).key for _ in range(50)}
    assert len(keys) == 50
    assert all(re.fullmatch(rf"[{LETTERS}]{{4}}(-[{LETTERS}]{{4}}){{2}}", key) for key in keys)


async def test_the_help_page_shows_the_way_to_the_server_and_gives_the_key_to_who_has_it(start: StartServer) -> None:
    site = await start("--key", KEY)
    name = {"Host": f"192.0.2.7:{site.server.port}"}
    async with site.http.get("/help", headers=name) as response:
        outside = await response.text()
    cookie = await enter(site, KEY)
    async with site.http.get("/help", headers={**name, "Cookie": f"{cookie.key}={cookie.value}"}) as response:
        inside = await response.text()
    here = f"http://192.0.2.7:{site.server.port}"
    assert here in outside
    assert here in inside
    assert svg(f"{here}/help") in outside
    assert svg(f"{here}/help#key=caf%C3%A9%20%26%20cake%20%231") in inside
    assert 'data-key="wanted"' in outside
    assert 'data-key="wanted"' not in inside


@pytest.mark.parametrize("host", ["x" * 4_000, '"><script>', "[::1", "a b"])
async def test_a_host_that_is_none_does_no_harm(site: Site, host: str) -> None:
    async with site.http.get("/help", headers={"Host": host}) as response:
        assert response.status in (200, 400)
        assert '"><script>' not in await response.text()


async def test_the_start_tells_who_may_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.server.announce.reachable_hosts", lambda host: ["192.168.1.5", "fd00::5"])
    plain = announcement("0.0.0.0", 8443, None, colours=False)
    assert [line for line in plain if "anyone who reaches port 8443 may call" in line and "KEY=auto" in line]
    assert plain[-1] == "ready https://localhost:8443"
    access = Access("auto", 8443)
    told = announcement("0.0.0.0", 8443, access, colours=False)
    link = f"https://192.168.1.5:8443/#key={access.key}"
    assert told[0].startswith(f"on your network: {link} ")
    assert f"https://[fd00::5]:8443/#key={access.key} " in told[1]
    assert blocks(link, colours=False) in told
    assert told[-1] == "ready https://localhost:8443"
    assert not [line for line in told if "anyone" in line]


def test_a_code_has_its_finder_patterns() -> None:
    lines = blocks("https://192.168.1.5:8443/#key=abcd", colours=False).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].startswith("██ ▄▄▄▄▄ █")  # the outer ring and the white one of the upper left finder


def test_the_option_is_auto_or_long_enough() -> None:
    assert ServerOptions.parse(["--key", "AUTO"], {}).key == "auto"
    assert ServerOptions.parse([], {"KEY": "long enough"}).key == "long enough"
