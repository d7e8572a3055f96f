"""The tokenizer of a talker for open text: one id per phone (:mod:`engine.processing.pronunciation`) and per mark."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from engine.mini.tokenizers import TTS_SPECIALS, TTS_TOKENIZER
from engine.processing.pronunciation import MARKS, PHONES

SYMBOLS = (*TTS_SPECIALS, *PHONES, *MARKS)
"""What the ids stand for, in their order."""


def write_phone_tokenizer(folder: Path) -> Tokenizer:
    """Writes ``tokenizer.json`` and ``tokenizer_config.json``, whose text is phones only."""
    tokenizer = Tokenizer(models.WordLevel({symbol: i for i, symbol in enumerate(SYMBOLS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[ˈˌ]?."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in TTS_SPECIALS])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(TTS_TOKENIZER, indent=1) + "\n")
    return tokenizer
