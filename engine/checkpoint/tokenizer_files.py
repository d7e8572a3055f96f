"""The tokenizers of a model directory, read and compared with the configuration."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from engine.checkpoint.weights import AGAIN
from engine.config import CONFIG_FILE, OmniConfig, TTSConfig, VisionLanguageConfig
from engine.config_reader import read_json
from engine.config_words import ReaderConfig
from engine.errors import TokenizerError
from engine.processing.dialects import DIALECTS
from engine.processing.pronunciation import Pronunciation
from engine.processing.sentencepieces import MODEL_FILE, SentencePieceTokenizer
from engine.processing.tokens import NUMBER_MARKS, PICTURE_MARKS, SPECIALS, PictureIds, RowBuilder, SpecialIds
from engine.processing.words import WordTokens

FamilyTokenizer: TypeAlias = PreTrainedTokenizerFast | SentencePieceTokenizer
"""Of the language model: MiniCPM-V 2.0 has the second, all others the first."""

LLM_TOKENIZER_DIRS = ("llm_tokenizer", ".")
TTS_TOKENIZER_DIRS = ("tts_tokenizer", "assets/chattts_tokenizer")
READER_TOKENIZER_DIRS = ("reader_tokenizer", "assets/reader_tokenizer")
LEXICON_FILE = "lexicon.txt.gz"
"""Beside the talker's tokenizer, where that one knows phones only."""
SPEECH_TOKENS = ("[Stts]", "[spk_emb]", "[Ptts]", "[Etts]", "[PAD]")


def load_tokenizer(directory: Path, config: VisionLanguageConfig) -> FamilyTokenizer:
    """The language model's own. Raises TokenizerError."""
    if config.generation == "v-2.0":
        folder = _folder(directory, LLM_TOKENIZER_DIRS)
        pieces = SentencePieceTokenizer(folder)
        RowBuilder(pieces, config, str(folder / MODEL_FILE))
        _check_highest(len(pieces) - 1, folder / MODEL_FILE, config.llm.vocab_size, "vocab_size")
        return pieces
    llm, path = _load_fast(directory, LLM_TOKENIZER_DIRS)
    omni = config.generation == "o-2.6"
    numbers = NUMBER_MARKS if config.image.use_image_id else {}
    wanted = SPECIALS if omni else PICTURE_MARKS | numbers
    _check_declared(path, [*wanted.values(), *DIALECTS[config.generation].stops])
    (SpecialIds if omni else PictureIds).resolve(llm, str(path))
    _check_size(llm, path, config.llm.vocab_size, "vocab_size")
    return llm


def load_speech_tokenizer(directory: Path, config: OmniConfig) -> PreTrainedTokenizerFast:
    """The speech model's. Raises TokenizerError."""
    tts, path = _load_fast(directory, TTS_TOKENIZER_DIRS)
    _check_declared(path, SPEECH_TOKENS)
    _check_size(tts, path, config.tts.num_text_tokens, "tts_config.num_text_tokens")
    _check_speech_tokens(tts, path, config.tts)
    return tts


def load_words(directory: Path, config: ReaderConfig) -> WordTokens:
    """The tokenizer of the reader. Raises TokenizerError."""
    path = next((p for d in READER_TOKENIZER_DIRS if (p := directory / d / "tokenizer.json").is_file()), None)
    if path is None:
        raise TokenizerError(directory / READER_TOKENIZER_DIRS[-1] / "tokenizer.json", "is missing", AGAIN)
    try:
        words = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise TokenizerError(path, f"cannot be read ({type(error).__name__}: {error})", AGAIN) from error
    if words.get_vocab_size() > config.vocab_size:
        problem = f"has {words.get_vocab_size()} tokens, but reader_config.vocab_size is {config.vocab_size}"
        raise TokenizerError(path, problem, f"use the tokenizer and {CONFIG_FILE} of one checkpoint")
    return WordTokens(words, config.vocab_size)


def load_pronunciation(directory: Path) -> Pronunciation | None:
    """The lexicon of a talker that reads phones, if there is one. Raises TokenizerError."""
    path = next((p for d in TTS_TOKENIZER_DIRS if (p := directory / d / LEXICON_FILE).is_file()), None)
    if path is None:
        return None
    try:
        return Pronunciation.from_file(path)
    except (OSError, EOFError, ValueError) as error:  # gzip raises the first two
        raise TokenizerError(path, f"cannot be read ({type(error).__name__}: {error})", AGAIN) from error


def _load_fast(directory: Path, places: tuple[str, ...]) -> tuple[PreTrainedTokenizerFast, Path]:
    folder = _folder(directory, places)
    path, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not path.is_file():
        raise TokenizerError(path, "is missing", AGAIN)
    read_json(settings)
    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True), path
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise TokenizerError(path, f"cannot be read ({type(error).__name__}: {error})", AGAIN) from error


def _folder(directory: Path, places: tuple[str, ...]) -> Path:
    return next((directory / place for place in places if (directory / place).is_dir()), directory / places[-1])


def _check_declared(path: Path, tokens: Iterable[str]) -> None:
    """Refuse tokens that the files give no id to: transformers would silently add them behind the vocabulary."""
    config = read_json(path.with_name("tokenizer_config.json"))
    added = {entry.get("content") for entry in config.get("added_tokens_decoder", {}).values()}
    vocabulary = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    for token in tokens:
        if token not in vocabulary and token not in added:
            raise TokenizerError(path, "is not in the vocabulary", "use the checkpoint's own tokenizers", key=token)


def _check_size(tokenizer: PreTrainedTokenizerFast, path: Path, rows: int, key: str) -> None:
    _check_highest(max(tokenizer.get_vocab().values(), default=0), path, rows, key)


def _check_highest(highest: int, path: Path, rows: int, key: str) -> None:
    if highest >= rows:
        problem = f"has the token id {highest}, but {key} in {CONFIG_FILE} is {rows}"
        raise TokenizerError(path, problem, f"use the tokenizer and {CONFIG_FILE} of one checkpoint")


def _check_speech_tokens(tokenizer: PreTrainedTokenizerFast, path: Path, config: TTSConfig) -> None:
    wanted = {
        "[spk_emb]": config.spk_emb_token_id,
        "[Ptts]": config.audio_bos_token_id,
        "[Etts]": config.text_eos_token_id,
    }
    for text, number in wanted.items():
        found = tokenizer.convert_tokens_to_ids(text)
        if found != number:
            problem = f"has the id {found} where {CONFIG_FILE} says {number}"
            raise TokenizerError(path, problem, f"use the tokenizer and {CONFIG_FILE} of one checkpoint", key=text)
