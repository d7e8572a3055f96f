"""Text to phones."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from engine.config import OmniConfig
from engine.conversation.speech import SpeechTokens
from engine.mini.layout import CHECKPOINT
from engine.mini.phones import SYMBOLS, write_phone_tokenizer
from engine.processing.numerals import cardinal, ordinal, read_aloud, year
from engine.processing.pronunciation import MARKS, PHONES, WIDE, Pronunciation

LEXICON = {
    "cat": "kˈæt", "house": "hˈWs", "fire": "fˈIəɹ", "dog": "dˈɔɡ", "church": "ʧˈɜɹʧ", "bake": "bˈAk",
    "party": "pˈɑɹɾi", "need": "nˈid", "b": "bˈi", "t": "tˈi", "v": "vˈi", "ay": "ˈA", "one": "wˈʌn",
    "seven": "sˈɛvən", "two": "tˈu",
}  # fmt: skip
pronounce = Pronunciation(LEXICON)


def wide(phones: str) -> str:
    return phones.translate(WIDE)


@pytest.mark.parametrize(
    ("text", "phones"),
    [
        ("The cat.", "ðəkˈæt."),
        ("Cats, dogs' churches?", "kˈæts,dˈɔɡzʧˈɜɹʧᵻz?"),
        ("needed baking", "nˈidᵻdbˈAkɪŋ"),
        ("a firehouse", "ɐfˈIəɹhˌWs"),
        ("a b", "ˈAbˈi"),
        ("a cat", "ɐkˈæt"),
        ("the cat's a dog", "ðəkˈætsɐdˈɔɡ"),
        ("TV", "tˈivˈi"),
        ("TVA", "tˈivˈiˈA"),
        ("party", "pˈɑɹTi"),
        ("7 cats — 2 dogs!", "sˈɛvənkˈæts,tˈudˈɔɡz!"),
        ("blick blicks blake", "blˈɪkblˈɪksblˈAk"),
        ("a naïve café", "ɐnˈAvkæfˈA"),
        ("uncat", "ʌnkˈæt"),
        ("t.v.", "tˈivˈi."),
        ("你好 ☃ ˌ ˈb", "bˈi"),
    ],
)
def test_phones(text: str, phones: str) -> None:
    assert pronounce(text) == wide(phones)


@pytest.mark.parametrize(
    ("text", "said"), [("at 7:02", "at seven oh two"), ("7 – 2", "seven minus two"), ("7: 2", "seven, two")]
)
def test_signs_between_figures_are_read(text: str, said: str) -> None:
    assert pronounce(text) == pronounce(said)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_becomes_phones_that_stay_as_they_are(text: str) -> None:
    said = pronounce(text)
    left = said
    for phone in sorted((*PHONES, *MARKS), key=len, reverse=True):
        left = left.replace(phone, "")
    assert left == ""
    assert pronounce(said) == said


def test_known_words_and_guesses() -> None:
    assert pronounce.knows("cats")
    assert pronounce.knows("the")
    assert not pronounce.knows("blick")


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ("1,250", "one thousand two hundred and fifty"),
        ("in 1984, or 2005 or 1900", "in nineteen eighty four, or two thousand five or nineteen hundred"),
        ("$9.99", "nine dollars ninety nine"),
        ("£1", "one pound"),
        ("the 3rd and 22nd", "the third and twenty second"),
        ("3.14", "three point one four"),
        ("at 7:30", "at seven thirty"),
        ("at 7:05 and 9:00", "at seven oh five and nine o'clock"),
        ("50%", "fifty percent"),
        ("17 + 25 = 42", "seventeen plus twenty five equals forty two"),
        ("6 x 7 and 8 - 3 and -5", "six times seven and eight minus three and minus five"),
        ("the 1990s and 20s", "the nineteen nineties and twenties"),
        ("007", "zero zero seven"),
        ("no figures", "no figures"),
    ],
)
def test_figures_are_read_aloud(figures: str, words: str) -> None:
    assert read_aloud(figures).split() == words.split()


def test_number_words() -> None:
    assert cardinal(0) == "zero"
    assert cardinal(10**9 + 1) == "one billion one"
    assert ordinal(40) == "fortieth"
    assert ordinal(112) == "one hundred and twelfth"
    assert year(1806) == "eighteen oh six"


@given(st.text("0123456789.,:$%- x/+=", max_size=40))
def test_no_figure_is_left(text: str) -> None:
    assert not any(char.isdigit() for char in read_aloud(text))


def test_a_lexicon_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "lexicon.txt.gz"
    file.write_bytes(gzip.compress("cat\tkˈæt\n".encode()))
    assert Pronunciation.from_file(file)("Cat") == wide("kˈæt")


@pytest.mark.parametrize(
    "content",
    [b"cat", gzip.compress(b"cat"), gzip.compress(b"a\tb\n")[:-9]],
    ids=["not packed", "no phones", "cut off"],  # a packed file holds the time, and names must not change with it
)
def test_a_damaged_lexicon_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "lexicon.txt.gz"
    file.write_bytes(content)
    with pytest.raises((OSError, EOFError, ValueError)):
        Pronunciation.from_file(file)


def test_the_talker_is_given_phones(tmp_path: Path) -> None:
    write_phone_tokenizer(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(tmp_path))
    tokens = SpeechTokens(tokenizer, OmniConfig.from_dir(CHECKPOINT).tts, pronounce)
    ids = tokens.encode("Seven cats.")
    assert [SYMBOLS[i] for i in ids] == [wide(p) for p in ("s", "ˈɛ", "v", "ə", "n", "k", "ˈæ", "t", "s", ".")]
    assert tokens.encode(tokens.decode(ids)) == ids
    assert tokens.encode("Seven ") + tokens.encode("cats.") == ids
    assert tokens.enough == 40
    assert [tokens.least_text(count) for count in (1, 4, 5, 20)] == [1, 1, 2, 5]
    text = SpeechTokens(tokenizer, tokens.config)
    assert text.enough == tokens.config.text_reserved_len - 180
    assert text.least_text(20) == 20
    assert tokens.readable("7 *cats*", "english") == "7 cats"
