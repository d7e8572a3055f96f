"""The tokenizer of MiniCPM-V 2.0: SentencePiece (arXiv 1808.06226) as the published Llama tokenizer uses it.

A text is split at its special tokens, and every stretch between two of them is encoded on its own, with the space in
front that SentencePiece puts before a text. Tokenizers that are converted from the file see one text, and give other
ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor

from engine.config_reader import read_json
from engine.errors import TokenizerError
from engine.processing.prompts import TypedText

MODEL_FILE, SETTINGS_FILE = "tokenizer.model", "tokenizer_config.json"
AGAIN = "download the file again"


class SentencePieceTokenizer:
    """What is used of a Hugging Face tokenizer, on a SentencePiece model."""

    chat_template: None = None

    def __init__(self, folder: Path) -> None:
        """Raises TokenizerError for files that are missing or damaged."""
        path = folder / MODEL_FILE
        if not path.is_file():
            raise TokenizerError(path, "is missing", AGAIN)
        settings = read_json(folder / SETTINGS_FILE)
        try:
            self._model: Any = SentencePieceProcessor(model_file=str(path))
        except Exception as error:  # the library raises bare exceptions
            raise TokenizerError(path, f"cannot be read ({type(error).__name__}: {error})", AGAIN) from error
        self.special_ids = self._specials(settings, folder / SETTINGS_FILE)
        names = sorted(self.special_ids, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, names)) + ")")
        self.opening = (self._model.bos_id(),) if settings.get("add_bos_token", True) else ()

    def _specials(self, settings: dict[str, Any], path: Path) -> dict[str, int]:
        added = settings.get("added_tokens_decoder") or {}
        try:
            found = {str(entry["content"]): int(number) for number, entry in added.items()}
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise TokenizerError(path, "does not map ids to tokens", AGAIN, key="added_tokens_decoder") from error
        for number in (self._model.bos_id(), self._model.eos_id(), self._model.unk_id()):
            found.setdefault(self._model.id_to_piece(number), number)
        return found

    def __len__(self) -> int:
        return int(max(self._model.get_piece_size(), 1 + max(self.special_ids.values())))

    def encode(self, text: str, *, add_special_tokens: bool = True, split_special_tokens: bool = False) -> list[int]:
        """Ids of a text; with ``add_special_tokens`` what a prompt begins with comes first."""
        ids: list[int] = list(self.opening) if add_special_tokens else []
        for part in [text] if split_special_tokens else self._split.split(text):
            if part in self.special_ids and not split_special_tokens:
                ids.append(self.special_ids[part])
            elif part:
                ids += self._model.encode(part)
        return ids

    def typed(self, parts: Sequence[str | TypedText]) -> list[int]:
        """Ids of neighbouring texts as of one, in which only what a ``str`` spells can be a special token."""
        own = [re.sub(r"<[^<>]+>", self._spelled, p.text) if isinstance(p, TypedText) else p for p in parts]
        return self.encode("".join(own), add_special_tokens=False)

    def _spelled(self, found: re.Match[str]) -> str:
        """A token's name as text. SentencePiece has no way to say so; a space within does it."""
        name = found[0]
        named = name in self.special_ids or self._model.piece_to_id(name) != self._model.unk_id()
        return f"< {name[1:]}" if named else name

    def convert_tokens_to_ids(self, tokens: str) -> int | None:
        """The id of a token, None for one that there is not."""
        if tokens in self.special_ids:
            return self.special_ids[tokens]
        found: int = self._model.piece_to_id(tokens)
        return None if found == self._model.unk_id() else found

    def convert_ids_to_tokens(self, ids: int) -> str | None:
        """The token of an id."""
        for name, number in self.special_ids.items():
            if number == ids:
                return name
        return str(self._model.id_to_piece(ids)) if 0 <= ids < self._model.get_piece_size() else None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids. Special tokens are spelled out; ids without a token are left out."""
        text, run = "", list[int]()
        names = {number: name for name, number in self.special_ids.items()}
        for token in ids:
            if token in names:
                text, run = text + self._model.decode(run) + names[token], []
            elif 0 <= token < self._model.get_piece_size():
                run.append(token)
        return text + str(self._model.decode(run))
