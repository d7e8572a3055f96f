"""Stages ``image`` and ``batch_audio``: pixels, placeholders, vision tower, resampler, whole-clip audio encoder."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.conversation.streaming import StreamingModel
from engine.model.audio import pool, token_length
from engine.parity.goldens import GoldenSet
from engine.parity.ledger import EXACT, SIGNAL, StageRow
from engine.parity.sampled import kept_close, kept_same
from engine.processing.image import pad_slices
from engine.processing.mel import split_clips
from engine.processing.tokens import AudioSlot, ImageSlot

EVERY = r"every(\d+)(?:st|nd|rd|th)?"


@torch.inference_mode()
def compare_images(goldens: GoldenSet, stream: StreamingModel, row: StageRow) -> None:
    hashes = goldens.manifest.get("resized_u8_sha256", {})
    for case, settings in goldens.section("image_cases").items():
        _compare_image(goldens, stream, row, f"image.{case}", goldens.picture(f"img_{case}"), settings, hashes)


def _compare_image(
    goldens: GoldenSet, stream: StreamingModel, row: StageRow, name: str, picture: Any, settings: Any, hashes: Any
) -> None:
    resized, _ = stream.images.slice(picture, settings["max_slice_nums"])
    slices = stream.images(picture, settings["max_slice_nums"])
    row.same(f"{name}.n_slices", len(resized), settings["n_slices"])
    kept_same(goldens, row, f"{name}.tgt_sizes", [list(size) for size in slices.sizes])
    tokens = stream.builder([ImageSlot(slices.grid)], use_image_id=settings["use_image_id"])
    kept_same(goldens, row, f"{name}.input_ids", tokens.ids)
    kept_same(goldens, row, f"{name}.image_bound", tokens.image_bounds)
    patches, sizes = pad_slices([slices])
    features = stream.model.vpm(patches, sizes)
    for index, (piece, pixels, size) in enumerate(zip(resized, slices.patches, slices.sizes, strict=True)):
        key = f"{name}.slice{index}"
        raw = np.asarray(piece)
        if key in hashes:
            row.same(f"{key}.resized_u8_sha256", hashlib.sha256(raw.tobytes()).hexdigest(), hashes[key])
        shown = goldens.folder / "images" / f"expected.{key}.resized_u8.png"
        if shown.is_file():
            expected = np.asarray(goldens.picture(shown.stem))
            row.same(f"{key}.resized_u8.png", raw[: expected.shape[0]], expected)
        for wanted, found in goldens.keys(rf"{key}\.pixel_values_first(\d+)patches"):
            row.close(wanted, _patchified(pixels, int(found[1])), goldens.take(wanted), EXACT)
        kept_close(goldens, row, f"{key}.vpm", features[index, : size[0] * size[1]])
    kept_close(goldens, row, f"{name}.resampler", stream.model.resampler(features, sizes))


def _patchified(patches: Tensor, count: int) -> Tensor:
    """The first patches in the published layout [3, patch, count * patch]."""
    side = int((patches.shape[1] // 3) ** 0.5)
    return patches[:count].view(count, 3, side, side).permute(1, 2, 0, 3).reshape(3, side, count * side)


@torch.inference_mode()
def compare_batch_audio(goldens: GoldenSet, stream: StreamingModel, row: StageRow) -> None:
    count = sum(name.startswith("batch_audio") for name in goldens.sounds)
    sounds = [goldens.sounds[f"batch_audio{index}"] for index in range(count)]
    mels = [stream.mel(clip) for sound in sounds for clip in split_clips(sound, stream.config.mel)]
    lengths = [mel.shape[1] for mel in mels]
    kept_same(goldens, row, "batch_audio.mel_lens", lengths)
    for sound, placeholders in zip(sounds, goldens.section("batch_audio_placeholders"), strict=True):
        bounds = stream.builder([AudioSlot(len(sound))]).audio_bounds
        groups = [int((bounds[:, 1] - bounds[:, 0]).sum()), len(bounds)]
        row.same("batch_audio_placeholders", groups, placeholders)
    batch = torch.nn.utils.rnn.pad_sequence([mel.T for mel in mels], batch_first=True).transpose(1, 2)
    for index in range(len(batch)):
        kept_close(goldens, row, f"batch_audio.mel_item{index}", batch[index], SIGNAL)
    step = stream.config.audio.pool_step
    variants = sorted({found[1] for _, found in goldens.keys(r"batch_audio\.(full|chunk[\d.]+s)\..*")})
    for variant in variants:
        seconds = -1.0 if variant == "full" else float(variant[len("chunk") : -1])
        states = stream.model.apm(batch, lengths, chunk_length=seconds)
        vectors = pool(stream.model.audio_projection_layer(states), step)
        for clip, length in enumerate(lengths):
            kept_close(goldens, row, f"batch_audio.{variant}.apm_last_hidden_item{clip}", states[clip])
            kept_close(goldens, row, f"batch_audio.{variant}.embeds{clip}", vectors[clip, : token_length(length, step)])
