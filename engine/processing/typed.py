"""What a person typed, as token ids: whatever it spells, none of it is a control token."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer as Backend

from engine.processing.prompts import TypedText


class TypedEncoder:
    """Encodes what a person typed: the tokenizer's own model without its added tokens, whatever their flags say.

    ``split_special_tokens`` of transformers is not enough: it spells out only those added tokens that are flagged as
    special, and it is a switch on the one tokenizer that all threads share.
    """

    def __init__(self, backend: Backend) -> None:
        document = json.loads(backend.to_str())
        added = {token["content"]: token["id"] for token in document["added_tokens"]}
        self._backend = backend
        self._added = frozenset(added.values())
        document |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        _forget(document["model"], added.keys() - {document["model"].get("unk_token")})
        self._plain = Backend.from_str(json.dumps(document))

    def __call__(self, parts: Sequence[str | TypedText]) -> list[int]:
        """Ids of neighbouring texts, as of one text in which only what a ``str`` spells can be an added token."""
        ids: list[int] = []
        plain = ""
        for part in parts:
            if isinstance(part, TypedText):
                plain += part.text
                continue
            found, end = self._backend.encode(part, add_special_tokens=False), 0
            for token, (first, last) in zip(found.ids, found.offsets, strict=True):
                if token in self._added:
                    ids += [*self._encode(plain + part[end:first]), token]
                    plain, end = "", last
            plain += part[end:]
        return ids + self._encode(plain)

    def _encode(self, text: str) -> list[int]:
        return list(self._plain.encode(text, add_special_tokens=False).ids) if text else []


def _forget(model: dict[str, Any], added: Iterable[str]) -> None:
    """Take ``added`` out of a tokenizer model, so that it cannot come upon them by itself either."""
    added = set(added)
    if isinstance(model["vocab"], list):  # Unigram: an id is a place in the list, and a low score is never chosen
        model["vocab"] = [[text, -1e9 if text in added else score] for text, score in model["vocab"]]
        return
    model["vocab"] = {text: number for text, number in model["vocab"].items() if text not in added}
    if "merges" in model:
        pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [[a, b] for a, b in pairs if not added & {a, b, a + b}]
