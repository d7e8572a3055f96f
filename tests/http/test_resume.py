"""A call goes on with another connection: of the same page, of the page loaded again, of another page."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from app.webrtc import peer
from engine.serving.scripted import Script, ScriptedEngine
from tests.browser.server import write_script
from tests.http.conftest import Site, StartServer
from tests.replay.recorded import assert_replays_identically, finished_recording
from tests.webrtc.caller import Caller, until
from tests.webrtc.offers import OFFER

COUNTING = "one and then two and then three and then four and then five"


async def resume(site: Site, answer: dict[str, Any], *, last_seq: int | None = None, **more: Any) -> Caller:
    """A new connection for the call of ``answer``, that has said hello."""
    caller = Caller()
    site.callers.append(caller)
    status, body = await restart(site, answer, await caller.offer(), **more)
    assert status == 200, body
    await caller.accept(body["sdp"])
    await caller.connected()
    caller.send("hello", protocol=1, last_seq=last_seq)
    await until(lambda: any(welcome["data"]["resumed"] for welcome in caller.of_type("welcome")), "the welcome")
    return caller


async def restart(site: Site, answer: dict[str, Any], sdp: str = OFFER, **more: Any) -> tuple[int, dict[str, Any]]:
    content = {"type": "offer", "sdp": sdp, "resume_token": answer["resume_token"], **more}
    status, body, _ = await site.post(f"/api/calls/{answer['call_id']}/restart", content)
    return status, body


async def test_a_call_is_resumed_with_its_token_and_keeps_its_memory(start: StartServer, tmp_path: Path) -> None:
    script = write_script(tmp_path / "script.json", "The number is seven.", "Before that I said: {said}")
    site = await start("--script", str(script))
    caller, answer = await site.call()
    caller.send("input.text", text="Which number?")
    await caller.receive("response.done")
    caller.vanish()
    last = caller.events[-1]["seq"]
    path, sdp = f"/api/calls/{answer['call_id']}/restart", await Caller().offer()
    for body, status in (
        ({"type": "offer", "sdp": sdp}, 401),
        ({"type": "offer", "sdp": sdp, "resume_token": "wrong"}, 403),
        ({"type": "offer", "sdp": sdp, "resume_token": "ü"}, 403),
        ({"type": "offer", "sdp": "hello", "resume_token": answer["resume_token"]}, 400),
        ({"type": "offer", "sdp": sdp, "resume_token": answer["resume_token"], "page": ""}, 400),
        ({"type": "offer", "sdp": sdp, "resume_token": answer["resume_token"], "take": "yes"}, 400),
    ):
        assert (await site.post(path, body))[0] == status
    again = await resume(site, answer)
    welcome = again.of_type("welcome")[0]
    assert welcome["data"]["session"] == answer["call_id"]
    assert welcome["seq"] > last
    again.send("input.text", text="What did you say?")
    await again.receive("response.done")
    text = "".join(event["data"]["delta"] for event in again.of_type("assistant.text"))
    assert text == "Before that I said: The number is seven."
    assert len(site.server.registry) == 1


async def test_a_token_of_another_call_opens_nothing(site: Site) -> None:
    _, mine = await site.call()
    _, yours = await site.call()
    status, body = await restart(site, {"call_id": yours["call_id"], "resume_token": mine["resume_token"]})
    assert (status, body["error"]["code"]) == (403, "token_wrong")


async def test_tries_of_tokens_are_limited_as_offers_are(start: StartServer) -> None:
    site = await start("--offers-per-minute", "6")
    _, answer = await site.call()
    wrong = {**answer, "resume_token": "wrong"}
    assert [(await restart(site, wrong))[0] for _ in range(3)] == [403, 403, 429]


async def test_a_resumed_call_repeats_what_was_missed_without_a_gap(site: Site) -> None:
    caller, answer = await site.call()
    caller.send("input.text", text="Say something")
    await caller.receive("assistant.text")
    caller.vanish()
    last = caller.events[-1]["seq"]
    again = await resume(site, answer, last_seq=last)
    await again.receive("response.done")
    await again.receive("metrics", 2)
    assert [event["seq"] for event in again.events] == list(range(last + 1, last + 1 + len(again.events)))


async def test_a_page_that_knows_nothing_gets_the_whole_conversation(site: Site) -> None:
    caller, answer = await site.call()
    caller.send("input.text", text="Say something")
    await caller.receive("response.done")
    again = await resume(site, answer, last_seq=-1)
    assert again.of_type("user.text")[0]["data"] == {"text": "Say something"}
    assert again.of_type("assistant.text") == caller.of_type("assistant.text")


async def test_an_answer_under_way_waits_for_the_new_connection_and_goes_on(start: StartServer, tmp_path: Path) -> None:
    script = write_script(tmp_path / "script.json", COUNTING)
    site = await start("--script", str(script), "--record", str(tmp_path / "calls"))
    caller, answer = await site.call()
    caller.send("input.text", text="Count.")
    await caller.receive("assistant.text")
    await until(lambda: any(frame.to_ndarray().any() for frame in caller.heard), "the voice")
    await caller.close()
    (entry,) = site.server.registry._calls.values()
    await until(lambda: entry.peer is None, "the loss of the peer")
    stood = entry.call.output.played
    assert entry.call.output.buffered
    await asyncio.sleep(0.3)
    assert entry.call.output.played == stood  # nobody hears it now

    again = await resume(site, answer, last_seq=caller.events[-1]["seq"])
    position = again.of_type("welcome")[0]["data"]["answer"]
    assert position["epoch"] == 1
    assert position["played_ms"] >= stood / 24
    done = (await again.receive("response.done"))["data"]
    assert (done["status"], done["heard_chars"]) == ("completed", len(COUNTING))
    assert any(frame.to_ndarray().any() for frame in again.heard)
    await site.hang_up(answer["call_id"])
    folder = await finished_recording(tmp_path / "calls")
    await assert_replays_identically(folder, ScriptedEngine(Script.load(script)))


async def test_a_restart_that_meets_the_end_of_its_call_leaves_no_peer(site: Site) -> None:
    _, answer = await site.call()
    again = Caller()
    site.callers.append(again)
    (status, body), end = await asyncio.gather(
        restart(site, answer, await again.offer()), site.hang_up(answer["call_id"])
    )
    assert end == 204
    assert status in (200, 404)
    if status == 200:
        await again.accept(body["sdp"])
    await site.free(0)
    await until(lambda: not [t for t in threading.enumerate() if t.name.endswith("-decoder")], "the decoders' end")


async def test_the_newest_page_has_the_call_and_the_older_one_is_told_and_stays_away(site: Site) -> None:
    older, answer = await site.call(page="older")
    await older.receive("welcome")
    newer = await resume(site, answer, page="newer", take=True, last_seq=-1)
    await older.receive("session.moved")
    await until(lambda: older.connection.connectionState == "closed", "the end of the old connection")

    # The older page's network fails and comes back: it goes on with what it has, and that is nothing.
    status, body = await restart(site, answer, page="older")
    assert (status, body["error"]["code"]) == (409, "taken_over")
    newer.send("ping", nonce="untouched")
    await newer.receive("pong")
    assert newer.of_type("session.moved") == [], "what it was told before is not about it"

    # The person wants it there again.
    back = await resume(site, answer, page="older", take=True, last_seq=older.events[-1]["seq"])
    await newer.receive("session.moved")
    assert (await restart(site, answer, page="newer"))[0] == 409
    again = await resume(site, answer, page="older", last_seq=back.events[-1]["seq"])
    again.send("ping", nonce="still mine")
    await again.receive("pong")
    assert back.of_type("session.moved") == [], "a page is not told of itself"
    assert len(site.server.registry) == 1


async def test_a_call_that_is_not_resumed_ends_after_its_grace(start: StartServer) -> None:
    site = await start("--grace-s", "1")
    caller, answer = await site.call()
    await caller.close()
    await site.free(0)
    assert (await restart(site, answer))[0] == 404
    assert await site.server.engine.sessions() == ()


async def test_a_new_connection_that_never_comes_about_does_not_end_the_call(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, answer = await site.call()
    (entry,) = site.server.registry._calls.values()
    monkeypatch.setattr(peer, "CONNECT_TIMEOUT_S", 0.2)
    assert (await restart(site, answer))[0] == 200
    await until(lambda: entry.peer is None, "the loss of the new peer")
    await asyncio.sleep(0.1)
    await resume(site, answer)


async def test_fifty_resumes_leave_nothing_behind(start: StartServer) -> None:
    site = await start("--offers-per-minute", "0")
    caller, answer = await site.call()
    await caller.receive("welcome")

    def holdings() -> dict[str, int]:
        return {
            "threads": sum(thread.name.endswith("-decoder") for thread in threading.enumerate()),
            "peers closing": len(peer._closing),
            "tasks of the registry": len(site.server.registry._tasks),
            "places": len(site.server.registry),
        }

    async def settled() -> tuple[dict[str, int], int, int]:
        await until(lambda: not peer._closing and not site.server.registry._tasks, "the end of the old peers")
        await asyncio.sleep(0.2)
        return holdings(), len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))

    before = await settled()
    for number in range(50):
        newer = await resume(site, answer, page=f"page {number}", take=True, last_seq=caller.events[-1]["seq"])
        await caller.close()
        caller = newer
    after = await settled()
    assert after[0] == before[0]
    assert after[1] <= before[1] + 3
    assert after[2] <= before[2] + 3
    assert len(await site.server.engine.sessions()) == 1
    caller.send("input.text", text="Still there?")
    await caller.receive("response.done")
    await site.hang_up(answer["call_id"])
    await site.free(0)
    assert await site.server.engine.sessions() == ()
