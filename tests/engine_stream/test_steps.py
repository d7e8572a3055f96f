"""Steps over static rows: nothing in them waits for the host, padding changes nothing, and callers come and go."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from engine.bench.costs import FUSED, Kernels
from engine.bench.launches import Launches, official, passes, steps
from engine.checkpoint.loader import LoadedModel
from engine.conversation.blocks import power_of_two, speech_step, text_step
from engine.conversation.captured import GraphRecorder, Key
from engine.conversation.executor import Executor
from engine.conversation.sampling import Noise, SpeechSampling, TextSampling
from engine.conversation.session import SessionPool, SessionState
from engine.conversation.speech_steps import SpeechRows
from engine.conversation.text_steps import TextRows
from engine.conversation.waves import WaveBlocks
from engine.conversation.work import NO_CODES, Decode, Decoded, Read, Speak, Voice
from engine.errors import NotFiniteError
from engine.model.decoder import Decoder, DecoderSizes
from engine.model.fused import Fused
from engine.model.kv import whole
from engine.model.kv_steps import KVSteps
from tests.engine_stream.conftest import assert_close

ROWS = (1, 2, 4, 8, 16, 32, 64)
TEXT = TextSampling()
SPEECH = SpeechSampling(repetition_penalty=1.05, min_tokens=0)
CHAINS = {
    "text": {"advance_lengths_", "turn_and_store", "swiglu", "text_scores", "choose_text_"},
    "speech": {"advance_mask_", "turn_and_store", "swiglu", "choose_codes_", "go_on_"},
}
"""The chains of a step on a card."""

MODES = pytest.mark.parametrize("paged", [False, True], ids=["masked", "paged"])


class Watched(GraphRecorder):
    """Runs steps as a card repeats them, and looks at what each does."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"), enabled=False)
        self.steps: dict[Key, list[Launches]] = {}

    def run(self, key: Key, step: Callable[[], None], count: int = 1) -> None:
        for _ in range(count):
            with Launches() as launches:
                step()
            self.steps.setdefault(key, []).append(launches)


class Callers:
    """An executor with sessions that have a past, each its own."""

    def __init__(self, loaded: LoadedModel, count: int, *, paged: bool = False, rows: int | None = None) -> None:
        model, stops = loaded.model, (1, 2)
        self.pool = SessionPool(model, sessions=count, context=1_024)
        self.pool.llm.reserve(1_024)
        self.executor = Executor(model, loaded.vocos, self.pool, stops, rows=rows, paged=paged)
        self.model, self.tts = model, model.config.tts

    def session(self, seed: int) -> SessionState:
        return self.pool.open(seed)

    def decode(self, state: SessionState, length: int, count: int = 6, *, greedy: bool = False) -> Decode:
        """Tokens after a prompt of ``length`` others that the seed of ``state`` chooses."""
        seed, vocabulary = state.noise.seed, self.model.config.llm.vocab_size
        ids = torch.randint(3, vocabulary, (length,), generator=torch.Generator().manual_seed(seed))
        seen = torch.zeros(vocabulary, dtype=torch.bool)
        return Decode(state, tuple(ids.tolist()), count, replace(TEXT, greedy=greedy), seen, Noise(seed), count)

    def more(self, work: Decode, done: Decoded, count: int) -> Decode:
        """What goes on from there."""
        work.state.length += len(work.ids) + len(done.ids) - 1
        return replace(work, ids=done.ids[-1:], steps=count, noise=done.noise, min_new=count)

    def voice(self, seed: int, text: int) -> Voice:
        generator = torch.Generator().manual_seed(seed)
        speaker = torch.nn.functional.normalize(torch.randn(self.tts.hidden_size, generator=generator), dim=0)
        voice = Voice(self.pool.speech.allocate(), speaker, NO_CODES[:, : self.tts.num_vq])
        ids = torch.randint(0, self.tts.num_text_tokens, (text,), generator=generator).tolist()
        begin = (0, *[self.tts.spk_emb_token_id] * self.tts.num_spk_embs)
        self.executor.run([Read(voice, 0, (*begin, *ids))])
        return voice

    def speak(self, voice: Voice, text: int, count: int, seed: int) -> Speak:
        return Speak(voice, count, text, count, SPEECH, Noise(seed))


def kept(callers: Callers, state: SessionState) -> list[Tensor]:
    return [tensor[state.slot, :, : state.length].clone() for tensor in callers.pool.llm.both]


