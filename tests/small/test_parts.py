"""Trained parts of small: what they lay over what is assembled, and what they hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import Environment
from transformers import PreTrainedTokenizerFast

from engine.checkpoint.weights import read_header
from engine.config_reader import read_json
from engine.mini.phones import SYMBOLS
from engine.processing.pronunciation import Pronunciation
from engine.small.assemble import PARTS, with_parts
from engine.small.layout import chat_template

SPEECH = PARTS / "speech.safetensors"
TOKENIZER = PARTS / "assets" / "chattts_tokenizer"
trained = pytest.mark.skipif(not SPEECH.is_file(), reason="small has no voice of its own here and takes mini's")


def test_parts_lie_over_the_configuration_block_by_block(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('{"block": {"a": 1}, "new": {"b": 2}}')
    (tmp_path / "two.json").write_text('{"block": {"c": 3}, "plain": 4}')
    config = {"block": {"a": 0, "kept": 5}, "plain": 0}
    assert with_parts(config, tmp_path) == {
        "block": {"a": 1, "kept": 5, "c": 3}, "plain": 4, "new": {"b": 2},
    }  # fmt: skip
    assert config == {"block": {"a": 0, "kept": 5}, "plain": 0}
    assert with_parts(config, tmp_path / "none") == config


@trained
def test_the_voice_fits_its_phones() -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(TOKENIZER))
    assert tuple(tokenizer.convert_ids_to_tokens(range(len(SYMBOLS)))) == SYMBOLS
    assert read_json(PARTS / "speech.json")["tts_config"]["num_text_tokens"] == len(SYMBOLS)
    header = read_header(SPEECH)
    assert header["tts.emb_text.weight"].shape[0] == len(SYMBOLS)
    assert not [key for key in header if key.startswith("tts.projector.")]


@trained
@pytest.mark.parametrize(
    ("text", "count"), [("The capital of France is Paris.", 24), ("Elizabeth's 1,250 thoughts", 39)]
)
def test_the_lexicon_knows_everyday_words(text: str, count: int) -> None:
    pronounce = Pronunciation.from_file(TOKENIZER / "lexicon.txt.gz")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(TOKENIZER))
    ids = tokenizer.encode(pronounce(text), add_special_tokens=False)
    assert len(ids) == count
    assert "[UNK]" not in tokenizer.convert_ids_to_tokens(ids)
    assert all(map(pronounce.knows, ("weather", "thoughts", "baking", "firehouse", "shakespeare")))


def test_the_chat_template_tells_the_model_who_it_is_unless_it_is_told_otherwise() -> None:
    template = Environment().from_string(chat_template('You are "small".'))
    asked = [{"role": "user", "content": "hello"}]
    turns = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    told = template.render(messages=asked, add_generation_prompt=True)
    assert told == f'<|im_start|>system\nYou are "small".<|im_end|>\n{turns}'
    other = [{"role": "system", "content": "Be brief."}, *asked]
    assert (
        template.render(messages=other, add_generation_prompt=True)
        == f"<|im_start|>system\nBe brief.<|im_end|>\n{turns}"
    )
