"""The reader's decoder against the one of transformers, and what is read with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.checkpoint import reader
from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import load_checkpoint
from engine.checkpoint.reader import load_reader
from engine.config_reader import Reader
from engine.config_words import read_words_config
from engine.conversation import word_reader
from engine.conversation.reading import Reading
from engine.conversation.word_reader import WordReader
from engine.model.word_decoder import WordDecoder
from tests.reading_model import reader_config, reference, write_reading_model

WIDTH = 32


@torch.inference_mode()
def test_the_scores_are_those_of_the_reference_at_once_and_token_by_token() -> None:
    config = read_words_config(Reader(reader_config(WIDTH), "config.json"))
    assert config is not None
    theirs, ours = reference(WIDTH), WordDecoder(config).eval()
    ours.load_state_dict(theirs.model.decoder.state_dict())
    heard = torch.randn(3, 50, WIDTH, generator=torch.Generator().manual_seed(2))
    ids = torch.tensor([[42, 43, 1, 17, 5, 30, 2]])
    states = heard.flatten(0, 1)[None]
    expected = theirs(decoder_input_ids=ids, encoder_outputs=(states,)).logits[0]

    sound = torch.cat([ours.listen(piece) for piece in heard], 3)
    arena = ours.arena()
    whole = ours.logits(ours(ids, arena.place([0], [0], [ids.shape[1]]), sound)[0])
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-4)
    steps = [ours(ids[:, i : i + 1], arena.place([0], [i], [1]), sound)[0, 0] for i in range(ids.shape[1])]
    torch.testing.assert_close(ours.logits(torch.stack(steps)), expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_ears_that_read_are_quantised_beside_a_language_model_and_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_reading_model(tmp_path / "model")
    exact, whole = (
        load_checkpoint(folder, LoadOptions("cpu", "float32", quantize, progress=False)).model
        for quantize in ("none", "int8")
    )
    monkeypatch.setattr(reader, "LARGE", 0)
    alone = load_reader(folder, torch.device("cpu"), progress=False).ears
    states = torch.randn(5, 2 * WIDTH, generator=torch.Generator().manual_seed(3))
    for part in ("apm.layers.0.fc1", "reader.layers.1.encoder_attn.v_proj", "reader.layers.0.self_attn.k_proj"):
        expected, found = (model.get_submodule(part)(states) for model in (exact, whole))
        assert 0 < (found - expected).norm() / expected.norm() < 0.03, part
        assert torch.equal(alone.get_submodule(part)(states), found)
    assert exact.reader is not None
    assert whole.reader is not None
    expected, found = exact.reader.logits(states), whole.reader.logits(states)
    assert 0 < (found - expected).norm() / expected.norm() < 0.03
    assert torch.equal(alone.reader.logits(states), found)


@torch.inference_mode()
def test_a_reading_does_not_begin_anew_where_it_may_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ears = load_reader(write_reading_model(tmp_path / "model"), torch.device("cpu"), progress=False).ears
    states = torch.randn(50, 2 * WIDTH, generator=torch.Generator().manual_seed(4))
    reading = Reading().hear(np.zeros(16_000, np.float32), ears.reader.listen(states))
    reads = WordReader(ears.apm, ears.reader)
    monkeypatch.setattr(word_reader, "LEAST_END", 0.1)  # nothing is as probable
    again = reads.read(reading).ids
    second = again.index(again[0], 1)
    monkeypatch.setattr(word_reader, "LEAST_END", -1e9)
    assert reads.read(reading).ids == again[:second]
    assert reads.read(replace(reading, ids=again, certain=0)).ids == again[:second]  # nor where a draft does
