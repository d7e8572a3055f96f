"""Pictures → slices → normalised patches, pixel by pixel as the model was trained.

A large picture is cut into a grid of cells whose shape comes close to the model's square, with a small copy of the
whole in front ("adaptive slicing" of LLaVA-UHD, arXiv 2403.11703, with MiniCPM-V's sizes).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from engine.config import ImageConfig
from engine.media.picture import Encoded, make_upright, open_picture
from engine.model.vision import GridSize

Grid = tuple[int, int]
"""Cells of a cut picture: (columns, rows)."""

Size = tuple[int, int]
"""Pixels: (width, height)."""


def open_image(source: Image.Image | Encoded) -> Image.Image:
    """An upright RGB picture from a picture of any mode, an encoded file's bytes or a path. Raises InputError."""
    return make_upright(source) if isinstance(source, Image.Image) else open_picture(source)


def choose_grid(size: Size, max_slices: int, scale: int) -> Grid | None:
    """The grid that a picture is cut into, None for a picture that stays whole.

    About one cell per ``scale``² pixels, at most ``max_slices``; of all grids with that number of cells, one more or
    one less, the one whose shape comes closest to the picture's.
    """
    width, height = size
    wanted = min(math.ceil(width * height / scale**2), max_slices)
    if wanted <= 1:
        return None
    counts = [n for n in (wanted - 1, wanted, wanted + 1) if 1 < n <= max_slices]
    grids = [(columns, n // columns) for n in counts for columns in range(1, n + 1) if n % columns == 0]
    shape = math.log(width / height)
    return min(grids, key=lambda grid: abs(shape - math.log(grid[0] / grid[1])), default=None)


def to_multiple(length: float, unit: int) -> int:
    """The multiple of ``unit`` nearest to ``length`` (ties to the even multiple), at least one ``unit``."""
    return max(round(length / unit) * unit, unit)


def fit_size(size: tuple[float, float], scale: int, patch: int, *, enlarge: bool) -> Size:
    """``size`` brought to an area of about ``scale``² pixels, sides being multiples of ``patch``; smaller pictures
    only grow with ``enlarge``."""
    width, height = size
    if enlarge or width * height > scale**2:
        ratio = width / height
        height = int(scale / math.sqrt(ratio))
        width = int(height * ratio)
    return to_multiple(width, patch), to_multiple(height, patch)


def refined_size(size: Size, grid: Grid, scale: int, patch: int) -> Size:
    """Size that a picture is brought to before it is cut into ``grid``."""
    cell = tuple(to_multiple(side, cells) / cells for side, cells in zip(size, grid, strict=True))
    width, height = fit_size((cell[0], cell[1]), scale, patch, enlarge=True)
    return width * grid[0], height * grid[1]


@dataclass(frozen=True, slots=True)
class ImageSlices:
    """One picture, ready for the vision tower."""

    patches: tuple[Tensor, ...]
    """Per slice float32 ``[rows · columns, channels · patch²]``, every patch flattened as (channel, row, column)."""
    sizes: tuple[GridSize, ...]
    """Rows and columns of patches of each slice."""
    grid: Grid | None
    """How the picture was cut; the first slice is then the small copy of the whole."""


class ImageProcessor:
    """Cuts, resizes and normalises pictures with the settings of ``preprocessor_config.json``."""

    def __init__(self, config: ImageConfig) -> None:
        self.config = config
        self._mean = np.asarray(config.norm_mean, np.float32)[:, None]
        self._std = np.asarray(config.norm_std, np.float32)[:, None]

    def slice(self, image: Image.Image, max_slices: int | None = None) -> tuple[list[Image.Image], Grid | None]:
        """Resized RGB slices of a picture, the small whole first, then the grid's cells row by row.

        ``max_slices`` None takes the configuration's.
        """
        image = open_image(image)
        scale, patch = self.config.scale_resolution, self.config.patch_size
        grid = choose_grid(image.size, max_slices or self.config.max_slice_nums, scale)
        whole = fit_size(image.size, scale, patch, enlarge=grid is None)
        slices = [image.resize(whole, Image.Resampling.BICUBIC)]
        if grid is not None:
            fine = image.resize(refined_size(image.size, grid, scale, patch), Image.Resampling.BICUBIC)
            slices.extend(_cells(fine, grid))
        return slices, grid

    def __call__(self, image: Image.Image, max_slices: int | None = None) -> ImageSlices:
        """Process one picture. Raises InputError for a picture that cannot be decoded."""
        slices, grid = self.slice(image, max_slices)
        patches, sizes = zip(*(self.patchify(np.asarray(piece)) for piece in slices), strict=True)
        return ImageSlices(patches, sizes, grid)

    def patchify(self, pixels: NDArray[np.uint8]) -> tuple[Tensor, GridSize]:
        """Normalise uint8 ``[H, W, 3]`` and cut it into patches: float32 ``[rows · columns, 3 · patch²]`` and the
        number of rows and columns."""
        patch = self.config.patch_size
        rows, columns = pixels.shape[0] // patch, pixels.shape[1] // patch
        cells = pixels.reshape(rows, patch, columns, patch, 3).transpose(0, 2, 4, 1, 3).reshape(rows * columns, 3, -1)
        flat = cells.astype(np.float32)
        flat /= np.float32(255)
        flat -= self._mean
        flat /= self._std
        return torch.from_numpy(flat.reshape(rows * columns, -1)), (rows, columns)


def _cells(image: Image.Image, grid: Grid) -> Iterator[Image.Image]:
    width, height = image.width // grid[0], image.height // grid[1]
    for top in range(0, image.height, height):
        for left in range(0, image.width, width):
            yield image.crop((left, top, left + width, top + height))


def pad_slices(images: list[ImageSlices]) -> tuple[Tensor, tuple[GridSize, ...]]:
    """Batch the slices of several pictures for the vision tower: float32 ``[B, L, …]`` padded with zeros, and sizes."""
    patches = [piece for image in images for piece in image.patches]
    sizes = tuple(size for image in images for size in image.sizes)
    return torch.nn.utils.rnn.pad_sequence(patches, batch_first=True), sizes
