"""What a call may expect of any engine, whichever way it is reached."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from engine.client import Chunk, Engine, EngineError, EngineSession, SessionOptions, Unit
from engine.serving.answer import CHUNKS_AHEAD
from engine.serving.factory import create_engine
from engine.spec import EngineSpec
from engine.spoken import SpokenText
from tests.engine_runtime.conftest import Opener, picture, tone, unit

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = "Please tell me a very long story about everything that you have seen and heard so far in this call of ours"


async def answer(session: EngineSession, epoch: int = 1) -> list[Chunk]:
    async with asyncio.timeout(60):
        return [chunk async for chunk in session.generate(epoch)]


async def beginning(session: EngineSession, chunks: int, epoch: int = 1) -> list[Chunk]:
    """The first chunks of an answer, which is left then."""
    heard = []
    async for chunk in session.generate(epoch):
        heard.append(chunk)
        if len(heard) == chunks:
            break
    return heard


def same(ours: list[Chunk], theirs: list[Chunk]) -> bool:
    def key(chunk: Chunk) -> tuple[object, ...]:
        return chunk.index, chunk.text, chunk.pcm.tobytes(), chunk.starts, chunk.finish

    return [key(chunk) for chunk in ours] == [key(chunk) for chunk in theirs]


async def test_an_answer_is_one_gapless_run_of_chunks_with_one_finish(session: EngineSession) -> None:
    await session.prefill(unit())
    chunks = await answer(session, epoch=7)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert {chunk.epoch for chunk in chunks} == {7}
    assert [chunk.finish is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].finish in ("stop", "length")
    assert all(chunk.pcm.dtype == np.int16 and chunk.pcm.ndim == 1 for chunk in chunks)


async def test_captions_point_into_the_speech(session: EngineSession) -> None:
    await session.prefill(unit())
    said, made = SpokenText(), 0
    for chunk in await answer(session):
        heard = said.heard_chars(made)
        said.add(chunk.text, chunk.starts)
        assert said.heard_chars(made) == heard, "a start is final when its sound has come"
        made += len(chunk.pcm)
    starts = [start for _, start in said.starts]
    assert starts
    assert said.starts[0][0] == 0
    assert starts == sorted(starts)
    assert starts[0] >= 0
    assert starts[-1] <= made


async def test_nothing_is_spoken_when_speech_is_off(opened: Opener) -> None:
    session = await opened(speak=False)
    await session.prefill(unit())
    chunks = await answer(session)
    assert "".join(chunk.text for chunk in chunks)
    assert all(len(chunk.pcm) == 0 for chunk in chunks)


async def test_max_new_tokens_bounds_the_answer(opened: Opener) -> None:
    session = await opened(max_new_tokens=2, speak=False)
    await session.prefill(Unit(text=LONG))
    assert (await answer(session))[-1].finish == "length"


async def test_prefill_counts_tokens(session: EngineSession) -> None:
    first = await session.prefill(unit())
    second = await session.prefill(Unit(audio=tone(), frame=picture()))
    assert 0 < first.tokens < second.tokens
    assert second.context_used == first.context_used + second.tokens
    assert second.context_used <= second.context_limit


@pytest.mark.parametrize("part", [Unit(audio=tone(0.03)), Unit(frame=picture("PNG")), Unit(text="hello")])
async def test_any_part_makes_a_unit(session: EngineSession, part: Unit) -> None:
    assert (await session.prefill(part)).tokens > 0


async def test_whether_a_message_is_over_is_told_when_it_is_asked(spec: EngineSpec, opened: Opener) -> None:
    """By a model with mini's configuration; not by one that does not say that it can, or by a script."""
    session = await opened()
    assert (await session.prefill(unit())).end_probability is None
    told = [(await session.prefill(replace(unit(), ask_end=True))).end_probability for _ in range(2)]
    assert [probability is not None and 0 <= probability <= 1 for probability in told] == [spec.untrained] * 2
    assert (await session.prefill(unit())).end_probability is None


async def test_requests_are_carried_out_in_order(opened: Opener) -> None:
    session = await opened(speak=False)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(session.prefill(unit(1.0)))
        second = group.create_task(session.prefill(Unit(text="hello")))  # a message without a word has no answer
        group.create_task(answer(session))
        third = group.create_task(session.prefill(unit(0.5)))
    assert second.result().context_used == first.result().context_used + second.result().tokens
    assert third.result().context_used > second.result().context_used + third.result().tokens  # the answer is between


async def test_cancel_overtakes_what_waits(opened: Opener) -> None:
    session = await opened(max_new_tokens=64)
    await session.prefill(Unit(text=LONG))
    stream = session.generate(1)
    await anext(stream)
    waiting = asyncio.create_task(session.prefill(unit()))
    await asyncio.sleep(0)
    await session.cancel(1)
    rest = [chunk async for chunk in stream]
    assert rest[-1].finish == "cancelled"
    assert [chunk.index for chunk in rest] == list(range(1, len(rest) + 1))
    assert (await waiting).tokens > 0


