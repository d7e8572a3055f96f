"""The decoder that the language models (Qwen2, Llama 3, MiniCPM-2.4B) and the speech model (Llama) share.

Pre-norm, rotary positions, grouped-query attention, SwiGLU. They differ in sizes, in the q/k/v biases, in the rotary
base, and in what MiniCPM's layers scale down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model.kv import KVArena, KVLayout


@dataclass(frozen=True, slots=True)
class DecoderSizes:
    """Sizes of a decoder, with the names of Hugging Face configs."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rms_norm_eps: float
    rope_theta: float
    qkv_bias: bool
    head_dim: int
    residual_scale: float = 1.0
    """What attention and MLP add is multiplied with it (MiniCPM, arXiv 2404.06395)."""


def rotary(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 [..., head_dim], of rotary positions [...] (RoFormer, arXiv 2104.09864)."""
    # In float32 whatever the model's dtype: bfloat16 has no odd numbers above 256.
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions[..., None].float() * (1.0 / theta**exponents)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def rotary_table(length: int, head_dim: int, theta: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """:func:`rotary` of the positions 0..length-1, made once: [2, length, head_dim]."""
    return torch.stack(rotary(torch.arange(length, device=device), head_dim, theta)).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + head_dim/2) of ``x`` [..., head_dim] by their angles."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


def store_by_input(weight: Tensor) -> Tensor:
    """The same matrix [outputs, inputs], stored input by input.

    A product of four rows with it then costs a CPU what a product of one row costs otherwise, up to a third less than
    with a matrix stored output by output.
    """
    return weight.t().contiguous().t()


class Attention(nn.Module):
    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        self.head_dim = sizes.head_dim
        width, bias = sizes.hidden_size, sizes.qkv_bias
        self.q_proj = nn.Linear(width, sizes.num_attention_heads * sizes.head_dim, bias=bias)
        self.k_proj = nn.Linear(width, sizes.num_key_value_heads * sizes.head_dim, bias=bias)
        self.v_proj = nn.Linear(width, sizes.num_key_value_heads * sizes.head_dim, bias=bias)
        self.o_proj = nn.Linear(sizes.num_attention_heads * sizes.head_dim, width, bias=False)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], layer: int, cache: KVLayout | None, mask: Tensor | None
    ) -> Tensor:
        # x [B, T, hidden] -> the same; query [B, heads, T, head_dim], key and value [B, kv_heads, T, head_dim]
        query, key, value = (
            projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotate(query, *turn), rotate(key, *turn)
        if cache is not None:
            mixed = cache.attend(layer, query, key, value)
        else:
            mixed = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=query.shape[1] != key.shape[1]
            )
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(-2))
        return out


class MLP(nn.Module):
    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(sizes.hidden_size, sizes.intermediate_size, bias=False)
        self.up_proj = nn.Linear(sizes.hidden_size, sizes.intermediate_size, bias=False)
        self.down_proj = nn.Linear(sizes.intermediate_size, sizes.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # [B, T, hidden] -> the same, through [B, T, intermediate]
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class DecoderLayer(nn.Module):
    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        self.self_attn = Attention(sizes)
        self.mlp = MLP(sizes)
        self.input_layernorm = nn.RMSNorm(sizes.hidden_size, eps=sizes.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(sizes.hidden_size, eps=sizes.rms_norm_eps)
        self.scale = sizes.residual_scale

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], layer: int, cache: KVLayout | None, mask: Tensor | None
    ) -> Tensor:
        # x [B, T, hidden] -> the same; turn: cosines and sines, see rotary
        x = x + self._scaled(self.self_attn(self.input_layernorm(x), turn, layer, cache, mask))
        out: Tensor = x + self._scaled(self.mlp(self.post_attention_layernorm(x)))
        return out

    def _scaled(self, branch: Tensor) -> Tensor:
        return branch if self.scale == 1.0 else branch * self.scale


class Decoder(nn.Module):
    """Embeddings in, states after the final norm out."""

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.embed_tokens = nn.Embedding(sizes.vocab_size, sizes.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(sizes) for _ in range(sizes.num_hidden_layers))
        self.norm = nn.RMSNorm(sizes.hidden_size, eps=sizes.rms_norm_eps)

    def forward(
        self,
        embeds: Tensor,
        *,
        cache: KVLayout | None = None,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """``embeds`` [B, T, hidden] -> states [B, T, hidden].

        With ``cache`` the new tokens are stored and see what the cache's sight allows. Without one the pass is causal
        over the given tokens; ``attention_mask`` is then bool or 0/1 [B, T] (which tokens exist), or a bool mask
        [B, 1 or heads, T, T] that is taken as it is.
        ``positions`` int64 [B, T] default to the cache's, else to the token's index.
        """
        mask = None
        if attention_mask is not None:
            if cache is not None:
                raise ValueError("a cache brings its own mask; leave attention_mask out")
            mask = attention_mask if attention_mask.dim() == 4 else causal_mask(attention_mask)
        turn = self._turn(embeds, cache, positions)
        for index, layer in enumerate(self.layers):
            embeds = layer(embeds, turn, index, cache, mask)
        out: Tensor = self.norm(embeds)
        return out

    def _turn(self, embeds: Tensor, cache: KVLayout | None, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cosines and sines [B or 1, 1, T, head_dim] in the dtype of ``embeds`` [B, T, hidden]."""
        head_dim, theta = self.sizes.head_dim, self.sizes.rope_theta
        if positions is not None:
            cos, sin = rotary(positions, head_dim, theta)
            return cos[:, None].to(embeds.dtype), sin[:, None].to(embeds.dtype)
        # A table of a power of two: few of them are ever made, and its size is known without asking the device.
        longest = embeds.shape[1] + (0 if cache is None else cache.span)
        table = rotary_table(1 << (longest - 1).bit_length(), head_dim, theta, embeds.device, embeds.dtype)
        cos, sin = table[:, None, : embeds.shape[1]] if cache is None else table[:, cache.positions]
        return cos[:, None], sin[:, None]

    def arena(
        self,
        *,
        slots: int = 1,
        capacity: int = 256,
        max_slots: int | None = None,
        max_capacity: int | None = None,
    ) -> KVArena:
        """A key/value storage of this decoder's shape, on its device and in its dtype."""
        weight = self.norm.weight
        return KVArena(
            self.sizes.num_hidden_layers,
            self.sizes.num_key_value_heads,
            self.sizes.head_dim,
            slots=slots,
            capacity=capacity,
            device=weight.device,
            dtype=weight.dtype,
            max_slots=max_slots,
            max_capacity=max_capacity,
        )


def causal_mask(exists: Tensor) -> Tensor:
    """Causal mask bool [B, 1, T, T] over tokens that exist ([B, T]); each token sees at least itself."""
    length = exists.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=exists.device).tril()
    # A token that sees nothing would be a row of NaN after the softmax.
    itself = torch.eye(length, dtype=torch.bool, device=exists.device)
    return ((causal & exists.bool()[:, None]) | itself)[:, None]
