"""The tokenizers of mini's checkpoint."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from engine.config import OmniConfig
from engine.mini.layout import CHECKPOINT
from engine.mini.sound.pronunciation import PHONES, spelled
from engine.mini.world.known_words import lexicon_words

llm = PreTrainedTokenizerFast.from_pretrained(str(CHECKPOINT))
tts = PreTrainedTokenizerFast.from_pretrained(str(CHECKPOINT / "assets" / "chattts_tokenizer"))


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\x000123456789"), max_size=40))
def test_any_text_survives_the_language_tokenizer(text: str) -> None:
    import unicodedata

    normal = unicodedata.normalize("NFC", text)
    assert llm.decode(llm.encode(text, add_special_tokens=False)) == normal or "<" in text


def test_a_word_of_the_grammar_is_one_token() -> None:
    words = [w for w in lexicon_words() if w.isalpha()]
    assert not [w for w in words if len(llm.encode(" " + w, add_special_tokens=False)) != 1]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("what is 3+4?", "what is three plus four?"),
        ("20 - 13", "twenty minus thirteen"),
        ("6 x 7", "six times seven"),
        ("count from 10 to 12", "count from ten to twelve"),
    ],
)
def test_typed_figures_are_read_as_words(typed: str, meant: str) -> None:
    assert llm.encode(typed) == llm.encode(meant)


def test_no_text_uses_id_zero() -> None:
    assert 0 not in llm.encode("! Hello!? \n ~", add_special_tokens=False)


def phones(text: str) -> str:
    return "".join(tts.convert_ids_to_tokens(tts.encode(text, add_special_tokens=False)))


def test_known_words_are_pronounced_by_the_lexicon() -> None:
    assert phones("You said seven.") == spelled(["Y", "UW", "S", "EH", "D", "S", "EH", "V", "AX", "N"]) + "."


def test_the_letter_a_among_letters_is_its_name() -> None:
    assert phones("a b") == spelled(["EY", "B", "IY"])
    assert phones("a cat") == spelled(["AX", "K", "AE", "T"])


@settings(deadline=None)
@given(st.text("abcdefghijklmnopqrstuvwxyz ,.?!", max_size=40))
def test_every_english_text_becomes_phones_that_encode_to_themselves(text: str) -> None:
    said = phones(text)
    assert set(said) <= set("".join(PHONES.values())) | set(",.?")
    assert phones(said) == said


@pytest.mark.parametrize("token", ["[Stts]", "[spk_emb]", "[Ptts]", "[Etts]", "[PAD]"])
def test_speech_tokens_agree_with_the_configuration(token: str) -> None:
    config = OmniConfig.from_dir(CHECKPOINT).tts
    wanted = {"[Ptts]": config.audio_bos_token_id, "[Etts]": config.text_eos_token_id,
              "[spk_emb]": config.spk_emb_token_id}  # fmt: skip
    found = tts.convert_tokens_to_ids(token)
    assert found == wanted.get(token, found)
    assert found < config.num_text_tokens
