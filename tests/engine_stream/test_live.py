"""Live answers: early sound, no seam, nothing lost, nothing repeated."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.checkpoint.loader import LoadedModel
from engine.conversation.answer_text import AnswerText
from engine.conversation.pace import Pace
from engine.conversation.sampling import SpeechSampling, TextSampling
from engine.conversation.speech import OVERLAP, SpeechChunk, spell_digits
from engine.conversation.speech_live import LiveOptions, LiveSpeech
from engine.conversation.streaming import LiveAnswer, StreamingModel
from engine.conversation.text import AnswerOptions
from engine.conversation.work import Decode, Read, Render, Speak, Work
from engine.spoken import SpokenText
from tests.engine_stream.conftest import Script, begin, feed, unit


def ask(stream: StreamingModel, seed: int = 0, **options: int) -> LiveAnswer:
    state = begin(stream, seed)
    feed(stream, state, unit(seed))
    return stream.generate(state, AnswerOptions(**options))  # type: ignore[arg-type]


def run(stream: StreamingModel, answer: LiveAnswer) -> tuple[list[SpeechChunk], list[Work]]:
    """All chunks, and all work that was asked for before the first sound."""
    task, works = answer.task(), []
    chunks: list[SpeechChunk] = []
    item = next(task)
    try:
        while True:
            if isinstance(item, Work):
                if not any(len(chunk.wave) for chunk in chunks):
                    works.append(item)
                item = task.send(stream.executor.run([item])[0])
            else:
                chunks.append(item)
                item = task.send(None)
    except StopIteration:
        return chunks, works


def sound_of(chunks: list[SpeechChunk]) -> Tensor:
    return torch.cat([chunk.wave for chunk in chunks])


def text_of(chunks: list[SpeechChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_the_first_sound_needs_one_block_of_text_and_one_of_codes(stream: StreamingModel) -> None:
    answer = ask(stream, 3, max_new_tokens=60)
    chunks, works = run(stream, answer)
    assert sum(work.steps for work in works if isinstance(work, Decode)) <= 24
    assert sum(work.steps for work in works if isinstance(work, Speak)) == answer.live.first_codes
    first = next(len(chunk.wave) for chunk in chunks if len(chunk.wave))
    assert first == answer.live.first_codes * stream.samples_per_code - answer.live.first_overlap


def test_the_first_sound_waits_for_no_more_text_than_it_needs(stream: StreamingModel) -> None:
    """Further blocks could be long: what is drawn before the first sound is what is missing, and a word's end."""
    state = begin(stream, 3)
    feed(stream, state, unit(3))
    pace = LiveOptions(first_text=4, text=64)
    _, works = run(stream, stream.generate(state, AnswerOptions(80, 80), pace))
    drawn = [work.steps for work in works if isinstance(work, Decode)]
    read = sum(len(work.ids) for work in works if isinstance(work, Read)) - len(stream.speech_tokens.head)
    assert drawn[0] == 4
    assert read >= stream.config.tts.text_chunk_size
    assert max(drawn[1:]) <= stream.config.tts.text_chunk_size + 1


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), limit=st.integers(1, 40))
def test_every_code_is_heard_once_and_every_token_remembered(loaded: LoadedModel, seed: int, limit: int) -> None:
    stream = StreamingModel(loaded)
    answer = ask(stream, seed, max_new_tokens=limit)
    before = answer.state.length
    chunks, _ = run(stream, answer)
    assert answer.text is not None
    assert answer.speech is not None
    assert len(sound_of(chunks)) == len(answer.speech.codes) * stream.samples_per_code - answer.said.trimmed
    stopped = answer.finish == "stop"
    assert answer.state.length == before + len(stream.answer_prompt) + len(answer.text.ids) - stopped
    assert len(answer.text.ids) == limit or stopped
    table, made = SpokenText(), 0
    for chunk in chunks:
        before = table.heard_chars(made)
        table.add(chunk.text, chunk.starts)
        assert table.heard_chars(made) == before, "what was handed over is final"
        made += len(chunk.wave)
        starts = [start for _, start in table.starts]
        assert starts == sorted(starts)
    assert starts[-1] <= made
    assert table.text == text_of(chunks)


