"""Whisper encoder (``apm.*``) with projector (``audio_projection_layer.*``) and pooling.

Sound comes as log-mel frames of 10 ms; the encoder's two convolutions halve that to 20 ms, the pooling to 40 ms, so
that the language model sees 25 vectors a second. Two ways in:

* whole clips (:meth:`AudioEncoder.forward`), optionally with attention in chunks of one second;
* streams (:meth:`AudioEncoder.stream`): each call encodes one chunk per session, which attends to the session's
  earlier chunks through a key/value cache that lives outside this module.

Source: Whisper (arXiv 2212.04356).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.config import AudioConfig
from engine.model.decoder import join_linears
from engine.model.fused import add_and_norm_by
from engine.model.kv import KVBatch

FRAMES_PER_SECOND = 50
"""Frames after the convolutions."""


def conv_length(mel_frames: int) -> int:
    """Frames after the convolutions."""
    return (mel_frames - 1) // 2 + 1


def token_length(mel_frames: int, pool_step: int = 2) -> int:
    """Vectors that the language model gets for a clip of ``mel_frames``; 0 for a clip that is too short to pool."""
    return max(0, (conv_length(mel_frames) - pool_step) // pool_step + 1)


def pool(projected: Tensor, step: int) -> Tensor:
    """Mean over ``step`` neighbouring frames, ``[B, C, D]`` → ``[B, C // step, D]``; an odd last frame is dropped."""
    batch, frames, width = projected.shape
    return projected[:, : frames // step * step].reshape(batch, frames // step, step, width).mean(2)


class AudioAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.joined: tuple[Tensor, Tensor | None] | None = None
        """The weights of q, k and v as one matrix, and their bias, see :func:`~engine.model.decoder.join_linears`."""

    def forward(self, x: Tensor, layer: int, mask: Tensor | None, cache: KVBatch | None) -> Tensor:
        # x [B, T, d_model] -> the same; q, k, v [B, heads, T, d_model / heads]; mask bool [B, 1, T, T]
        batch, frames, width = x.shape
        if self.joined is None:
            products = [proj(x) for proj in (self.q_proj, self.k_proj, self.v_proj)]
        else:
            products = list(F.linear(x, *self.joined).chunk(3, -1))
        q, k, v = (product.view(batch, frames, self.heads, -1).transpose(1, 2) for product in products)
        if cache is None:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            mixed = cache.attend(layer, q, k, v)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(batch, frames, width))
        return out

    def join(self) -> None:
        self.joined = join_linears((self.q_proj, self.k_proj, self.v_proj))


class AudioLayer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.self_attn = AudioAttention(config.d_model, config.num_heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self, x: Tensor, more: Tensor | None, layer: int, mask: Tensor | None, cache: KVBatch | None
    ) -> tuple[Tensor, Tensor]:
        # x [B, T, d_model] and what is still to be added to it -> the same
        x, normed = add_and_norm_by(self.self_attn_layer_norm, x, more)
        x, normed = add_and_norm_by(self.final_layer_norm, x, self.self_attn(normed, layer, mask, cache))
        return x, self.fc2(F.gelu(self.fc1(normed)))


class AudioEncoder(nn.Module):
    """Log-mel frames → hidden states after the final norm, one per 20 ms."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.d_model, 3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.max_positions, config.d_model)
        self.layers = nn.ModuleList(AudioLayer(config) for _ in range(config.num_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, mel: Tensor, mel_lens: Sequence[int], *, chunk_length: float | None = None) -> Tensor:
        """Encode whole clips.

        ``mel`` ``[B, mel bins, M]`` padded with zeros, ``mel_lens`` the frames of each clip. Frames attend to all
        earlier chunks of ``chunk_length`` seconds and their own; None takes the configuration's, ≤ 0 lets every frame
        see the whole clip. Returns ``[B, (M - 1) // 2 + 1, d_model]``; frames behind a clip's end are meaningless.
        """
        x = self._convolve(mel)
        seconds = self.config.chunk_length if chunk_length is None else chunk_length
        mask = self._clip_mask(x.shape[1], mel_lens, int(seconds * FRAMES_PER_SECOND), x.device)
        return self._transform(x + self.embed_positions.weight[: x.shape[1]], mask, None)

    def stream(self, mel: Tensor, mel_lens: Sequence[int], cache: KVBatch) -> Tensor:
        """Encode the next chunk of each session in a batch.

        ``mel`` ``[B, mel bins, M]`` padded with zeros, ``mel_lens`` the frames of each chunk. ``cache`` places
        ``(mel_lens[b] - 1) // 2 + 1`` new frames behind those that session b holds, with the sight ``whole``: a chunk
        sees the past and all of itself. A position beyond the table repeats its last row. Returns
        ``[B, (M - 1) // 2 + 1, d_model]``. When the cache has to be dropped is for the caller to decide.
        """
        ragged = min(mel_lens) < mel.shape[2]
        x = self._convolve(mel, mel_lens if ragged else None)
        positions = cache.positions.clamp(max=self.config.max_positions - 1)
        return self._transform(x + self.embed_positions(positions), None, cache)

    def _convolve(self, mel: Tensor, mel_lens: Sequence[int] | None = None) -> Tensor:
        """``[B, mel bins, M]`` → ``[B, C, d_model]``; with ``mel_lens`` a chunk ends in zeros, as if it were alone."""
        x = F.gelu(self.conv1(mel))
        if mel_lens is not None:
            inside = torch.arange(x.shape[2]) < torch.tensor(mel_lens)[:, None]
            x = x * inside[:, None].to(x.device, non_blocking=True)
        return F.gelu(self.conv2(x)).transpose(1, 2)

    def _transform(self, x: Tensor, mask: Tensor | None, cache: KVBatch | None) -> Tensor:
        x, more = x.contiguous(), None
        for index, layer in enumerate(self.layers):
            x, more = layer(x, more, index, mask, cache)
        out: Tensor = self.layer_norm(x if more is None else x + more)
        return out

    def join(self) -> None:
        """See :meth:`engine.model.decoder.Decoder.join`."""
        for layer in self.layers:
            assert isinstance(layer, AudioLayer)
            layer.self_attn.join()

    def _clip_mask(self, frames: int, mel_lens: Sequence[int], chunk: int, device: torch.device) -> Tensor | None:
        """Bool ``[B or 1, 1, C or 1, C]``, True where a query frame may look; None where it may look everywhere.

        Padding is told by the mel length, twice the frames that a clip really has, so that a clip in a longer batch
        sees some of its padding. The published model was used that way; the difference is part of its outputs.
        """
        index = torch.arange(frames)
        mask: Tensor | None = None
        if min(mel_lens) < frames:
            mask = (index < torch.tensor(mel_lens)[:, None])[:, None, None, :]
        if 0 < chunk < frames:
            blocks = (index // chunk)[None, :] <= (index // chunk)[:, None]
            mask = blocks[None, None] if mask is None else mask & blocks
        return mask if mask is None else mask.to(device, non_blocking=True)


class AudioProjector(nn.Module):
    """Two-layer perceptron from the encoder's width to the language model's."""

    def __init__(self, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(input_dim, output_dim)
        self.linear2 = nn.Linear(output_dim, output_dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """``[..., input_dim]`` → ``[..., output_dim]``, per frame; see :func:`pool` for what comes after."""
        out: Tensor = self.linear2(F.relu(self.linear1(hidden)))
        return out
