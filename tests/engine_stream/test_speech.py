"""Text on its way to speech, and the joining of waves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.checkpoint.loader import LoadedModel
from engine.conversation.speech import SpeechTokens, crossfade, language_of, sentence_end, spell_digits
from engine.conversation.speech_live import PARTIAL_WORD, PORTION


@pytest.mark.parametrize(
    ("text", "language", "spelled"),
    [
        ("in 12 minutes", "english", "in one two minutes"),
        ("1月20日", "chinese", "一月二零日"),
        ("3.5", "english", "three.five"),
        ("none", "english", "none"),
        ("٣ 4", "english", " four"),
    ],
)
def test_digits_are_spelled(text: str, language: str, spelled: str) -> None:
    assert spell_digits(text, language) == spelled


def test_the_language_with_more_characters_wins() -> None:
    assert [language_of(text) for text in ("hello", "你好", "你好 ok", "你 ok", "12")] == [
        "english",
        "chinese",
        "chinese",
        "english",
        "chinese",
    ]


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("yes.", "."),
        ("it is 3.5", ""),
        ("3.5 ok!", "!"),
        ("好。吗？", "。"),
        ("what? no.", "."),
        ("...", "."),
        ("1. a? b", "?"),
    ],
)
def test_sentence_ends(text: str, mark: str) -> None:
    assert sentence_end(text) == mark


@given(st.integers(2100, 4000), st.integers(2100, 4000))
def test_a_wave_faded_into_itself_stays_the_same(first: int, second: int) -> None:
    wave = torch.sin(torch.arange(first + second - 2048) / 10)
    joined, rest = crossfade(wave[:first], wave[first - 2048 :])
    assert len(joined) == first
    torch.testing.assert_close(torch.cat([joined, rest]), wave, rtol=0, atol=1e-5)


def test_speech_slots(loaded: LoadedModel) -> None:
    config = loaded.config.tts
    tokens = SpeechTokens(loaded.tts_tokenizer, config)
    ids = tokens.encode("hello there")
    row = tokens.row(ids)
    assert len(row) == config.condition_length
    assert list(row[len(tokens.head) :][: len(ids) + 1]) == [*ids, config.text_eos_token_id]
    assert row[-1] == config.audio_bos_token_id
    full = tokens.row(range(1000))
    assert len(full) == config.condition_length
    assert config.text_eos_token_id not in [slot for slot in full[2:-1] if slot >= 1000]
    assert tokens.count(range(1000)) == config.text_reserved_len
    assert tokens.encode("") == []


@given(st.text(st.sampled_from("ab1 .,!?'。你好\n"), max_size=120))
def test_portions_are_the_whole_text(text: str) -> None:
    assert "".join(PORTION.findall(text)) == text
    assert all(len(portion.strip()) <= 40 + text.count("!") + len(portion) // 2 for portion in PORTION.findall(text))


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("he llo", "llo"), ("hello ", ""), ("ok, 1", "1"), ("你好", ""), ("до свид", "свид"), ("so I'", "I'"),
        ("at 3:", "3:"), ("at 3.", "3."), ("at 5 p.", "p."), ("the end.", ""), ("'", ""), ("1 am.", ""),
        ("is 7 -", "7 -"), ("7 days", "days"),
    ],
)  # fmt: skip
def test_a_word_that_may_go_on_is_held_back(text: str, held: str) -> None:
    found = PARTIAL_WORD.search(text)
    assert (found[0] if found else "") == held


@pytest.mark.parametrize(
    "words",
    [
        ("I'm", "$3.50", "m", "away,", "don't", "go."), ("It’s", "1,000", "in", "the", "U.S.", "at", "3:30", "p.m."),
        ("Is", "it", "7?", "No."), ("Is", "7 - 5", "or", "8", "x", "less", "than", "8 x 4?"),
    ],
)  # fmt: skip
def test_a_text_that_comes_in_pieces_is_cut_between_words(words: tuple[str, ...]) -> None:
    held, portions = "", []
    for letter in " ".join(words):
        come = held + letter
        partial = PARTIAL_WORD.search(come)
        end = partial.start() if partial else len(come)
        portions += PORTION.findall(come[:end])
        held = come[end:]
    portions += PORTION.findall(held)
    assert [portion.strip() for portion in portions if portion.strip()] == list(words)
