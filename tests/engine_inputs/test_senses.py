"""Vision tower, resampler and audio encoder against the goldens, and their batching."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from torch import Tensor

from engine.checkpoint.loader import LoadedModel
from engine.model.audio import AudioEncoder, conv_length, pool, token_length
from engine.model.kv import KVArena, whole
from engine.model.omni import OmniModel
from engine.model.vision import bucket_positions, position_ids
from engine.processing.image import ImageProcessor, pad_slices
from engine.processing.mel import MelExtractor
from tests.engine_inputs.conftest import GoldenSet, assert_close

STREAM = ["unit0", "unit1", "unit2", "unit3"]


@pytest.mark.parametrize("grid", [70, 32, 40])
def test_position_cells_are_exact(tables: dict[str, dict[str, list[int]]], grid: int) -> None:
    for patches, cells in tables[f"navit_bucket_grid{grid}"].items():
        assert bucket_positions(int(patches), grid).tolist() == cells


def test_padding_takes_position_zero() -> None:
    ids = position_ids(((1, 2), (2, 2)), 5, 2, torch.device("cpu"))
    assert ids.tolist() == [[0, 1, 0, 0, 0], [0, 1, 2, 3, 0]]


@torch.inference_mode()
@pytest.mark.parametrize("case", ["single", "sliced"])
def test_pictures_equal_the_goldens(golden: GoldenSet, loaded: LoadedModel, case: str) -> None:
    slices = ImageProcessor(golden.config.image)(
        golden.image(f"img_{case}"), golden.manifest["image_cases"][case]["max_slice_nums"]
    )
    patches, sizes = pad_slices([slices])
    features = loaded.model.vpm(patches, sizes)
    for index, (rows, columns) in enumerate(sizes):
        expected = golden.expected[f"image.{case}.slice{index}.vpm"]
        step = -(-rows * columns // len(expected))
        assert_close(features[index, : rows * columns : step], expected)
    assert_close(loaded.model.resampler(features, sizes), golden.expected[f"image.{case}.resampler"])


@torch.inference_mode()
def test_a_picture_does_not_depend_on_its_batch(golden: GoldenSet, loaded: LoadedModel) -> None:
    process = ImageProcessor(golden.config.image)
    images = [process(golden.image(name), 1) for name in ("img_single", "unit0_image", "unit1_image")] * 7
    assert len(images) > golden.config.vision.batch_size
    together = loaded.model.see(*pad_slices(images))
    for index in (0, 1, 2, 19):
        torch.testing.assert_close(together[index : index + 1], loaded.model.see(*pad_slices([images[index]])))


def test_the_senses_train(golden: GoldenSet) -> None:
    config = golden.config
    model = OmniModel(config)
    patches, sizes = pad_slices([ImageProcessor(config.image)(golden.image("unit0_image"), 1)])
    model.see(patches, sizes).sum().backward()
    mel = torch.randn(2, config.mel.num_mel_bins, 40)
    hidden = model.apm(mel, [40, 30])
    pool(model.audio_projection_layer(hidden), config.audio.pool_step).sum().backward()
    for part in (model.vpm, model.resampler, model.apm, model.audio_projection_layer):
        assert all(weight.grad is not None for weight in part.parameters())


@torch.inference_mode()
@pytest.mark.parametrize(("name", "chunk_length"), [("full", -1.0), ("chunk1s", 1.0)])
def test_whole_clips_equal_the_goldens(golden: GoldenSet, loaded: LoadedModel, name: str, chunk_length: float) -> None:
    extract = MelExtractor(golden.config.mel)
    mels = [extract(golden.sounds[f"batch_audio{index}"]) for index in range(3)]
    lengths = [mel.shape[-1] for mel in mels]
    assert lengths == golden.expected["batch_audio.mel_lens"].tolist()
    batch = torch.nn.utils.rnn.pad_sequence([mel.T for mel in mels], batch_first=True).transpose(1, 2)
    hidden = loaded.model.apm(batch, lengths, chunk_length=chunk_length)
    assert_close(hidden[1, ::2], golden.expected[f"batch_audio.{name}.apm_last_hidden_item1_every2nd"])
    pooled = pool(loaded.model.audio_projection_layer(hidden), golden.config.audio.pool_step)
    for index, length in enumerate(lengths):
        tokens = token_length(length, golden.config.audio.pool_step)
        assert_close(pooled[index, :tokens:2], golden.expected[f"batch_audio.{name}.embeds{index}_every2nd"])


def arena(apm: AudioEncoder, slots: int = 1) -> KVArena:
    config = apm.config
    return KVArena(config.num_layers, config.num_heads, config.head_dim, slots=slots, max_capacity=config.max_positions)


@torch.inference_mode()
def test_streamed_sound_equals_the_goldens(golden: GoldenSet, loaded: LoadedModel) -> None:
    apm, cache = loaded.model.apm, arena(loaded.model.apm)
    for turn in (["sys"], STREAM, ["turn2_unit0", "turn2_unit1"], ["turn3_unit0"]):
        held = 0
        for name in turn:
            mel = golden.expected[f"stream.{name}.mel"]
            frames = conv_length(mel.shape[2])
            hidden = apm.stream(mel, [mel.shape[2]], cache.place([0], [held], [frames], sight=whole))
            held += frames
            assert held == golden.manifest["apm_cache_len_after"][f"stream.{name}"]
            assert_close(hidden[0], golden.expected[f"stream.{name}.apm_last_hidden"])
            projected = loaded.model.audio_projection_layer(hidden)
            assert_close(projected[0], golden.expected[f"stream.{name}.audio_projection"])


@torch.inference_mode()
def test_streams_in_one_batch_do_not_see_each_other(golden: GoldenSet, loaded: LoadedModel) -> None:
    """Chunks of different lengths behind pasts of different lengths, as if each session were alone."""
    apm = loaded.model.apm
    mels = [golden.expected[f"stream.{name}.mel"][0] for name in STREAM]
    pasts = [mels[:0], mels[:1], mels[:2], mels[1:2]]

    def past_of(cache: KVArena, slot: int, past: list[Tensor]) -> int:
        lengths = [conv_length(mel.shape[1]) for mel in past]
        starts = [0, *accumulate(lengths)]
        for mel, start, frames in zip(past, starts, lengths, strict=False):
            apm.stream(mel[None], [mel.shape[1]], cache.place([slot], [start], [frames], sight=whole))
        return starts[-1]

    together = arena(apm, slots=4)
    starts = [past_of(together, slot, past) for slot, past in enumerate(pasts)]
    lengths = [mel.shape[1] for mel in mels]
    padded = torch.nn.utils.rnn.pad_sequence([mel.T for mel in mels], batch_first=True).transpose(1, 2)
    frames = [conv_length(length) for length in lengths]
    hidden = apm.stream(padded, lengths, together.place(range(4), starts, frames, sight=whole))
    for index, (mel, past) in enumerate(zip(mels, pasts, strict=True)):
        alone = arena(apm)
        start = past_of(alone, 0, past)
        single = apm.stream(mel[None], [lengths[index]], alone.place([0], [start], [frames[index]], sight=whole))
        torch.testing.assert_close(hidden[index, : frames[index]], single[0], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_positions_beyond_the_table_repeat_its_last_row(loaded: LoadedModel) -> None:
    apm = loaded.model.apm
    limit = apm.config.max_positions
    cache = KVArena(apm.config.num_layers, apm.config.num_heads, apm.config.head_dim, capacity=limit + 8)
    mel = torch.randn(1, apm.config.num_mel_bins, 8)
    hidden = apm.stream(mel, [8], cache.place([0], [limit - 2], [4], sight=whole))
    assert torch.isfinite(hidden).all()


def test_token_counts(tables: dict[str, list[dict[str, list[int]]]]) -> None:
    assert [token_length(frames) for frames in (1, 2, 3, 50, 55, 100, 102, 103)] == [0, 0, 1, 12, 14, 25, 25, 26]
    for row in tables["audio_tokens_chunk_input_true"]:
        assert token_length(sum(row["mel_lens"])) == sum(row["placeholder_groups"])
