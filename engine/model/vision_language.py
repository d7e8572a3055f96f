"""A language model that sees: all of a MiniCPM-V model, and the part of MiniCPM-o that it shares with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.config import VisionLanguageConfig
from engine.model.llm import LanguageModel
from engine.model.resampler import Resampler
from engine.model.timm_vision import TimmVisionTower
from engine.model.vision import GridSize, SiglipVisionTower


class VisionLanguageModel(nn.Module):
    """Language and eyes (``llm.*``, ``vpm.*``, ``resampler.*``), as the configuration says."""

    config: VisionLanguageConfig
    vpm: SiglipVisionTower | TimmVisionTower

    def __init__(self, config: VisionLanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.llm = LanguageModel(config.llm)
        if config.sees:
            timm = config.vision.tower == "timm"
            self.vpm = TimmVisionTower(config.vision) if timm else SiglipVisionTower(config.vision)
            self.resampler = Resampler(
                config.query_num,
                config.llm.hidden_size,
                config.resampler_heads,
                config.vision.hidden_size,
                placed=timm,
            )

    @property
    def device(self) -> torch.device:
        return self.llm.model.norm.weight.device

    @property
    def is_spread(self) -> bool:
        """Whether layers of the language model are on other devices."""
        return any(weight.device != self.device for weight in self.llm.parameters())

    @property
    def dtype(self) -> torch.dtype:
        return self.llm.model.norm.weight.dtype

    def join(self) -> None:
        """See :meth:`engine.model.decoder.Decoder.join`."""
        self.llm.model.join()
        if self.config.sees and isinstance(self.vpm, SiglipVisionTower):
            self.vpm.join()

    def see(self, patches: Tensor, sizes: Sequence[GridSize]) -> Tensor:
        """Patches of S slices and their grids (rows, columns) -> [S, query_num, hidden].

        Where ``config.vision.mixes_slices``, what is seen in a slice depends on the longest slice of the call: the
        published code makes one call for all pictures of a conversation.
        """
        out: Tensor = self.resampler(self.vpm(patches, sizes), sizes)
        return out