async def test_a_waiting_answer_can_be_cancelled(opened: Opener) -> None:
    session = await opened(max_new_tokens=64)
    await session.prefill(Unit(text=LONG))
    first, second = session.generate(1), session.generate(2)
    await session.cancel(2)
    await session.cancel(1)
    assert [chunk.finish async for chunk in first][-1] == "cancelled"
    assert [chunk.finish async for chunk in second] == ["cancelled"]


async def test_cancelling_an_unknown_or_finished_answer_is_no_error(opened: Opener) -> None:
    session = await opened(speak=False)
    await session.cancel(99)
    await session.prefill(unit())
    await answer(session, 1)
    await session.cancel(1)
    await session.heard(1, 0)
    await session.prefill(unit())
    assert (await answer(session, 2))[-1].finish in ("stop", "length")


async def test_leaving_the_iterator_frees_the_session(opened: Opener) -> None:
    session = await opened(max_new_tokens=64)
    await session.prefill(Unit(text=LONG))
    async for _ in session.generate(1):
        break
    async with asyncio.timeout(20):
        assert (await session.prefill(unit())).tokens > 0


async def test_an_iterator_that_is_never_used_frees_the_session(opened: Opener) -> None:
    session = await opened(max_new_tokens=64)
    await session.prefill(Unit(text=LONG))
    session.generate(1)
    async with asyncio.timeout(20):
        assert (await session.prefill(unit())).context_used > 0


async def test_the_engine_does_not_run_far_ahead_of_a_slow_consumer(opened: Opener) -> None:
    session = await opened(max_new_tokens=64)
    await session.prefill(Unit(text=LONG))
    stream = session.generate(1)
    await anext(stream)
    late = asyncio.create_task(session.prefill(unit()))  # its turn comes when the answer is made
    await asyncio.sleep(1)
    assert not late.done()
    await session.cancel(1)
    rest = [chunk async for chunk in stream]
    assert rest[-1].finish == "cancelled"
    assert len(rest) <= 2 * CHUNKS_AHEAD + 2
    await late


BAD_UNITS = {
    "empty": Unit(),
    "empty text": Unit(text=""),
    "too long": Unit(audio=np.zeros(16_001, np.int16)),
    "not int16": Unit(audio=np.zeros(16_000, np.float32)),
    "stereo": Unit(audio=np.zeros((2, 8_000), np.int16)),
    "not a picture": Unit(frame=b"hello, I am not a picture"),
    "no bytes": Unit(frame=b""),
    "a cut JPEG": Unit(frame=picture(size=(640, 480))[:900]),
    "a corrupt PNG": Unit(frame=picture("PNG")[:40] + b"\0" * 200),
    "a GIF": Unit(frame=picture("GIF")),
}


@pytest.mark.parametrize("bad", BAD_UNITS.values(), ids=BAD_UNITS)
async def test_a_bad_unit_is_refused_and_the_session_lives(session: EngineSession, bad: Unit) -> None:
    with pytest.raises(EngineError, match="refused") as caught:
        await session.prefill(bad)
    assert (caught.value.code, caught.value.retryable) == ("bad_unit", False)
    assert (await session.prefill(unit())).tokens > 0


@pytest.mark.parametrize(
    "options",
    [SessionOptions(voice="nobody"), SessionOptions(preset="sing"), SessionOptions(max_new_tokens=0)],  # type: ignore[arg-type]
)
async def test_bad_options_are_refused(engine: Engine, options: SessionOptions) -> None:
    with pytest.raises(EngineError) as caught:
        await engine.open(options)
    assert caught.value.code == "bad_options"


async def test_closing_twice_is_no_error_and_later_requests_are_refused(opened: Opener) -> None:
    session = await opened(max_new_tokens=64)
    await session.prefill(Unit(text=LONG))
    stream = session.generate(1)
    await anext(stream)
    await session.close()
    assert [chunk.finish async for chunk in stream][-1] == "cancelled"
    await session.close()
    await session.cancel(1)
    with pytest.raises(EngineError) as caught:
        await session.prefill(unit())
    assert caught.value.code == "session_closed"
    with pytest.raises(EngineError) as caught:
        await answer(session)
    assert caught.value.code == "session_closed"


async def test_a_full_engine_says_so_until_a_session_closes(engine: Engine, opened: Opener) -> None:
    assert engine.info is not None
    sessions = [await opened() for _ in range(engine.info.max_sessions)]
    with pytest.raises(EngineError) as caught:
        await engine.open(SessionOptions())
    assert (caught.value.code, caught.value.retryable) == ("full", True)
    await sessions[3].close()
    assert (await (await opened()).prefill(unit())).tokens > 0


async def test_sixteen_sessions_at_once_do_not_mix(opened: Opener) -> None:
    async def call(number: int) -> list[Chunk]:
        session = await opened(seed=number)
        await session.prefill(Unit(audio=tone(0.2 + 0.02 * number), text=f"call {number}"))
        chunks = await beginning(session, 3, epoch=number)
        await session.close()
        return chunks

    together = await asyncio.gather(*(call(number) for number in range(16)))
    for number in (0, 7, 15):
        assert same(together[number], await call(number))


