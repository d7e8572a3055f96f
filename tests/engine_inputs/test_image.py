"""Pictures: grid, sizes, pixels."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.config import ImageConfig
from engine.errors import InputError
from engine.processing.image import ImageProcessor, choose_grid, fit_size, open_image, pad_slices, refined_size
from tests.engine_inputs.conftest import GoldenSet

SCALE, PATCH = 448, 14
CONFIG = ImageConfig(9, SCALE, PATCH, True, 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_slicing_table(tables: dict[str, list[dict[str, Any]]]) -> None:
    for row in tables["slicing_448"]:
        size = row["w"], row["h"]
        grid = choose_grid(size, row["max_slice_nums"], SCALE)
        assert (list(grid) if grid else None) == row["grid_cols_rows"]
        assert list(fit_size(size, SCALE, PATCH, enlarge=grid is None)) == row["source_resize_wh"]
        if grid:
            assert list(refined_size(size, grid, SCALE, PATCH)) == row["refine_wh"]


@pytest.mark.parametrize("case", ["single", "sliced"])
def test_pixels_are_exact(golden: GoldenSet, case: str) -> None:
    process = ImageProcessor(golden.config.image)
    image, limit = golden.image(f"img_{case}"), golden.manifest["image_cases"][case]["max_slice_nums"]
    pieces, _ = process.slice(image, limit)
    slices = process(image, limit)
    assert [list(size) for size in slices.sizes] == golden.expected[f"image.{case}.tgt_sizes"].tolist()
    for index, (piece, patches) in enumerate(zip(pieces, slices.patches, strict=True)):
        name = f"image.{case}.slice{index}"
        assert hashlib.sha256(np.asarray(piece).tobytes()).hexdigest() == golden.manifest["resized_u8_sha256"][name]
        wide = patches[:2].view(2, 3, PATCH, PATCH).permute(1, 2, 0, 3).reshape(3, PATCH, 2 * PATCH)
        assert torch.equal(wide, golden.expected[f"{name}.pixel_values_first2patches"])


@given(st.integers(1, 1500), st.integers(1, 1500), st.integers(1, 9))
def test_every_size_is_cut_into_whole_patches(width: int, height: int, limit: int) -> None:
    grid = choose_grid((width, height), limit, SCALE)
    assert grid is None or 2 <= grid[0] * grid[1] <= limit
    whole = fit_size((width, height), SCALE, PATCH, enlarge=grid is None)
    assert all(side >= PATCH and side % PATCH == 0 for side in whole)
    if grid is not None:
        refined = refined_size((width, height), grid, SCALE, PATCH)
        assert all(side % (PATCH * cells) == 0 for side, cells in zip(refined, grid, strict=True))


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK", "1", "I;16"])
def test_any_kind_of_picture_becomes_rgb(mode: str) -> None:
    slices = ImageProcessor(CONFIG)(Image.new(mode, (30, 20)), 1)
    assert slices.grid is None
    assert slices.patches[0].shape == (slices.sizes[0][0] * slices.sizes[0][1], 3 * PATCH**2)


def test_batches_are_padded_with_zeros() -> None:
    process = ImageProcessor(CONFIG)
    images = [process(Image.new("RGB", (900, 300), "white")), process(Image.new("RGB", (20, 20), "white"), 1)]
    patches, sizes = pad_slices(images)
    assert len(patches) == len(sizes) == sum(len(image.patches) for image in images)
    for row, (rows, columns) in zip(patches, sizes, strict=True):
        assert (row[: rows * columns] == 1).all()
        assert (row[rows * columns :] == 0).all()


def test_encoded_pictures_are_decoded(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(buffer, "PNG")
    path = tmp_path / "red.png"
    path.write_bytes(buffer.getvalue())
    assert open_image(buffer.getvalue()).getpixel((0, 0)) == open_image(path).getpixel((7, 5)) == (255, 0, 0)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"hello", lambda data: data[: len(data) // 2]])
def test_what_is_no_picture_is_refused(damage: Any) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(buffer, "JPEG")
    with pytest.raises(InputError, match="JPEG"):
        open_image(damage(buffer.getvalue()))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.png does not exist"):
        open_image(tmp_path / "nothing.png")
