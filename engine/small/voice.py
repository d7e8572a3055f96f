"""Small's voice until it has its own: mini's talker, codec and vocoder, told by a stored vector how to sound."""

from __future__ import annotations

import torch
from safetensors import safe_open
from torch import Tensor

from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import load_checkpoint
from engine.conversation.streaming import StreamingModel
from engine.conversation.work import Feed
from engine.processing.prompts import Message, get_sys_prompt
from engine.serving.live_engine import MINI, read_voice
from engine.small.shards import Planned, planned

GREETING = "hello"
"""What mini was told before the vectors were read; any words give nearly the same ones."""


def talker(width: int, voice: Tensor) -> list[Planned]:
    """The talker (``tts.*``), for a language model of ``width``. Its projector gives ``voice`` [tts hidden] whatever
    the language model's state is, since it has learnt to read no other model's than mini's."""
    path = MINI / "model.safetensors"
    with safe_open(path, framework="pt", device="cpu") as file:
        keys = [key for key in file.keys() if key.startswith("tts.") and not key.startswith("tts.projector.")]  # noqa: SIM118
        tensors = [planned(key, file.get_tensor(key)) for key in keys]
    return [*tensors, *constant("tts.projector", width, voice)]


def constant(key: str, width: int, value: Tensor) -> list[Planned]:
    """A projector from ``width`` that gives ``value`` [N] for every input."""
    size = len(value)
    return [
        planned(f"{key}.linear1.weight", torch.zeros(size, width)),
        planned(f"{key}.linear1.bias", torch.zeros(size)),
        planned(f"{key}.linear2.weight", torch.zeros(size, size)),
        planned(f"{key}.linear2.bias", value),
    ]


def stored_voices() -> dict[str, Tensor]:
    """The unit vectors [tts hidden] that mini gives its talker, by the name of the voice prompt."""
    loaded = load_checkpoint(MINI, LoadOptions(device="cpu", dtype="float32", progress=False))
    stream = StreamingModel(loaded, context=1_024)
    prompts = {path.stem: read_voice(path) for path in sorted((MINI / "assets" / "voices").glob("*.wav"))}
    found: dict[str, Tensor] = {}
    for name, sound in {"default": None, **prompts}.items():
        state = stream.open()
        for message in (get_sys_prompt(sound, "omni", "en"), Message("user", [GREETING])):
            list(stream.executor.drive(stream.prefill(state, message)))
        row = stream.answer_prompt
        states = stream.executor.run([Feed(state, stream.embed(row.ids.tolist()))])[0]
        first, last = row.spk_bounds[-1]
        found[name] = stream.speaker(states[first:last]).clone()
        stream.pool.drop(state)
    return found