def as_on_a_card(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """The model with its weights joined, whose chains of small operations are operators to torch, as on a card."""
    monkeypatch.setattr(Fused, "__call__", lambda chain, *args: chain._operator(*args))
    model = copy.deepcopy(loaded.model)
    model.join()
    return replace(loaded, model=model)


@MODES
def test_a_step_uses_the_same_memory_every_time_and_waits_for_nothing(
    loaded: LoadedModel, paged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every number of rows, with other sessions in them; paged with the operators of a card."""
    callers = Callers(as_on_a_card(loaded, monkeypatch) if paged else loaded, 64, paged=paged)
    watched = Watched()
    callers.executor._text.recorder = callers.executor._speech.recorder = watched
    states = [callers.session(seed) for seed in range(64)]
    voices = [callers.voice(seed, 12) for seed in range(64)]
    for count in ROWS:
        for group in (range(count), range(count - 1, -1, -1)):
            callers.executor.run([callers.decode(states[index], 1 + index % 3, 3) for index in group])
            callers.executor.run([callers.speak(voices[index], 12, 3, index) for index in group])
    assert {(key[0], key[1]) for key in watched.steps} == {(kind, rows) for kind in ("text", "speech") for rows in ROWS}
    for key, launches in watched.steps.items():
        used = {chain.name for chain in Fused.every.values()} & launches[0].operations.keys()
        assert used == (CHAINS[key[0]] if paged else set())
        first = launches[1]  # what is made once was made in the step before
        assert len(launches) > 4
        for later in launches[1:]:
            assert not later.waits
            assert later.given == first.given
            assert later.operations == first.operations


def test_at_the_official_size_no_step_asks_for_a_number() -> None:
    """Tensors on meta have none. At every number of rows the same is launched, which the depth alone decides."""
    model = official()
    counted = [row for rows in ROWS for row in steps(model, rows)]
    assert {row.waits for row in counted} == {0}
    text = {row.launches for row in counted if row.step == "text"}
    speech = {row.launches for row in counted if row.step == "speech"}
    assert len(text) == len(speech) == 1
    counted_now = Kernels(text=text.pop(), code=speech.pop(), **passes(model))
    assert counted_now == FUSED, "what the simulation reckons with"


def test_a_wait_is_seen() -> None:
    with Launches() as launches:
        numbers = torch.arange(4)
        assert not bool(numbers[0])
        numbers[numbers > 1]
        numbers.nonzero()
        numbers.to("meta")
    assert len(launches.waits) == 4


@MODES
def test_a_step_can_be_traced_at_every_number_of_rows(
    loaded: LoadedModel, paged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With tensors that have no numbers: no branch depends on one. The graphs differ in sizes alone. Those that are
    paged have the operators of a card."""
    model = as_on_a_card(loaded, monkeypatch).model if paged else copy.deepcopy(loaded.model)
    graphs: list[list[str]] = []
    config = model.config
    tables, stops = model.tts.tables(), torch.tensor([1, 2])
    for count in ROWS:
        text = TextRows.make(count, 32, config.llm.vocab_size, model.device)
        speech = SpeechRows.make(count, 32, SPEECH.window, config.tts.num_vq, model.tts.model.norm.weight)
        states = torch.zeros(count, config.llm.hidden_size)
        past = KVSteps.make(model.llm.model.arena(slots=count, capacity=512), count, paged=paged)
        heard = KVSteps.make(model.tts.model.arena(slots=count, capacity=512), count)
        heard = heard.narrowed(count, 256, model.tts.sight(speech.text_length))
        cases = (
            partial(text_step, model, text, past, states, stops, TEXT),
            partial(speech_step, model, speech, heard, tables, SPEECH),
        )
        for case in cases:
            case()
            graphs.append(trace(case))
    assert all(graph == graphs[index % 2] for index, graph in enumerate(graphs))
    for kind, graph in zip(("text", "speech"), graphs, strict=False):
        used = {name.split(".")[1] for name in graph if name.startswith("omnicall.")}
        assert used == (CHAINS[kind] if paged else set())


def trace(step: Callable[[], None]) -> list[str]:
    def once(nothing: Tensor) -> Tensor:
        step()
        return nothing

    with torch.no_grad():
        traced: Any = make_fx(once, tracing_mode="fake", _allow_non_fake_inputs=True)(torch.zeros(1))
    made = [str(node.target) for node in traced.graph.nodes if node.op == "call_function"]
    return [name for name in made if name != "aten.view.default"]  # of which a single row needs some more


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=6), seed=st.integers(0, 50))
def test_padded_waves_are_those_of_each_alone(loaded: LoadedModel, lengths: list[int], seed: int) -> None:
    model, generator = loaded.model, torch.Generator().manual_seed(seed)
    waves = WaveBlocks(model, loaded.vocos, GraphRecorder(model.device, enabled=False), 8)
    rows = [torch.randint(0, 625, (length, model.config.tts.num_vq), generator=generator) for length in lengths]
    with torch.inference_mode():
        made = waves.run(rows)
        alone = [loaded.vocos(model.tts.dvae.decode(codes.T[None]))[0] for codes in rows]
    for ours, theirs in zip(made, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_waves_use_the_same_memory_every_time_and_wait_for_nothing(loaded: LoadedModel) -> None:
    watched, model = Watched(), loaded.model
    waves = WaveBlocks(model, loaded.vocos, watched, 64)
    with torch.inference_mode():
        for count in (*ROWS, *ROWS, *ROWS):
            for length in (20, 70):
                waves.run([torch.randint(0, 625, (length, model.config.tts.num_vq)) for _ in range(count)])
    assert len(watched.steps) == 2 * len(ROWS)
    for _, first, second in watched.steps.values():
        assert not second.waits
        assert second.given == first.given
        assert second.operations == first.operations


PASTS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30), st.integers(1, 9)), min_size=1, max_size=5)
"""Slot, tokens of the prompt, and tokens wanted."""


