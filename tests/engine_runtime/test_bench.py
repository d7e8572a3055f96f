"""The benchmark measures what it says: the reference pattern computes the same, and every section gives figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.bench.__main__ import main
from engine.bench.emulator import Emulator
from engine.bench.full import OFFICIAL, random_model
from engine.bench.measure import Timing, row
from engine.checkpoint.loader import LoadedModel, build_untrained
from engine.config import OmniConfig
from engine.conversation.streaming import StreamingModel
from engine.model.omni import OmniModel
from engine.processing.prompts import Message
from engine.serving.live_engine import MINI


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    torch.set_num_threads(1)
    return build_untrained(MINI, device="cpu")


@torch.inference_mode()
def test_the_reference_pattern_computes_what_the_engine_does(loaded: LoadedModel) -> None:
    """The same unit leaves the same keys in both, at the places where it lies."""
    sound = (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)
    emulator = Emulator(loaded)
    emulator.prefill(sound, None)
    stream = StreamingModel(loaded)
    state = stream.open()
    prepared = stream.prepare(state, Message("user", ["<unit>", sound]))
    works = stream.prefill(state, Message("user", ["<unit>", sound]))
    fed = list(stream.executor.drive(works))[-1]
    header = int(np.flatnonzero(prepared.row.ids == loaded.tokenizer.convert_tokens_to_ids("<unit>"))[0])
    tokens = emulator.llm_cache.get_seq_length()
    ours = fed.embeds[header : header + tokens]
    again = emulator.llm(inputs_embeds=ours[None]).logits
    cached = emulator.llm_cache.layers[0].keys
    fresh = emulator.llm(inputs_embeds=ours[None], use_cache=True).past_key_values.layers[0].keys
    assert torch.allclose(cached, fresh, atol=1e-4)
    assert torch.allclose(again, loaded.model.llm.logits(loaded.model.llm(ours[None])), atol=1e-4)


@torch.inference_mode()
def test_the_reference_pattern_withholds_its_first_block(loaded: LoadedModel) -> None:
    emulator = Emulator(loaded)
    text, wave = next(emulator.speak())
    assert len(text) > 0
    assert len(wave) == 25 * 512


def test_a_run_writes_every_section(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--untrained", "--sessions", "1", "--repeats", "1", "--json", str(tmp_path / "bench.json")]) == 0
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    sections = {"time to first audio", "speech", "text", "prefill", "vocoder", "sharing exactly"}
    assert {row["section"] for row in rows} == sections
    assert all(row["ours"] > 0 for row in rows)
    assert all(row["ratio"] > 0 for row in rows if row["reference"] is not None)
    assert capsys.readouterr().out.count("target:") == 2


def test_full_size_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one here")
    with pytest.raises(SystemExit):
        main(["--full"])
    assert "CUDA" in capsys.readouterr().err


def test_the_full_size_is_the_official_one() -> None:
    with torch.device("meta"):
        model = OmniModel(OmniConfig.from_dicts(OFFICIAL))
    assert sum(weight.numel() for weight in model.parameters()) == 8_674_997_028


def test_random_weights_are_finite(loaded: LoadedModel) -> None:
    model = random_model(torch.device("cpu"), loaded.config)
    assert all(weight.isfinite().all() for weight in model.model.parameters())
    assert model.parameters == loaded.parameters


def test_sessions_that_share_a_run_have_a_part_of_it_each() -> None:
    alone, shared = (row("text", "per token", 4, "ms", 1e3, [0.8], [0.5], shared=shared) for shared in (False, True))
    assert (alone.ours, alone.ratio) == (800.0, 0.625)
    assert (shared.ours, shared.ratio) == (200.0, 2.5)


def test_ratios_say_how_many_times_less() -> None:
    assert Timing("speech", "block", 1, "ms", 2.0, 2.0, 10.0).ratio == 5.0
    assert Timing("speech", "block", 1, "ms", 2.0, 2.0).ratio is None
