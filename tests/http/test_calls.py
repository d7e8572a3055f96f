"""The life of calls on a served app: places, the queue, resumption, floods, ends."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from app.call.engine_link import EngineLink
from app.server import open_call, places
from app.webrtc import channel, peer
from engine.client import EngineError, SessionOptions
from tests.browser.server import write_script
from tests.http.conftest import Site, StartServer
from tests.replay.recorded import assert_replays_identically, finished_recording
from tests.webrtc.caller import Caller, Camera, until
from tests.webrtc.offers import OFFER


def all_text(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("*/*.json*"))


async def test_a_call_begins_with_everything_that_the_client_needs(site: Site) -> None:
    caller = Caller(camera=Camera(1))
    site.callers.append(caller)
    status, answer, response = await site.offer(await caller.offer(), options={"preset": "omni"})
    assert (status, answer["type"]) == (201, "answer")
    assert response.headers["Location"] == f"/api/calls/{answer['call_id']}"
    assert len(answer["call_id"]) >= 16
    assert len(answer["resume_token"]) >= 32
    assert "maxaveragebitrate" in answer["sdp"]
    assert "x-google-start-bitrate" in answer["sdp"]
    candidates = [line for line in answer["sdp"].splitlines() if line.startswith("a=candidate")]
    assert candidates
    assert all(" 127.0.0.1 " in line for line in candidates)
    await caller.accept(answer["sdp"])
    welcome = await caller.receive("welcome")
    assert caller.events[0] == welcome
    assert [event["seq"] for event in caller.events] == list(range(len(caller.events)))


async def test_hanging_up_frees_the_place_and_the_session(site: Site) -> None:
    caller, answer = await site.call()
    assert await site.hang_up(answer["call_id"]) == 204
    assert len(site.server.registry) == 0
    await until(lambda: caller.connection.connectionState == "closed", "the end of the connection")
    assert await site.hang_up(answer["call_id"]) == 404


async def test_a_client_that_says_bye_ends_its_call(site: Site) -> None:
    caller, _ = await site.call()
    caller.send("bye", reason="done")
    await site.free(0)


async def test_an_invalid_offer_does_not_take_a_place(start: StartServer) -> None:
    site = await start("--max-calls", "1")
    # Reads well and cannot be answered: two sections of one name.
    unanswerable = OFFER.replace("a=mid:1", "a=mid:0").replace("a=mid:2", "a=mid:0")
    for sdp in ("hello", OFFER.replace("opus", "speex"), OFFER.replace("sendrecv", "inactive"), unanswerable):
        status, body, _ = await site.offer(sdp)
        assert status in (400, 422), body
        assert len(site.server.registry) == 0
    await site.call()


async def test_an_engine_that_refuses_does_not_take_a_place(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(options: Any) -> Any:
        raise EngineError("worker_lost", "The worker is being started again.", retryable=True)

    monkeypatch.setattr(site.server.engine, "open", refuse)
    status, body, response = await site.offer(OFFER)
    assert (status, body["error"]["code"], "Retry-After" in response.headers) == (503, "engine_failed", True)
    assert len(site.server.registry) == 0


async def test_callers_queue_for_a_place_in_order(start: StartServer) -> None:
    site = await start("--max-calls", "1")
    _, first = await site.call()
    tickets = []
    for position in (1, 2):
        status, body, response = await site.offer(OFFER)
        assert (status, body["error"]["code"], body["position"]) == (503, "full", position)
        assert body["eta_s"] >= 0
        assert int(response.headers["Retry-After"]) >= 1
        tickets.append(body["ticket"])
    await site.hang_up(first["call_id"])
    status, body, _ = await site.offer(OFFER, ticket=tickets[1])
    assert (status, body["position"]) == (503, 2)
    status, body, _ = await site.offer(OFFER)
    assert (status, body["position"]) == (503, 3)
    await site.call(ticket=tickets[0])
    status, body, _ = await site.offer(OFFER, ticket=tickets[1])
    assert (status, body["position"], body["ticket"]) == (503, 1, tickets[1])


async def test_callers_for_whom_the_engine_has_no_time_queue_in_front(
    start: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though there are places: nobody else is let in, nor sent back to the end of the line, until a call ends."""
    site = await start("--max-calls", "5")
    _, first = await site.call()
    opens = site.server.engine.open

    async def refuse(options: Any) -> Any:
        raise EngineError("full", "The model has no time for more than its 1 session.", retryable=True)

    monkeypatch.setattr(site.server.engine, "open", refuse)
    status, body, _ = await site.offer(OFFER)
    assert (status, body["error"]["code"], body["position"]) == (503, "full", 1)
    assert body["error"]["message"].startswith("All 1 places are taken; you are number 1 in line.")
    ticket = body["ticket"]
    status, behind, _ = await site.post("/api/line", {})
    assert (status, behind["position"]) == (202, 2)
    await site.hang_up(first["call_id"])
    status, body, _ = await site.offer(OFFER, ticket=ticket)
    assert (status, body["ticket"], body["position"]) == (503, ticket, 1)
    monkeypatch.setattr(site.server.engine, "open", opens)
    _, second = await site.call(ticket=ticket)
    status, body, _ = await site.offer(OFFER, ticket=behind["ticket"])
    assert (status, body["ticket"], body["position"]) == (503, behind["ticket"], 1)
    await site.hang_up(second["call_id"])
    await site.call(ticket=behind["ticket"])


