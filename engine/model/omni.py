"""The whole model: eyes, ears, language and voice in one module tree with the official keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.config import OmniConfig
from engine.model.audio import AudioEncoder, AudioProjector
from engine.model.llm import QwenDecoder
from engine.model.resampler import Resampler
from engine.model.tts import ConditionalChatTTS
from engine.model.vision import GridSize, SiglipVisionTower
from engine.model.word_decoder import WordDecoder


class OmniModel(nn.Module):
    """MiniCPM-o 2.6 without its vocoder, which is a module and a file of its own (:mod:`engine.model.vocos`).

    ``reader`` is None in the official model: a part of those that understand by reading words.
    """

    def __init__(self, config: OmniConfig) -> None:
        super().__init__()
        self.config = config
        width = config.llm.hidden_size
        self.llm = QwenDecoder(config.llm)
        if config.sees:
            self.vpm = SiglipVisionTower(config.vision)
            self.resampler = Resampler(config.query_num, width, config.resampler_heads, config.vision.hidden_size)
        self.apm = AudioEncoder(config.audio)
        self.audio_projection_layer = AudioProjector(config.audio.ffn_dim // 4, width)
        self.tts = ConditionalChatTTS(config.tts, config.dvae)
        self.reader = None if config.reader is None else WordDecoder(config.reader)

    @property
    def device(self) -> torch.device:
        return self.llm.model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.llm.model.norm.weight.dtype

    def see(self, patches: Tensor, sizes: Sequence[GridSize]) -> Tensor:
        """Patches of S slices and their grids (rows, columns) -> [S, query_num, hidden]."""
        out: Tensor = self.resampler(self.vpm(patches, sizes), sizes)
        return out