async def test_the_same_inputs_give_the_same_chunks(opened: Opener) -> None:
    async def call() -> list[Chunk]:
        session = await opened(seed=5, max_new_tokens=16)
        await session.prefill(Unit(audio=tone(), frame=picture()))
        first = await beginning(session, 4, epoch=1)
        await session.heard(1, 0)
        await session.prefill(Unit(text="and now"))
        second = await beginning(session, 4, epoch=2)
        await session.close()
        return first + second

    assert same(await call(), await call())


async def test_what_was_rewound_leaves_no_trace(opened: Opener) -> None:
    """A pause was taken for an end: the tail of the turn and the answer to it are forgotten, and the turn goes on."""

    async def call(pause: bool) -> tuple[list[Chunk], int]:
        session = await opened(seed=5, max_new_tokens=16)
        await session.prefill(Unit(text="my name is"))
        if pause:
            await session.prefill(unit(0.4))
            stream = session.generate(1)
            await anext(stream)
            await session.cancel(1)
            _ = [chunk async for chunk in stream]
            await session.heard(1, 0)
            await session.rewind(1)
        used = (await session.prefill(unit(0.7))).context_used
        chunks = await beginning(session, 4, epoch=2)
        await session.close()
        return chunks, used

    with_pause, without = await call(True), await call(False)
    assert with_pause[1] == without[1]
    assert same(with_pause[0], without[0])


async def test_an_answer_of_which_nothing_was_heard_can_be_remembered_as_a_number(opened: Opener) -> None:
    async def call(*, given: bool) -> list[Chunk]:
        session = await opened(seed=5, max_new_tokens=16)
        await session.prefill(Unit(audio=tone(0.5), frame=picture(), text="my name is Anna"))
        if given:
            await beginning(session, 2, epoch=1)
            await session.heard(1, 0, 0)
        else:
            await session.remember("")
        await session.prefill(Unit(audio=tone(0.7, 500.0), text="what is my name"))
        chunks = await beginning(session, 4, epoch=2)
        await session.close()
        return chunks

    assert same(await call(given=True), await call(given=False))


async def test_what_is_remembered_takes_its_place_in_the_context(opened: Opener) -> None:
    session = await opened(speak=False)
    fed = await session.prefill(unit(0.5))
    await session.remember("Nice to meet you.", 24_000, ((0, 100), (4, 9_000)))
    after = await session.prefill(unit(0.5))
    assert after.context_used > fed.context_used + after.tokens
    assert (await answer(session))[-1].finish in ("stop", "length")
    await session.close()
    with pytest.raises(EngineError) as closed:
        await session.remember("too late")
    assert closed.value.code == "session_closed"


@pytest.mark.parametrize("units", [0, 3])
async def test_no_more_can_be_taken_back_than_was_fed(session: EngineSession, units: int) -> None:
    await session.prefill(unit())
    await session.prefill(unit())
    with pytest.raises(EngineError) as refused:
        await session.rewind(units)
    assert refused.value.code == "bad_rewind"


async def test_stop_ends_everything_and_start_begins_anew(spec: EngineSpec) -> None:
    engine = create_engine(spec)
    assert engine.info is None
    await engine.start()
    session = await engine.open(SessionOptions())
    await session.prefill(Unit(text=LONG))
    stream = session.generate(1)
    await anext(stream)
    await engine.stop()
    assert engine.info is None
    with pytest.raises(EngineError):
        await engine.open(SessionOptions())
    await engine.start()
    assert (await (await engine.open(SessionOptions())).prefill(unit())).tokens > 0
    await engine.stop()


TOO_LONG = "€ " * 4_000


async def test_a_text_that_does_not_fit_is_refused_with_its_size_and_the_limit(opened: Opener) -> None:
    session = await opened(speak=False)
    before = (await session.prefill(unit(0.5))).context_used
    for request in (session.check_text(TOO_LONG), session.prefill(Unit(text=TOO_LONG))):
        with pytest.raises(EngineError, match=r"takes \d+ tokens where \d+ ") as caught:
            await request
        assert (caught.value.code, caught.value.retryable) == ("text_too_long", False)
        assert caught.value.message.endswith(".")
    await session.check_text("What is this? " * 20)
    after = await session.prefill(unit(0.5))
    assert after.context_used == before + after.tokens, "as if it had never come"


async def test_a_prompt_that_does_not_fit_opens_no_session(engine: Engine) -> None:
    assert engine.info is not None
    for _ in range(engine.info.max_sessions + 1):
        with pytest.raises(
            EngineError, match=r"takes \d+ tokens, and \d+ of the model's context of \d+ are free"
        ) as caught:
            await engine.open(SessionOptions(prompt=TOO_LONG))
        assert caught.value.code == "prompt_too_long"
    session = await engine.open(SessionOptions(prompt="Be brief. " * 50))
    assert (await session.prefill(unit())).tokens > 0
    await session.close()