@torch.inference_mode()
def test_enough_context_is_enough(stream: StreamingModel) -> None:
    """Decoding with the left context of the receptive field gives the same wave as decoding everything."""
    codes = torch.randint(0, 625, (90, 4))
    context, size = stream.wave_context, stream.samples_per_code
    whole, part = stream.executor.render([Render(codes)])[0], stream.executor.render([Render(codes[50 - context :])])[0]
    torch.testing.assert_close(part[context * size :], whole[50 * size :], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_blocks_join_to_what_one_pass_would_give(stream: StreamingModel) -> None:
    """The joined blocks come close to one decoding of all codes, and no border can be told from the wave."""
    answer = ask(stream, 1, max_new_tokens=40)
    chunks, _ = run(stream, answer)
    assert answer.speech is not None
    whole = stream.executor.render([Render(answer.speech.codes)])[0]
    wave, whole = sound_of(chunks), whole[answer.said.trimmed :]
    gap = (wave - whole).abs()
    assert len(wave) == len(whole)
    assert gap[-OVERLAP:].max() < 1e-5
    # Elsewhere four codes are all that is known of what follows: close, and without a jump at a border.
    assert gap.square().mean().sqrt() < 0.5 * whole.square().mean().sqrt()
    borders = torch.tensor([len(chunk.wave) for chunk in chunks if len(chunk.wave)]).cumsum(0)[:-1]
    jumps, ordinary = (wave[borders] - wave[borders - 1]).abs(), (wave[1:] - wave[:-1]).abs()
    assert jumps.max() <= ordinary.max()


def scripted(
    stream: StreamingModel, pieces: list[str], sampling: SpeechSampling | None = None
) -> tuple[LiveSpeech, int]:
    state = stream.open()
    slot = stream.pool.speech.allocate()
    speaker = torch.randn(1, stream.config.llm.hidden_size, generator=torch.Generator().manual_seed(1))
    speech = LiveSpeech(
        state,
        Script(pieces, speaker),
        stream.speech_tokens,
        sampling or SpeechSampling(),
        LiveOptions(max_codes_per_token=3, max_trim=0),
        AnswerText(stream.samples_per_code, Pace()),
        slot=slot,
        speaker=stream.speaker,
        context=stream.wave_context,
        samples_per_code=stream.samples_per_code,
    )
    return speech, slot


def read_ids(stream: StreamingModel, speech: LiveSpeech) -> tuple[list[SpeechChunk], list[list[int]]]:
    """Run a scripted speech; its chunks, and per stretch the text ids that were read."""
    task, chunks = speech.task(), []
    stretches: list[list[int]] = []
    item = next(task)
    try:
        while True:
            if not isinstance(item, Work):
                chunks.append(item)
                item = task.send(None)
                continue
            if isinstance(item, Read):
                if item.start == 0:
                    stretches.append([])
                stretches[-1] += item.ids
            item = task.send(stream.executor.run([item])[0])
    except StopIteration:
        return chunks, stretches


PIECES = ["The quick", " brown fo", "x and the", " lazy dog.", " It was 12 times", " brighter, **and** so", "!"]


@pytest.mark.parametrize("repeat", [1, 4, 8])
def test_all_text_is_read_in_stretches_that_fit(stream: StreamingModel, repeat: int) -> None:
    pieces = [piece for number in range(repeat) for piece in (*PIECES, f" mark {number} is", " next.")]
    speech, _ = scripted(stream, pieces)
    chunks, stretches = read_ids(stream, speech)
    config, head = stream.config.tts, len(stream.speech_tokens.head)
    assert text_of(chunks) == "".join(pieces)
    written = stream.speech_tokens.encode(spell_digits("".join(pieces), "english").replace("*", ""))
    spoken: list[int] = []
    for stretch in stretches:
        assert len(stretch) <= head + config.text_reserved_len
        ids = [token for token in stretch[head:] if token != config.text_eos_token_id]
        spoken = _joined(spoken, ids)
    assert spoken == written


def _joined(spoken: list[int], ids: list[int]) -> list[int]:
    """Append a stretch whose first tokens repeat the end of what was spoken, or what was read but not spoken."""
    for start in range(len(spoken) + 1):
        if spoken[start:] == ids[: len(spoken) - start]:
            return spoken[:start] + ids
    raise AssertionError("a stretch does not continue the text")


def test_early_end_of_speech_leaves_no_text_behind(stream: StreamingModel) -> None:
    """Speech that ends at every chance still gets to read everything, and the text is drained."""
    eager = SpeechSampling(min_tokens=1, temperature=(1e3,) * 4, top_p=1.0, top_k=626)
    speech, _ = scripted(stream, PIECES * 4, eager)
    chunks, stretches = read_ids(stream, speech)
    assert text_of(chunks) == "".join(PIECES * 4)
    assert len(stretches) > 1
    last = [token for stretch in stretches for token in stretch][-8:]
    assert stream.config.tts.text_eos_token_id in last
    assert len(sound_of(chunks)) == len(speech.codes) * stream.samples_per_code


def test_no_words_no_sound(stream: StreamingModel) -> None:
    speech, _ = scripted(stream, ["", "  ", "\n"])
    chunks, stretches = read_ids(stream, speech)
    assert not stretches
    assert not any(len(chunk.wave) for chunk in chunks)


def test_the_end_of_speech_is_forbidden_once_and_not_per_block(stream: StreamingModel) -> None:
    answer = ask(stream, 2, max_new_tokens=30)
    guards = []
    task = answer.task()
    item = next(task)
    try:
        while True:
            result = None
            if isinstance(item, Work):
                if isinstance(item, Speak):
                    guards.append(item.guard)
                result = stream.executor.run([item])[0]
            item = task.send(result)
    except StopIteration:
        pass
    assert guards[0] == 10
    assert set(guards[1:]) <= {0, 10}
    assert len(guards) > 1


def test_written_answers_have_no_sound(stream: StreamingModel) -> None:
    state = begin(stream)
    feed(stream, state, unit(1))
    options = AnswerOptions(max_new_tokens=12, speak=False, text=TextSampling(greedy=True))
    answer = stream.generate(state, options)
    chunks, works = run(stream, answer)
    assert text_of(chunks)
    assert not len(sound_of(chunks))
    assert not any(isinstance(work, Speak | Read | Render) for work in works)
    length = answer.state.position
    list(stream.executor.drive(answer.cut(len(text_of(chunks)))))
    assert answer.state.position == length - (answer.finish == "stop")


def test_the_repetition_penalty_sees_the_whole_answer(stream: StreamingModel) -> None:
    answer = ask(stream, 3, max_new_tokens=30)
    run(stream, answer)
    assert answer.text is not None
    assert set(answer.text.seen.nonzero()[:, 0].tolist()) == set(answer.text.ids)


def test_a_cut_keeps_what_was_heard(stream: StreamingModel) -> None:
    answer = ask(stream, 1, max_new_tokens=40)
    before, start = answer.before, answer.state.position
    chunks, _ = run(stream, answer)
    total = len(sound_of(chunks))
    lengths = []
    for heard in (total, total * 2 // 3, total // 3, 1):
        list(stream.executor.drive(answer.cut(answer.said.spoken.heard_chars(heard))))
        lengths.append(answer.state.position)
        assert not answer.state.book.completed
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] > start
    list(stream.executor.drive(answer.cut(0)))
    assert answer.state.mark() == before
