"""Stage *seeing*: vision tower and resampler learn to put words into picture tokens (:meth:`Scene.slots`).

The same idea as for the ears: the target of a picture token is the fixed input embedding of a word, so that the
language model, which learned to answer from such words, can use real pictures at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from engine.config import OmniConfig
from engine.mini.stages.language import token_builder
from engine.mini.stages.training import Budget, Losses, chances, orthogonal, train
from engine.mini.world.rendering import PALETTE, render_with_plan
from engine.mini.world.scenes import CELLS, SLOTS, Scene, random_scene
from engine.mini.world.vocabulary import LETTERS, SHAPES, UNITS
from engine.mini.world.words import embedding_table, place_vectors
from engine.model.resampler import Resampler, sine_positions
from engine.model.vision import GridSize, SiglipVisionTower
from engine.processing.image import ImageProcessor, ImageSlices, pad_slices
from engine.processing.tokens import TokenBuilder

SEEN_WORDS = ("", "light", "dark", *UNITS[:10], *LETTERS, *PALETTE, *SHAPES)
"""Everything a picture token can say; the first is the blank."""


FORMS = (*SHAPES, *UNITS[:10], *LETTERS)
"""What the patches of a thing or a character are told to know, in training only."""
PLACED = 15.0
"""How much more the distance counts of a token that says where something is."""
GRID = (16, 12)
"""Columns and rows of patches in the most common picture."""


class Eyes(nn.Module):
    """Vision tower and resampler under their official names, and the words' embeddings."""

    def __init__(self, config: OmniConfig, builder: TokenBuilder) -> None:
        super().__init__()
        width = config.llm.hidden_size
        self.vpm = SiglipVisionTower(config.vision)
        self.resampler = Resampler(config.query_num, width, config.resampler_heads, config.vision.hidden_size)
        for parameter in self.vpm.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.04)
        nn.init.normal_(self.resampler.proj, std=width**-0.5)
        self._place(width)
        self.colour = nn.Linear(config.vision.hidden_size, len(PALETTE) + 1)
        self.form = nn.Linear(config.vision.hidden_size, len(FORMS) + 1)
        ids = [builder.text(" " + w)[0] if w else builder.specials.unknown for w in SEEN_WORDS]
        self.register_buffer("targets", embedding_table(config.llm.vocab_size, width)[ids].clone(), persistent=False)
        self.places: Tensor
        self.register_buffer("places", place_vectors(config.query_num, width), persistent=False)
        self.bias = nn.Parameter(torch.zeros(len(ids)))
        self.scale = nn.Parameter(torch.tensor(0.25))

    @torch.no_grad()
    def _place(self, width: int) -> None:
        """Gives patches and queries a sense of place to begin with: the positions of patches are sines of their rows
        and columns, and a query that answers for a cell of the grid looks around its middle."""
        table = self.vpm.embeddings.position_embedding.weight
        side = self.vpm.embeddings.grid
        sines = sine_positions(side, table.shape[1] // 2)
        table.copy_(0.5 * torch.cat([sines.repeat_interleave(side, 0), sines.repeat(side, 1)], 1))
        query = self.resampler.query
        nn.init.normal_(query, std=1.0)
        sines = sine_positions(max(GRID), width // 2)
        for slot in range(CELLS, SLOTS):
            row, column = divmod((slot - CELLS) // 2, 3)
            x, y = (int((cell + 0.5) / 3 * count) for cell, count in ((column, GRID[0]), (row, GRID[1])))
            query[slot] = torch.cat([sines[x], sines[y]]) + 0.1 * torch.randn(width)
        turned = orthogonal(width, width)
        self.resampler.attn.in_proj_weight[:width] = turned
        self.resampler.attn.in_proj_weight[width : 2 * width] = turned

    def features(self, images: list[ImageSlices]) -> tuple[Tensor, tuple[GridSize, ...]]:
        """What the tower sees in each patch [B, L, vision width], and the grids."""
        patches, sizes = pad_slices(images)
        return self.vpm(patches.to(self.bias.device), sizes), sizes

    def forward(self, images: list[ImageSlices]) -> Tensor:
        """Pictures, one slice each → picture tokens [B, queries, hidden]."""
        out: Tensor = self.resampler(*self.features(images))
        return out

    def meant(self, log: Tensor) -> Tensor:
        """Mean embedding that each picture token claims, with its place where it claims a shape: [B, queries, hidden]
        from :meth:`scores`."""
        shares = log.exp()
        return shares @ self.targets + (1 - shares[..., :1]) * self.places  # type: ignore[operator]

    def scores(self, tokens: Tensor) -> Tensor:
        """Log-probabilities of :data:`SEEN_WORDS` for each picture token."""
        return (self.scale * tokens @ self.targets.T + self.bias).log_softmax(-1)  # type: ignore[operator]


def scene_batch(config: OmniConfig, seed: int, size: int, ramp: int) -> Callable[[int], Any]:
    """Pictures with their words, more difficult as ``ramp`` steps go by."""
    process = ImageProcessor(config.image)

    def make(step: int) -> tuple[list[ImageSlices], list[Scene], Tensor, Tensor]:
        _, source = chances(seed, step)
        difficulty = min(1.0, 0.2 + step / ramp) if ramp else 1.0
        scenes = [random_scene(source, characters=0.4) for _ in range(size)]
        drawn = [render_with_plan(scene, source, difficulty) for scene in scenes]
        images = [process(picture, 1) for picture, _ in drawn]
        targets = [
            patch_targets(scene, plan, image.sizes[0])
            for scene, (_, plan), image in zip(scenes, drawn, images, strict=True)
        ]
        colours, forms = (
            nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=-100)
            for rows in zip(*targets, strict=True)
        )
        return images, scenes, colours, forms

    return make


def patch_targets(scene: Scene, plan: Image.Image, grid: GridSize) -> tuple[Tensor, Tensor]:
    """What is in each patch: index into the palette and into :data:`FORMS`, each plus one; 0 for the background."""
    rows, columns = grid
    there = np.asarray(plan.resize((columns, rows), Image.Resampling.NEAREST)).flatten().astype(np.int64)
    colours = [0, *(list(PALETTE).index(t.colour) + 1 for t in scene.things)]
    forms = [0, *(FORMS.index(t.shape) + 1 for t in scene.things)]
    if scene.character:
        colours, forms = [0, -100], [0, FORMS.index(scene.character_word) + 1]
    return torch.tensor(colours)[there], torch.tensor(forms)[there]


def slot_targets(scenes: list[Scene], queries: int) -> Tensor:
    """Index into :data:`SEEN_WORDS` of every picture token, int64 [B, queries]."""
    rows = [[SEEN_WORDS.index(word) for word in scene.slots()] for scene in scenes]
    return F.pad(torch.tensor(rows), (0, queries - SLOTS))


def train_seeing(
    config: OmniConfig, folder: Path, budget: Budget, *, seed: int = 4, size: int = 12, workers: int = 0,
    until: int | None = None, device: str = "cpu",
) -> Eyes:  # fmt: skip
    """Runs or resumes the stage."""
    torch.manual_seed(seed)
    eyes = Eyes(config, token_builder(config)).to(device)
    weights = torch.full((len(SEEN_WORDS),), 2.0)
    weights[0] = 0.5

    def loss(made: Any, _: float) -> Losses:
        images, scenes, colours, forms = made
        features, sizes = eyes.features(images)
        tokens = eyes.resampler(features, sizes)
        log = eyes.scores(tokens)
        aims = slot_targets(scenes, tokens.shape[1]).to(log.device)
        named = F.nll_loss(log.flatten(0, 1), aims.flatten(), weights.to(log.device))
        # Where a shape is shows in few tokens and not in their words: it would be learned last, or never.
        placed = 1 + PLACED * (1 - log[..., 0].detach().exp()) * eyes.places.any(1)
        distance = (placed[..., None] * (tokens - eyes.meant(log.detach())).square()).mean()
        colour = F.cross_entropy(eyes.colour(features).float().flatten(0, 1), colours.flatten().to(log.device))
        form = F.cross_entropy(eyes.form(features).float().flatten(0, 1), forms.flatten().to(log.device))
        return {"loss": named + 0.5 * distance + colour + form, "named": named, "distance": distance,
                "colour": colour, "form": form}  # fmt: skip

    def evaluate() -> dict[str, float]:
        judge = scene_batch(config, seed + 1000, 60, 0)
        right: dict[str, list[bool]] = {
            "light": [],
            "count": [],
            "character": [],
            "colour": [],
            "shape": [],
            "empty": [],
        }
        for step in range(2):
            images, scenes, _, _ = judge(step)
            best = eyes.scores(eyes(images)).argmax(-1).cpu()
            aims = slot_targets(scenes, best.shape[1])
            for row, aim in zip((best == aims).tolist(), aims.tolist(), strict=True):
                right["light"].append(row[0])
                right["count"].append(row[1])
                right["character" if aim[2] else "empty"].append(row[2])
                for slot in range(CELLS, SLOTS):
                    right[("shape" if slot % 2 == 0 else "colour") if aim[slot] else "empty"].append(row[slot])
        return {f"acc_{name}": sum(hits) / max(1, len(hits)) for name, hits in right.items()}

    train("seeing", folder, eyes, scene_batch(config, seed, size, max(1, budget.steps // 3)), loss, budget,
          workers=workers, until=until, evaluate=evaluate, every=180)  # fmt: skip
    return eyes
