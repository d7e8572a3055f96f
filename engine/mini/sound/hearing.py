"""How training sees sound: exactly as the streaming encoder does, but many utterances at once.

In a call every unit of one second is a clip of its own: its own log-mel with its own maximum, zeros at the borders of
the convolutions, attention to the past and to itself. Here the units of an utterance are rows of one batch until the
convolutions are done, then they are joined again under a mask of one-second blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from engine.config import MelConfig
from engine.mini.sound.synthesis import PHONE_CLASSES
from engine.model.audio import AudioEncoder, conv_length
from engine.processing.mel import DYNAMIC_RANGE, FLOOR, mel_filters, mel_length

UNIT = 16_000
FRAMES = 50
"""Encoder frames of a unit."""
WARPS = tuple(float(w) for w in np.exp(np.linspace(-0.13, 0.13, 9)))
"""Vocal-tract lengths: factors on the frequency axis; the middle one is 1."""


class WarpedMel:
    """Log-mel of whole units, with an optional change of vocal-tract length and an equalizer for each utterance."""

    def __init__(self, config: MelConfig) -> None:
        self.config = config
        self.window = torch.hann_window(config.n_fft)
        base = mel_filters(config.num_mel_bins, config.n_fft, config.sampling_rate)
        bins = np.arange(base.shape[0])
        banks = [np.stack([np.interp(bins / w, bins, base[:, m]) for m in range(base.shape[1])], 1) for w in WARPS]
        self.banks = torch.from_numpy(np.stack(banks)).float()

    def to(self, device: torch.device | str) -> WarpedMel:
        self.window, self.banks = self.window.to(device), self.banks.to(device)
        return self

    def __call__(self, units: Tensor, warp: Tensor | None = None, equalizer: Tensor | None = None) -> Tensor:
        """``units`` float [N, 16000], ``warp`` int64 [N] into :data:`WARPS`, ``equalizer`` log-power gains
        [N, n_fft/2+1] → [N, mel bins, 100]."""
        half, hop = self.config.n_fft // 2, self.config.hop_length
        x = torch.cat((units[:, 1 : half + 1].flip(1), units, units.new_zeros(len(units), self.config.n_fft)), 1)
        spectrum = torch.fft.rfft(x.unfold(1, self.config.n_fft, hop) * self.window)
        power = spectrum.real.square() + spectrum.imag.square()
        if equalizer is not None:
            power = power * equalizer[:, None].exp()
        bank = self.banks[len(WARPS) // 2] if warp is None else self.banks[warp]
        energy = power @ bank
        log = energy.clamp_(min=FLOOR).log10_()[:, : UNIT // hop + 2]
        log = torch.maximum(log, log.amax((1, 2), keepdim=True) - DYNAMIC_RANGE)
        return ((log + 4) / 4)[:, : UNIT // hop].transpose(1, 2)


@dataclass(slots=True)
class HeardBatch:
    """Utterances as units. ``units`` [B, n, 16000] float32; ``lengths`` samples of each."""

    units: Tensor
    lengths: list[int]
    warp: Tensor | None = None
    equalizer: Tensor | None = None

    @property
    def frames(self) -> list[int]:
        """Encoder frames of each utterance: 50 of a whole unit, fewer of the last one."""
        return [n // UNIT * FRAMES + (conv_length(mel_length(n % UNIT)) if n % UNIT else 0) for n in self.lengths]

    def part(self, rows: list[int]) -> HeardBatch:
        """Some of the utterances, with no more silence behind them than they need."""
        lengths = [self.lengths[row] for row in rows]
        warp, equalizer = (None if x is None else x[rows] for x in (self.warp, self.equalizer))
        return HeardBatch(self.units[rows, : -(-max(lengths) // UNIT)], lengths, warp, equalizer)


def to_units(samples: list[NDArray[np.float32]]) -> HeardBatch:
    """Pads utterances with zeros to whole units."""
    count = max(-(-len(x) // UNIT) for x in samples)
    units = np.zeros((len(samples), count * UNIT), np.float32)
    for row, x in zip(units, samples, strict=True):
        row[: len(x)] = x
    return HeardBatch(torch.from_numpy(units.reshape(len(samples), count, UNIT)), [len(x) for x in samples])


def encode_units(
    encoder: AudioEncoder,
    mel: WarpedMel,
    batch: HeardBatch,
    *,
    position: int = 0,
    mask_bands: torch.Generator | None = None,
) -> Tensor:
    """Hidden states [B, n·50, d_model]; those behind an utterance's :attr:`HeardBatch.frames` are meaningless.

    ``mask_bands`` hides random bands of frequency and time (SpecAugment, arXiv 1904.08779).
    """
    size, count, _ = batch.units.shape
    device = encoder.conv1.weight.device

    def each(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(device).repeat_interleave(count, 0)

    features = mel(batch.units.to(device).flatten(0, 1), each(batch.warp), each(batch.equalizer))
    if mask_bands is not None:
        features = spec_augment(features.unflatten(0, (size, count)), mask_bands).flatten(0, 1)
    inside = [min(max(n - UNIT * k, 0), UNIT) for n in batch.lengths for k in range(count)]
    lens = [mel_length(n) for n in inside]
    exists = torch.arange(features.shape[2]) < torch.tensor(lens)[:, None]
    features = features * exists[:, None].to(device)
    x = encoder._convolve(features, lens).unflatten(0, (size, count)).flatten(1, 2)
    frames = torch.tensor(batch.frames)
    index = torch.arange(count * FRAMES)
    blocks = index[None, :] // FRAMES <= index[:, None] // FRAMES
    mask = blocks[None] & (index < frames[:, None])[:, None]
    x = x + encoder.embed_positions.weight[position : position + count * FRAMES]
    return encoder._transform(x, mask[:, None].to(device), None)


def spec_augment(features: Tensor, generator: torch.Generator) -> Tensor:
    """Two bands of up to 12 mel bins and, per unit, one stretch of up to 120 ms are set to the unit's mean.
    ``features`` [B, n, bins, 100]."""
    size, count, bins, steps = features.shape
    keep = torch.ones(size, count, bins, steps, dtype=torch.bool)
    for width, axis, length in ((12, 2, bins), (12, 2, bins), (12, 3, steps)):
        shape = (size, 1 if axis == 2 else count)
        start = torch.randint(0, length, shape, generator=generator)
        stop = start + torch.randint(0, width + 1, shape, generator=generator)
        index = torch.arange(length)
        hidden = (index >= start[..., None]) & (index < stop[..., None])
        keep &= ~(hidden[:, :, :, None] if axis == 2 else hidden[:, :, None, :])
    mean = features.mean((2, 3), keepdim=True)
    return torch.where(keep.to(features.device), features, mean)


class PhoneHeads(nn.Module):
    """Heads that exist in training only: what phones were said (CTC), and which one each frame belongs to."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ctc = nn.Linear(width, PHONE_CLASSES)
        self.frame = nn.Linear(width, PHONE_CLASSES)

    def loss(self, hidden: Tensor, frames: list[int], phones: list[list[int]], labels: Tensor) -> tuple[Tensor, Tensor]:
        """``phones`` classes of each utterance, ``labels`` int64 [B, T] phone class of each frame or -100.
        Returns the CTC loss per phone and the frames' cross-entropy."""
        log = self.ctc(hidden).float().log_softmax(-1).transpose(0, 1)
        labels = labels.to(hidden.device)
        lengths = torch.tensor([len(p) for p in phones])
        flat = torch.tensor([c for p in phones for c in p], device=log.device)
        ctc = F.ctc_loss(log, flat, torch.tensor(frames), lengths, zero_infinity=True, reduction="none")
        ctc = (ctc / lengths.clamp(min=1).to(ctc.device)).mean()
        if not (labels >= 0).any():
            return ctc, ctc.new_zeros(())
        return ctc, F.cross_entropy(self.frame(hidden).float().flatten(0, 1), labels.flatten(), ignore_index=-100)


def greedy_phones(log_probabilities: Tensor, frames: int) -> list[int]:
    """Best path of CTC: ``[T, classes]`` → classes without repeats, blanks and silence."""
    best = log_probabilities[:frames].argmax(-1).tolist()
    kept = [c for i, c in enumerate(best) if c and (i == 0 or c != best[i - 1])]
    return [c for c in kept if c != PHONE_CLASSES - 1]


def edit_distance(a: list[int], b: list[int]) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]
