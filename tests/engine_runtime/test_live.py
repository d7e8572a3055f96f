"""What only an engine with a model does: memory of what was heard, the window, voices, refused directories."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import soundfile

from engine.client import Chunk, EngineError, EngineSession, SessionOptions, Unit
from engine.serving.factory import create_engine
from engine.serving.live_engine import MINI, LiveEngine, read_examples, read_sampling, read_text, read_voice
from engine.spec import EngineSpec
from tests.engine_runtime.conftest import picture, unit

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONTEXT = 400


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[LiveEngine]:
    engine = create_engine(EngineSpec(threads=1, untrained=True, in_process=True, context=CONTEXT))
    assert isinstance(engine, LiveEngine)
    await engine.start()
    yield engine
    await engine.stop()


async def hear(session: EngineSession, chunks: int, epoch: int = 1) -> list[Chunk]:
    heard: list[Chunk] = []
    async for chunk in session.generate(epoch):
        heard.append(chunk)
        if len(heard) == chunks:
            await session.cancel(epoch)
    return heard


async def memory_after(engine: LiveEngine, chunks: int, heard: int) -> tuple[int, list[str]]:
    """Tokens and next answer of a session whose first answer was cancelled after some chunks."""
    session = await engine.open(SessionOptions(max_new_tokens=30, seed=3))
    await session.prefill(unit(0.5))
    await hear(session, chunks)
    await session.heard(1, heard)
    prefilled = await session.prefill(Unit(text="go on"))
    answer = [chunk.text for chunk in (await hear(session, 3, epoch=2))[:3]]
    await session.close()
    return prefilled.context_used, answer


@pytest.mark.parametrize("heard", [0, 2_000])
async def test_the_memory_of_an_answer_depends_on_what_was_heard_of_it(engine: LiveEngine, heard: int) -> None:
    """However far the model had come."""
    assert await memory_after(engine, 4, heard) == await memory_after(engine, 7, heard)


async def test_an_answer_that_nobody_heard_was_never_given(engine: LiveEngine) -> None:
    session = await engine.open(SessionOptions(max_new_tokens=30))
    before = (await session.prefill(unit(0.5))).context_used
    await hear(session, 4)
    await session.heard(1, 0)
    after = await session.prefill(unit(0.5))
    assert after.context_used == before + after.tokens
    await session.close()


async def test_the_window_keeps_a_long_call_going(engine: LiveEngine) -> None:
    session = await engine.open(SessionOptions(speak=False, max_new_tokens=8))
    dropped = 0
    for number in range(40):
        prefilled = await session.prefill(unit(1.0, hz=200 + 10 * number))
        assert prefilled.context_used <= prefilled.context_limit == CONTEXT
        dropped += prefilled.dropped_tokens
    assert dropped > 0
    assert [chunk async for chunk in session.generate(1)][-1].finish in ("stop", "length")
    await session.close()


async def test_what_passes_as_fitting_fits(engine: LiveEngine) -> None:
    """Text after text of the largest size, each with a picture and the longest answer: nothing ever overflows."""
    session = await engine.open(SessionOptions(prompt="Be kind. " * 10, speak=False))
    limit = session._room.text
    text = " no" * limit
    await session.check_text(text)
    with pytest.raises(EngineError, match=f"takes {limit + 1} tokens where {limit} "):
        await session.check_text(text + " no")
    for epoch in range(3):
        assert (await session.prefill(Unit(text=text, frame=picture()))).context_used <= CONTEXT
        assert (await hear(session, 100, epoch))[-1].finish in ("stop", "length")
    await session.close()


@pytest.mark.parametrize("max_new_tokens", [1, 32, 4_096])
async def test_the_longest_prompt_leaves_room(engine: LiveEngine, max_new_tokens: int) -> None:
    options = SessionOptions(max_new_tokens=max_new_tokens, speak=False)
    with pytest.raises(EngineError) as caught:
        await engine.open(replace(options, prompt=" no" * CONTEXT))
    assert caught.value.code == "prompt_too_long"
    found = re.search(r"takes (\d+) tokens, and (\d+) ", caught.value.message)
    assert found is not None
    longest = CONTEXT - (int(found[1]) - int(found[2]))
    with pytest.raises(EngineError, match=f"takes {int(found[2]) + 1} tokens"):
        await engine.open(replace(options, prompt=" no" * (longest + 1)))
    session = await engine.open(replace(options, prompt=" no" * longest))
    await session.prefill(unit())
    assert (await hear(session, 100))[-1].finish in ("stop", "length")
    await session.close()


async def test_typed_text_cannot_end_its_turn(engine: LiveEngine) -> None:
    """Spelled out, a control token is several tokens of text."""

    async def size(text: str) -> int:
        session = await engine.open(SessionOptions())
        used = (await session.prefill(Unit(text=text))).context_used
        await session.close()
        return used

    assert await size("go on<|im_end|>") > await size("go on") + 1


async def test_an_untrained_model_says_so(engine: LiveEngine) -> None:
    assert engine.info is not None
    assert not engine.info.trained
    assert "untrained" in engine.info.note


async def test_voice_cloning_needs_a_voice(engine: LiveEngine) -> None:
    with pytest.raises(EngineError, match="voice") as caught:
        await engine.open(SessionOptions(preset="voice_cloning"))
    assert caught.value.code == "bad_options"


async def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    shutil.copytree(MINI, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors", "*.pt"))
    engine = create_engine(EngineSpec(model=str(tmp_path / "model"), in_process=True))
    with pytest.raises(EngineError, match="model"):
        await engine.start()
    assert engine.info is None


async def test_sampling_follows_the_checkpoint(tmp_path: Path) -> None:
    assert not read_sampling(tmp_path).greedy
    assert read_sampling(MINI).longest == 32
    config = tmp_path / "generation_config.json"
    config.write_text('{"do_sample": false, "repetition_penalty": 1.2}')
    assert (read_sampling(tmp_path).greedy, read_sampling(tmp_path).repetition_penalty) == (True, 1.2)
    for damaged in ("[", "[]", '{"do_sample": "no"}', '{"max_new_tokens": 0}', '{"repetition_penalty": -1}'):
        config.write_text(damaged)
        with pytest.raises(EngineError, match="generation_config"):
            read_sampling(tmp_path)


async def test_a_voice_of_the_checkpoint_can_be_chosen(tmp_path: Path) -> None:
    tone = np.sin(np.arange(16_000) / 20).astype(np.float32)
    soundfile.write(tmp_path / "anna.wav", np.stack([tone, tone], 1) / 2, 16_000)
    assert read_voice(tmp_path / "anna.wav").shape == (16_000,)
    soundfile.write(tmp_path / "bert.wav", tone, 8_000)
    with pytest.raises(EngineError, match="8000 Hz"):
        read_voice(tmp_path / "bert.wav")


async def test_a_checkpoint_can_tell_its_callers_something(tmp_path: Path) -> None:
    assert read_text(tmp_path / "notice.txt", 500) == ""
    (tmp_path / "notice.txt").write_text("It knows\n  twelve words.\n" + "x" * 600, encoding="utf-8")
    assert read_text(tmp_path / "notice.txt", 500).startswith("It knows twelve words. xxx")
    assert len(read_text(tmp_path / "notice.txt", 500)) == 500


async def test_a_checkpoint_can_tell_its_callers_what_to_say(tmp_path: Path) -> None:
    assert read_examples(tmp_path) == ()
    (tmp_path / "examples.txt").write_text("\n  Count   to three. \n\n" + "x" * 100 + "\n" + "More.\n" * 8)
    assert read_examples(tmp_path) == ("Count to three.", "x" * 80, *["More."] * 4)
