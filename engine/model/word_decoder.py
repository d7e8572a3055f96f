"""Whisper's text decoder (``reader.*``): what was heard → the tokens of its words.

Keys and sizes are those of ``decoder.*`` in the published checkpoints (arXiv 2212.04356, table 1). Its own tokens are
kept in a :class:`~engine.model.kv.KVBatch`; the sound it looks at comes as keys and values that are made once per piece
of sound (:meth:`WordDecoder.listen`), so that a piece that was heard long ago costs nothing more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.config_words import ReaderConfig
from engine.model.audio import AudioAttention
from engine.model.kv import KVArena, KVBatch


class WordAttention(nn.Module):
    """Attention of the words to the sound."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.k_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def listen(self, heard: Tensor) -> Tensor:
        """Encoder states [S, d_model] → their keys and values [2, heads, S, head_dim]."""
        both = torch.stack([self.k_proj(heard), self.v_proj(heard)])
        out: Tensor = both.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return out

    def forward(self, x: Tensor, sound: Tensor) -> Tensor:
        # x [1, T, d_model], sound [2, heads, S, head_dim] -> as x
        query = self.q_proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, sound[None, 0], sound[None, 1])
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(-2))
        return out


class WordLayer(nn.Module):
    """Pre-norm transformer layer with a second attention, to the sound."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.self_attn = AudioAttention(config.d_model, config.num_heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = WordAttention(config)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def listen(self, heard: Tensor) -> Tensor:
        """See :meth:`WordAttention.listen`."""
        return self.encoder_attn.listen(heard)

    def forward(self, x: Tensor, layer: int, cache: KVBatch, sound: Tensor) -> Tensor:
        # x [1, T, d_model] -> the same; sound [2, heads, S, head_dim]
        x = x + self.self_attn(self.self_attn_layer_norm(x), layer, None, cache)
        x = x + self.encoder_attn(self.encoder_attn_layer_norm(x), sound)
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        return out


class WordDecoder(nn.Module):
    """Token ids in, scores of the next token out."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.embed_positions = nn.Embedding(config.max_positions, config.d_model)
        self.layers = nn.ModuleList(WordLayer(config) for _ in range(config.num_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)
        self.head: nn.Module | None = None
        """What gives the scores where the table of the tokens was quantised; it shares that otherwise."""

    def arena(self) -> KVArena:
        """Storage for the tokens of one reading."""
        config, weight = self.config, self.layer_norm.weight
        return KVArena(
            config.num_layers,
            config.num_heads,
            config.d_model // config.num_heads,
            capacity=config.max_positions,
            device=weight.device,
            dtype=weight.dtype,
        )

    def listen(self, heard: Tensor) -> Tensor:
        """Encoder states [S, d_model] → keys and values of every layer [layers, 2, heads, S, head_dim]."""
        return torch.stack([layer.listen(heard) for layer in self.layers if isinstance(layer, WordLayer)])

    def forward(self, ids: Tensor, cache: KVBatch, sound: Tensor) -> Tensor:
        """Token ids int64 [1, T], placed by ``cache``, and sound [layers, 2, heads, S, head_dim] → states
        [1, T, d_model]."""
        x = self.embed_tokens(ids) + self.embed_positions(cache.positions)
        for index, layer in enumerate(self.layers):
            x = layer(x, index, cache, sound[index])
        out: Tensor = self.layer_norm(x)
        return out

    def logits(self, states: Tensor) -> Tensor:
        """States [..., d_model] → float32 scores [..., vocab]."""
        scores: Tensor = F.linear(states, self.embed_tokens.weight) if self.head is None else self.head(states)
        return scores.float()