async def test_a_place_can_be_asked_for_before_there_is_an_offer(start: StartServer) -> None:
    site = await start("--max-calls", "1")
    async with site.http.post("/api/line", json={}) as free:
        assert free.status == 204
    _, first = await site.call()
    status, body, response = await site.post("/api/line", {})
    assert (status, body["position"]) == (202, 1)
    assert int(response.headers["Retry-After"]) >= 1
    _, behind, _ = await site.post("/api/line", {})
    assert behind["position"] == 2

    await site.hang_up(first["call_id"])
    async with site.http.post("/api/line", json={"ticket": body["ticket"]}) as free:
        assert free.status == 204
    assert len(site.server.registry) == 0  # asking takes no place, but nobody overtakes
    status, still, _ = await site.post("/api/line", {"ticket": behind["ticket"]})
    assert (status, still["position"]) == (202, 2)

    for _ in range(2):
        async with site.http.delete(f"/api/line/{body['ticket']}") as left:
            assert left.status == 204
    await site.call(ticket=behind["ticket"])


async def test_a_caller_who_never_connects_keeps_no_place(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "CONNECT_TIMEOUT_S", 0.2)
    assert (await site.offer(OFFER))[0] == 201
    assert len(site.server.registry) == 1
    await site.free(0)  # without the grace period, which is longer than the test waits