@MODES
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pasts=PASTS.filter(lambda pasts: len({slot for slot, _, _ in pasts}) == len(pasts)), greedy=st.booleans())
def test_padding_changes_nothing(
    loaded: LoadedModel, paged: bool, pasts: list[tuple[int, int, int]], greedy: bool
) -> None:
    """Any slots, lengths and numbers of steps in one block, and again in the next: as if everybody were alone."""
    callers = Callers(loaded, 10, paged=paged)
    states = [callers.session(seed) for seed in range(10)]
    works = [callers.decode(states[slot], length, count, greedy=greedy) for slot, length, count in pasts]
    bystanders = [state for state in states if state.slot not in {slot for slot, _, _ in pasts}]
    for state in bystanders:
        state.length = 40
        for tensor in callers.pool.llm.both:
            tensor[state.slot, :, :40] = torch.randn(tensor[state.slot, :, :40].shape)
    before = [kept(callers, state) for state in bystanders]
    done = callers.executor.run(works)
    again = [callers.more(work, first, 4) for work, first in zip(works, done, strict=True)]
    later = callers.executor.run(again)
    for state, tensors in zip(bystanders, before, strict=True):
        assert all(torch.equal(*pair) for pair in zip(kept(callers, state), tensors, strict=True))
    for (slot, length, count), work, first, second in zip(pasts, works, done, later, strict=True):
        alone = Callers(loaded, 1, rows=1)
        state = alone.pool.open(slot)
        single = alone.decode(state, length, count, greedy=greedy)
        (expected,) = alone.executor.run([single])
        assert first.ids == expected.ids
        assert first.noise == expected.noise
        assert_close(first.states, expected.states)
        more = alone.more(single, expected, 4)
        assert second.ids == alone.executor.run([more])[0].ids
        assert torch.equal(work.seen, single.seen)
        for ours, theirs in zip(kept(callers, work.state), kept(alone, state), strict=True):
            assert_close(ours[0], theirs[0])


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blocks=st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=1, max_size=4))
def test_voices_that_come_and_go_say_what_they_say_alone(loaded: LoadedModel, blocks: list[list[int]]) -> None:
    """In every block each of four voices draws so many codes, or is not there."""
    callers = Callers(loaded, 4)
    texts = [5, 20, 11, 33]
    voices = [callers.voice(seed, text) for seed, text in enumerate(texts)]
    for number, counts in enumerate(blocks):
        works = [
            callers.speak(voice, text, count, number)
            for voice, text, count in zip(voices, texts, counts, strict=True)
            if count
        ]
        if works:
            callers.executor.run(works)
    for seed, text in enumerate(texts):
        alone = Callers(loaded, 1, rows=1)
        voice = alone.voice(seed, text)
        for number, counts in enumerate(blocks):
            if counts[seed]:
                alone.executor.run([alone.speak(voice, text, counts[seed], number)])
        assert torch.equal(voices[seed].codes, voice.codes)


