"""Codes to waves, over rows and lengths of a few sizes that a card can repeat from a recording.

Rows are padded behind their end, and every convolution is shown zeros there, as behind the end of a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.conversation.blocks import power_of_two
from engine.conversation.captured import GraphRecorder, Key
from engine.model.omni import OmniModel
from engine.model.transfer import download, upload
from engine.model.vocos import Vocos

GRAIN = 32
"""Codes of which a row's length is a multiple."""

LONGEST = 256
"""Codes of a row beyond which there is no call: such waves are made as they are."""


class WaveBlocks:
    """The DVAE's decoder and the vocoder."""

    def __init__(self, model: OmniModel, vocos: Vocos, recorder: GraphRecorder, most: int) -> None:
        """``most`` rows at once."""
        self.model, self.vocos, self.recorder, self.most = model, vocos, recorder, most
        config = model.config
        self.samples_per_code = 2 * config.vocos.hop_length
        self.codes = torch.zeros(most, LONGEST, config.tts.num_vq, dtype=torch.int64, device=model.device)
        self.lengths = torch.zeros(most, dtype=torch.int64, device=model.device)
        self.waves = torch.zeros(most, LONGEST * self.samples_per_code, device=model.device)

    def run(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Codes int64 [N, num_vq] of each row, on the CPU -> waves float32 [N * samples_per_code], on the CPU."""
        if max(map(len, rows)) > LONGEST or len(rows) > self.most:
            return [self._plain(codes) for codes in rows]
        count, length = power_of_two(len(rows), self.most), -(-max(map(len, rows)) // GRAIN) * GRAIN
        table = torch.zeros(count, length, self.codes.shape[2], dtype=torch.int64)
        ends = torch.zeros(count, dtype=torch.int64)
        for index, codes in enumerate(rows):
            table[index, : len(codes)], ends[index] = codes, len(codes)
        self.codes[:count, :length].copy_(upload(table, self.model.device))
        self.lengths[:count].copy_(upload(ends, self.model.device))
        key: Key = ("wave", count, length, None)
        if self.recorder.news(*key):
            self.recorder.expect(key, lambda: self.step(count, length), lambda: None, unrolled=False)
        self.recorder.run(key, lambda: self.step(count, length))
        waves = download(self.waves[: len(rows), : length * self.samples_per_code])
        return [wave[: len(codes) * self.samples_per_code] for wave, codes in zip(waves, rows, strict=True)]

    def step(self, count: int, length: int) -> None:
        """Make the waves of the first ``count`` rows, which have up to ``length`` codes."""
        frames = torch.arange(2 * length, device=self.lengths.device)
        keep = (frames < 2 * self.lengths[:count, None])[:, None]
        codes = self.codes[:count, :length].transpose(1, 2)
        mel = self.model.tts.dvae.decode(codes, keep.to(self.model.dtype))
        self.waves[:count, : length * self.samples_per_code].copy_(self.vocos(mel, keep.float()))

    def _plain(self, codes: Tensor) -> Tensor:
        codes = upload(codes, self.model.device)[None].transpose(1, 2)
        return download(self.vocos(self.model.tts.dvae.decode(codes)))[0]
