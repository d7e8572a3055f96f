"""The reader's decoder against the one of transformers."""

from __future__ import annotations

import torch

from engine.config_reader import Reader
from engine.config_words import read_words_config
from engine.model.word_decoder import WordDecoder
from tests.reading_model import reader_config, reference

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
