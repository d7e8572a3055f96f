"""How a model tells that a message is over."""

from __future__ import annotations

import math

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from engine.config_end_of_turn import EndOfTurnConfig, read_end_of_turn
from engine.config_reader import Reader
from engine.conversation.message_end import MessageEnd
from engine.errors import ConfigError

TOKENS = ("<|im_end|>", "<unk>", "the", ".", "?Ċ", ".ĊĊ", ".com", "..", "a")
CLOSING = 0


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(TOKENS)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>")))


def scores(**chances: float) -> torch.Tensor:
    """Logits of these chances; the other tokens share what is left."""
    named = {TOKENS.index(token): chance for token, chance in chances.items()}
    left = (1 - sum(named.values())) / (len(TOKENS) - len(named))
    return torch.tensor([math.log(named.get(i, left)) for i in range(len(TOKENS))])


def test_a_trained_model_says_it_by_the_token_that_closes_a_message() -> None:
    ends = MessageEnd(tokenizer(), EndOfTurnConfig(marks="", even=0.5), CLOSING)
    assert ends.probability(scores(**{"<|im_end|>": 0.3, ".": 0.6})) == pytest.approx(0.3)


def test_a_model_that_reads_says_it_by_any_mark_with_which_a_sentence_may_end() -> None:
    ends = MessageEnd(tokenizer(), EndOfTurnConfig(marks=".?!", even=0.5), CLOSING)
    likely = scores(**{"<|im_end|>": 0.1, ".": 0.2, "?Ċ": 0.1, ".ĊĊ": 0.05, ".com": 0.3, "..": 0.1})
    assert ends.probability(likely) == pytest.approx(0.45)


def test_what_is_even_is_one_half() -> None:
    ends = MessageEnd(tokenizer(), EndOfTurnConfig(marks=".", even=0.04), CLOSING)
    even = scores(**{"<|im_end|>": 0.01, ".": 0.02, ".ĊĊ": 0.01})
    assert ends.probability(even) == pytest.approx(0.5)
    assert ends.probability(scores(**{"<|im_end|>": 0.02, ".": 0.04, ".ĊĊ": 0.02})) == pytest.approx(0.676, abs=1e-3)


def test_what_config_json_says() -> None:
    assert read_end_of_turn(Reader({}, "config.json")) is None
    assert read_end_of_turn(Reader({"tells_end_of_turn": True}, "config.json")) == EndOfTurnConfig("", 0.5)
    with pytest.raises(ConfigError, match=r"end_of_turn_even.*is 1\.0, not a probability"):
        read_end_of_turn(Reader({"tells_end_of_turn": True, "end_of_turn_even": 1}, "config.json"))
