"""Ears that read words, out of a checkpoint that has some, for a model that has other ears or none that read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.checkpoint.quantize import Quantizer, choose
from engine.checkpoint.tokenizer_files import load_words
from engine.checkpoint.weights import assign, check_tensors, find_shards, read_tensors
from engine.config import EarsConfig, read_ears_config
from engine.config_words import ReaderConfig
from engine.model.audio import AudioEncoder
from engine.model.word_decoder import WordDecoder
from engine.processing.words import WordTokens

LARGE = 20_000_000
"""From so many weights on, ears on a CPU are quantised."""


class ReadingEars(nn.Module):
    """Whisper's encoder (``apm.*``) and decoder (``reader.*``)."""

    def __init__(self, config: EarsConfig, reader: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        self.apm = AudioEncoder(config.audio)
        self.reader = WordDecoder(reader)


@dataclass(frozen=True, slots=True)
class LoadedReader:
    """What reads, in evaluation mode and frozen: in float32, on a CPU in whole numbers where it is large."""

    ears: ReadingEars
    words: WordTokens


def load_reader(directory: Path, device: torch.device, *, progress: bool = True) -> LoadedReader:
    """Load the ears of a directory that has a ``reader_config``, whatever else it holds. Raises LoadError."""
    config = read_ears_config(directory)
    words = load_words(directory, config.reader)
    with torch.device("meta"):
        ears = ReadingEars(config, config.reader)
    shapes = {key: parameter.shape for key, parameter in ears.named_parameters()}
    shards = find_shards(directory)
    check_tensors(shards, shapes, ignored=lambda key: key not in shapes, source=directory)

    def place(key: str) -> tuple[torch.device, torch.dtype] | None:
        return (device, torch.float32) if key in shapes else None

    weights = sum(shape.numel() for shape in shapes.values())
    chosen = choose("auto", device, torch.float32, weights, large=LARGE)
    quantizer = None if chosen == "none" else Quantizer(chosen, device, torch.float32, reads=True)

    def take(key: str, tensor: Tensor) -> None:
        assign(ears, key, tensor)
        if quantizer is not None and quantizer.covers(key):
            quantizer(ears, key)

    read_tensors(shards, place, take, progress=progress)
    return LoadedReader(ears.eval().requires_grad_(False), words)