@pytest.mark.parametrize("rows", [None, 4])
def test_a_block_that_fails_leaves_everybody_as_they_were(loaded: LoadedModel, rows: int | None) -> None:
    """One session's numbers are none: what the other asked for is asked again, and comes out as if alone."""
    callers, alone = Callers(loaded, 2, rows=rows), Callers(loaded, 1, rows=1)
    well, ill = callers.session(4), callers.session(5)
    ill.length = 3
    callers.pool.llm.values[0][ill.slot, :, :3] = float("nan")
    works = [callers.decode(well, 4, 5), callers.decode(ill, 2, 5)]
    with pytest.raises(NotFiniteError):
        callers.executor.run(works)
    assert not works[0].seen.any()
    single = alone.decode(alone.session(4), 4, 5)
    assert callers.executor.run(works[:1])[0].ids == alone.executor.run([single])[0].ids
    assert torch.equal(works[0].seen, single.seen)


def test_a_block_longer_than_any_before_makes_wider_rows(loaded: LoadedModel) -> None:
    callers, alone = Callers(loaded, 2), Callers(loaded, 1, rows=1)
    work, single = (which.decode(which.session(7), 5, 70) for which in (callers, alone))
    assert callers.executor.run([work])[0].ids == alone.executor.run([single])[0].ids


def test_powers_of_two() -> None:
    assert [power_of_two(count, 12) for count in (1, 2, 3, 4, 5, 8, 9)] == [1, 2, 4, 4, 8, 8, 12]


def test_joined_weights_give_the_same_and_are_still_loaded_by_their_names() -> None:
    torch.manual_seed(0)
    sizes = DecoderSizes(10, 32, 48, 2, 4, 2, 1e-6, 1e4, True, 8)
    apart, other = Decoder(sizes).requires_grad_(False), Decoder(sizes).requires_grad_(False)
    joined = copy.deepcopy(apart)
    joined.join()
    embeds = torch.randn(2, 7, 32)
    before = embeds.clone()
    torch.testing.assert_close(joined(embeds), apart(embeds), rtol=1e-4, atol=1e-5)
    assert torch.equal(embeds, before)
    memory = {weight.untyped_storage().data_ptr() for weight in joined.layers.parameters()}
    assert len(memory) == 2 * (2 + 4 + 1), "of each layer: qkv and its bias; o, gate and up, down, two norms"
    joined.load_state_dict(other.state_dict())
    torch.testing.assert_close(joined(embeds), other(embeds), rtol=1e-4, atol=1e-5)
    assert joined.state_dict().keys() == apart.state_dict().keys()


@MODES
def test_joined_weights_speak_the_same(loaded: LoadedModel, paged: bool) -> None:
    model = copy.deepcopy(loaded.model)
    model.join()
    callers, plain = Callers(replace(loaded, model=model), 4, paged=paged), Callers(loaded, 4)
    for which in (callers, plain):
        which.session(0)
    works = [[which.decode(which.session(seed), 3 + seed, 8) for seed in (5, 6)] for which in (callers, plain)]
    ours, theirs = callers.executor.run(works[0]), plain.executor.run(works[1])
    assert [done.ids for done in ours] == [done.ids for done in theirs]
    voices = [which.voice(3, 14) for which in (callers, plain)]
    for which, voice in zip((callers, plain), voices, strict=True):
        which.executor.run([which.speak(voice, 14, 9, 1)])
    assert torch.equal(voices[0].codes, voices[1].codes)


@torch.inference_mode()
def test_joined_weights_see_and_hear_the_same(loaded: LoadedModel) -> None:
    model, config = copy.deepcopy(loaded.model), loaded.config
    model.join()
    patches = torch.randn(2, 12, 3 * config.vision.patch_size**2)
    mel = torch.randn(1, config.audio.num_mel_bins, 100)
    seen, heard = [], []
    for which in (model, loaded.model):
        seen.append(which.see(patches, [(3, 4), (2, 5)]))
        pool = SessionPool(which, sessions=1, context=256)
        for start in (0, 50):
            heard.append(which.apm.stream(mel, [100], pool.audio.place([0], [start], [50], sight=whole)))
    assert_close(seen[0], seen[1])
    assert_close(torch.cat(heard[:2]), torch.cat(heard[2:]))
    assert model.state_dict().keys() == loaded.model.state_dict().keys()
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), loaded.model.parameters(), strict=True))
