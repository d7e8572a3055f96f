"""What the stages learned, put together into the checkpoint: bfloat16 safetensors under the official keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.config import OmniConfig
from engine.mini.layout import CHECKPOINT
from engine.mini.stages.training import begin_at
from engine.model.omni import OmniModel
from engine.model.vocos import Vocos

SOURCES: dict[str, tuple[tuple[str, str], ...]] = {
    "language": (("llm.", "llm."),),
    "words": (("apm.", "apm."), ("audio_projection_layer.", "audio_projection_layer.")),
    "seeing": (("vpm.", "vpm."), ("resampler.", "resampler.")),
    "listening": (("llm.", "llm."),),
    "codec": (("dvae.", "tts.dvae."),),
    "talker": tuple(
        (f"tts.{part}.", f"tts.{part}.") for part in ("projector", "emb_text", "emb_code", "model", "head_code")
    ),
}  # fmt: skip
"""Stage: prefixes of its modules and what they are called in the checkpoint. Later stages win. The talker holds a codec
too, for its data; the one that counts is the codec's own."""
SILENCE = -20.0
"""Logarithm of the magnitudes that a vocoder gives before it was trained."""
UNUSED = "tts.model.embed_tokens.weight"


def collect(
    config: OmniConfig, folder: Path, blend: float = 1.0
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """Weights of the model and of the vocoder, and the names of the stages that they come from.

    A stage that was unpacked and not trained since gives what was unpacked. What no stage has is random from a fixed
    seed; a talker that was not trained is made silent. With ``blend`` below 1 the model's weights lie so far on the way
    from what was unpacked to what was trained since: what is new is kept for the most part, and what a short training
    has made worse comes back (Wortsman et al., arXiv 2109.01903).
    """
    torch.manual_seed(0)
    model, vocos = OmniModel(config), Vocos(config.vocos)
    mute(model)
    with torch.no_grad():
        vocos.head.out.weight.zero_()
        vocos.head.out.bias[: config.vocos.n_fft // 2 + 1] = SILENCE
    found: dict[str, None] = {}
    unpacked: dict[str, Tensor] = {}
    for ending in ("start.pt", "pt"):
        for stage, prefixes in (*SOURCES.items(), ("vocoder", (("vocos.", ""),))):
            file = folder / f"{stage}.{ending}"
            if file.exists():
                held: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=False)["modules"]
                begin_at(vocos if stage == "vocoder" else model, _renamed(held, prefixes))
                found[stage] = None
        unpacked = unpacked or {key: weight.clone() for key, weight in model.state_dict().items()}
    state = model.state_dict()
    state = {key: torch.lerp(unpacked[key], weight, blend) for key, weight in state.items()} if blend < 1 else state
    state.pop(UNUSED, None)
    return state, vocos.state_dict(), list(found)


@torch.no_grad()
def mute(model: OmniModel) -> None:
    """Makes an untrained talker end its speech as soon as it may, with silence: better than noise."""
    tts = model.tts
    for parameter in (*tts.model.layers.parameters(), *tts.emb_text.parameters(), *tts.emb_code.parameters()):
        nn.init.zeros_(parameter)
    for module in tts.model.modules():
        if isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)
    tts.emb_text.weight[:, 0] = 1
    for table in tts.emb_code:
        table.weight[:, 0] = 1  # type: ignore[operator]
    for head in tts.head_code:
        gains, rows = head.parametrizations.weight.original0, head.parametrizations.weight.original1  # type: ignore[union-attr]
        rows.zero_()  # type: ignore[operator]
        rows[:, 1] = 1  # type: ignore[operator]
        rows[model.config.tts.audio_eos_id, 0] = 1  # type: ignore[operator]
        rows[model.config.tts.audio_eos_id, 1] = 0  # type: ignore[operator]
        gains.fill_(1)  # type: ignore[operator]
    for parameter in tts.dvae.out_conv.parameters():
        nn.init.zeros_(parameter)


def export(config: OmniConfig, folder: Path, target: Path = CHECKPOINT, blend: float = 1.0) -> list[str]:
    """Writes ``model.safetensors`` and ``assets/vocos.safetensors``; returns the stages that went in. ``blend``: see
    :func:`collect`."""
    model, vocos, found = collect(config, folder, blend)
    half = {k: v.to(torch.bfloat16).contiguous() for k, v in model.items()}
    save_file(half, target / "model.safetensors", metadata={"format": "pt"})
    save_file({k: v.to(torch.bfloat16).contiguous() for k, v in vocos.items()}, target / "assets" / "vocos.safetensors")
    return found


def unpack(folder: Path, source: Path = CHECKPOINT) -> list[str]:
    """The way back: what a checkpoint holds of each stage becomes that stage's start, ``<stage>.start.pt`` in float32.

    For going on where the state of the stages is lost. The optimizers and the heads that only training needs are not in
    a checkpoint and begin anew. Returns the names of the stages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = load_file(source / "model.safetensors")
    vocoder = load_file(source / "assets" / "vocos.safetensors")
    # What listened is where language goes on; listening itself begins with what language then is.
    starts = {
        stage: _renamed(state, [(new, old) for old, new in prefixes])
        for stage, prefixes in SOURCES.items()
        if stage != "listening"
    }
    starts["vocoder"] = _renamed(vocoder, [("", "vocos.")])
    for stage, modules in starts.items():
        torch.save({"modules": modules}, folder / f"{stage}.start.pt")
    return list(starts)


def _renamed(state: dict[str, Tensor], prefixes: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Weights under the first of one of ``prefixes`` as float32, called by the second instead."""
    return {
        new + key.removeprefix(old): value.float()
        for key, value in state.items()
        for old, new in prefixes
        if key.startswith(old)
    }