async def test_an_address_has_two_offers_that_wait_for_their_connection(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.call()
    waiting = [(await site.offer(OFFER))[1] for _ in range(2)]
    status, body, response = await site.offer(OFFER)
    assert (status, body["error"]["code"]) == (429, "rate_limited")
    assert int(response.headers["Retry-After"]) >= 1
    assert len(site.server.registry) == 3
    await site.hang_up(waiting[0]["call_id"])
    await site.call()  # connected calls do not count
    assert (await site.offer(OFFER))[0] == 201
    assert (await site.offer(OFFER))[0] == 429
    monkeypatch.setattr(places, "client_of", lambda address: f"not {address}")
    assert (await site.offer(OFFER))[0] == 201


async def test_a_call_ends_when_its_time_is_over_and_is_told_before(start: StartServer) -> None:
    site = await start("--max-call-s", "2")
    caller, _ = await site.call()
    notice = await caller.receive("session.ending")
    assert notice["data"] == {"in_s": 1.0, "reason": "time_limit"}
    assert (await caller.receive("session.ending", 2))["data"] == {"in_s": 0.5, "reason": "time_limit"}
    assert (await caller.receive("session.ending", 3))["data"] == {"in_s": 0, "reason": "time_limit"}
    await site.free(0)


async def test_a_call_in_which_nobody_says_anything_ends_and_its_place_is_free(start: StartServer) -> None:
    site = await start("--away-after-s", "1", "--idle-end-s", "4")
    caller, _ = await site.call()
    for number, in_s in enumerate((2, 1, 0), start=1):
        assert (await caller.receive("session.ending", number))["data"] == {"in_s": in_s, "reason": "idle"}
    await site.free(0)


async def test_a_stalled_loop_and_an_end_leave_no_session(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a call takes as long as it takes: what is late is not cancelled half way."""
    monkeypatch.setattr(open_call, "PEER_WAITS_S", 0.05)
    monkeypatch.setattr(peer, "CLOSE_TIMEOUT_S", 0.05)
    close = EngineLink.close

    async def close_late(link: EngineLink) -> None:
        time.sleep(0.2)  # noqa: ASYNC251  the loop is held up on purpose
        await close(link)
        await asyncio.sleep(0)

    monkeypatch.setattr(EngineLink, "close", close_late)
    for _ in range(3):
        _, answer = await site.call()
        assert await site.hang_up(answer["call_id"]) == 204
    await site.free(0)
    assert await site.server.engine.sessions() == ()
    await until(lambda: not peer._closing, "the end of the connections")


async def test_who_waits_for_an_end_can_leave_and_the_end_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    _, answer = await site.call()
    waiting = asyncio.create_task(site.server.registry.hang_up(answer["call_id"]))
    await asyncio.sleep(0)
    waiting.cancel()
    await site.free(0)
    assert await site.server.engine.sessions() == ()


async def test_a_call_that_does_not_close_gives_its_place_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_call, "PEER_WAITS_S", 0.05)
    monkeypatch.setattr(open_call, "GIVE_UP_S", 0.1)
    never = asyncio.Event()
    monkeypatch.setattr(EngineLink, "close", lambda link: never.wait())
    _, answer = await site.call()
    await site.hang_up(answer["call_id"])
    await site.free(0)
    (stray,) = await site.server.engine.sessions()
    monkeypatch.undo()
    registry = site.server.registry
    suspects = await registry._compare(frozenset())
    assert suspects == {stray}
    assert await site.server.engine.sessions() == (stray,)  # it might be about to get its call
    await registry._compare(suspects)
    assert await site.server.engine.sessions() == ()
    never.set()


@pytest.mark.parametrize("in_process", [True, False])
async def test_engine_sessions_and_calls_are_brought_in_step(start: StartServer, in_process: bool) -> None:
    site = await start(in_process=in_process)
    registry, engine = site.server.registry, site.server.engine
    kept, _ = await site.call()
    robbed, answer = await site.call()
    stray = await engine.open(SessionOptions())
    await registry._calls[answer["call_id"]].session.close()
    suspects = await registry._compare(frozenset())
    assert len(suspects) == 2
    assert len(registry) == 2
    assert await registry._compare(suspects) == suspects
    assert (await robbed.receive("session.ending"))["data"]["reason"] == "engine_lost"
    await site.free(1)
    assert stray not in await engine.sessions()
    assert len(await engine.sessions()) == 1
    assert await registry._compare(frozenset()) == frozenset()
    kept.send("ping", nonce="untouched")
    await kept.receive("pong")


async def test_a_flood_ends_the_call_that_makes_it_and_no_other(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MESSAGES_PER_S", 0.0)  # so that it is one however long the messages take
    quiet, _ = await site.call()
    loud, _ = await site.call()
    for _ in range(int(channel.MESSAGE_BURST) + 1):
        loud.send("ping")
    assert (await loud.receive("warning"))["data"]["code"] == "message_flood"
    for _ in range(channel.FLOOD_LIMIT):
        loud.send("ping")
    await site.free(1)
    quiet.send("ping", nonce="untouched")
    assert (await quiet.receive("pong"))["data"]["nonce"] == "untouched"


async def test_a_recorded_call_says_so_and_leaves_a_bundle(start: StartServer, tmp_path: Path) -> None:
    site = await start("--record", str(tmp_path))
    caller, answer = await site.call()
    welcome = await caller.receive("welcome")
    assert welcome["data"]["recorded"] is True
    caller.send("input.text", text="Is this written down?")
    await caller.receive("response.done")
    await site.hang_up(answer["call_id"])
    await until(lambda: list(tmp_path.glob(f"*{answer['call_id']}/call.json")), "the bundle")
    written = all_text(tmp_path)
    assert "Is this written down?" in written
    assert answer["resume_token"] not in written


async def test_a_prompt_that_is_too_long_is_refused_at_the_offer(site: Site) -> None:
    status, body, _ = await site.offer(await Caller().offer(), options={"prompt": "a " * 4_000})
    assert (status, body["error"]["code"]) == (400, "prompt_too_long")
    assert "4000 tokens, and 2048 of" in body["error"]["message"]
    assert len(site.server.registry) == 0


async def test_a_text_that_is_too_long_is_an_error_and_no_turn(start: StartServer, tmp_path: Path) -> None:
    """And none in the recording."""
    site = await start("--record", str(tmp_path))
    caller, answer = await site.call()
    await caller.receive("welcome")
    caller.send("input.text", text="a " * 4_000)
    error = (await caller.receive("error"))["data"]
    assert (error["code"], error["fatal"]) == ("text_too_long", False)
    assert not caller.of_type("response.started")
    caller.send("input.text", text="a " * 1_500, speak=False)
    assert (await caller.receive("response.started"))["turn"] == 1
    await caller.receive("response.done")
    await site.hang_up(answer["call_id"])
    await assert_replays_identically(await finished_recording(tmp_path))


async def test_the_end_of_the_server_is_announced_and_closes_every_peer(start: StartServer) -> None:
    site = await start()
    calls = [await site.call() for _ in range(3)]
    await site.server.close()
    for caller, _ in calls:
        ending = await caller.receive("session.ending")
        assert ending["data"]["reason"] == "shutdown"
        await until(lambda caller=caller: caller.connection.connectionState == "closed", "the end")  # type: ignore[misc]


async def test_an_answer_is_finished_before_the_server_ends(start: StartServer, tmp_path: Path) -> None:
    script = write_script(tmp_path / "script.json", "one and then two and then three and then four and then five")
    site = await start("--script", str(script))
    caller, _ = await site.call()
    caller.send("input.text", text="Count.")
    (entry,) = site.server.registry._calls.values()
    await until(lambda: entry.call.phase == "speaking", "the answer")
    await site.server.registry.drain(600)
    assert (await caller.receive("response.done"))["data"]["status"] == "completed"
    await caller.receive("session.ending", 2)
    ends = [event["data"] for event in caller.events if event["type"] in ("session.ending", "response.done")]
    assert [end.get("in_s", end.get("status")) for end in ends] == [600, "completed", 0]


async def test_an_answer_that_takes_too_long_is_cut_off_at_the_end(start: StartServer, tmp_path: Path) -> None:
    site = await start("--script", str(write_script(tmp_path / "script.json", "and so on " * 2_000)))
    caller, _ = await site.call()
    caller.send("input.text", text="Count.")
    await caller.receive("assistant.text")
    await site.server.registry.drain(0.2)
    assert (await caller.receive("response.done"))["data"]["status"] == "cancelled"
    assert [event["data"]["in_s"] for event in caller.of_type("session.ending")][:1] == [0.2]


async def test_many_calls_after_one_another_leave_nothing_behind(start: StartServer) -> None:
    site = await start("--max-calls", "1")
    for _ in range(6):
        caller, answer = await site.call()
        await site.hang_up(answer["call_id"])
        await caller.close()
    assert len(site.server.registry) == 0
    assert site.server.registry._calls == {}
