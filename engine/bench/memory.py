"""What needs how much memory: every model of the family at its official size, on ``meta``.

    python -m engine.bench.memory [--context 8192]

Prints a table in Markdown: the weights in each quantisation, a session, and with the room that work takes beside them
(:func:`engine.conversation.storage.working_bytes`) the memory of a device for one session and for sixteen. Of MiniCPM-o
2.6 a session is a call or a spoken chat, of the others a chat.
"""

from __future__ import annotations

import argparse
from functools import lru_cache

import torch

from engine.bench.full import FAMILY
from engine.checkpoint.quantize import Quantizer, bytes_of
from engine.config import OmniConfig, VisionLanguageConfig
from engine.config_language import NAMES
from engine.conversation.storage import WORKING_BYTES, session_bytes
from engine.model.omni import OmniModel
from engine.model.vision_language import VisionLanguageModel
from engine.model.vocos import Vocos

NAMES_OF_WEIGHTS = {"none": "bf16", "int8": "int8", "int4": "int4", "fp8": "fp8"}
"""What a quantisation is called in the table."""


def weight_bytes(config: VisionLanguageConfig, dtype: torch.dtype, quantize: str = "none") -> dict[str, int]:
    """Bytes of the weights, part by part, as a card holds them."""
    parts = {"vpm": "vision", "resampler": "vision", "llm": "language", "tts": "speech"}
    found = dict.fromkeys(("vision", "hearing", "language", "speech"), 0)
    for key, shape in _shapes(config):
        name = quantize if Quantizer.is_of_layers(key) else "none"
        found[parts.get(key.split(".")[0], "hearing")] += bytes_of(name, shape, dtype)
    if isinstance(config, OmniConfig):
        with torch.device("meta"):
            found["wave"] = sum(weight.nbytes for weight in Vocos(config.vocos).parameters())
    return {part: size for part, size in found.items() if size}


@lru_cache(maxsize=4)
def _shapes(config: VisionLanguageConfig) -> tuple[tuple[str, torch.Size], ...]:
    with torch.device("meta"):
        model = OmniModel(config) if isinstance(config, OmniConfig) else VisionLanguageModel(config)
    return tuple((key, weight.shape) for key, weight in model.named_parameters())


def device_bytes(weights: int, session: int, sessions: int) -> int:
    """The memory of a device on which so many sessions fit beside the weights."""
    stored = sessions * session
    return weights + stored + min(WORKING_BYTES, -(-stored // 6))


def rows(context: int) -> list[tuple[str, ...]]:
    """The table's rows: model, weights as, weights, a session, one session, sixteen; in GB."""
    found = []
    for generation, published in FAMILY.items():
        kind = OmniConfig if generation == "o-2.6" else VisionLanguageConfig
        config = kind.from_dicts(published)
        tokens = min(context, config.llm.max_positions)
        session = sum(session_bytes(config, tokens, torch.bfloat16).values())
        for quantize, name in NAMES_OF_WEIGHTS.items():
            weights = sum(weight_bytes(config, torch.bfloat16, quantize).values())
            sizes = (weights, session, *(device_bytes(weights, session, count) for count in (1, 16)))
            numbers = (f"{size / 1e9:.{2 if size == session else 1}f}" for size in sizes)
            found.append((f"{NAMES[generation]}, {tokens:,} tokens", name, *numbers))
    return found


def table(context: int) -> str:
    """The table, in Markdown."""
    head = ("GB", "weights as", "weights", "a session", "one session", "16 sessions")
    lines = (head, ("---",) * len(head), *rows(context))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(prog="python -m engine.bench.memory", description="What needs how much memory.")
    parser.add_argument("--context", type=int, default=8_192, help="tokens of a session (default: 8192)")
    print(table(parser.parse_args().context))


if __name__ == "__main__":
    main()
