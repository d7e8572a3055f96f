"""The decoder that the language models (Qwen2, Llama 3, MiniCPM-2.4B) and the speech model (Llama) share.

Pre-norm, rotary positions, grouped-query attention, SwiGLU. They differ in sizes, in the q/k/v biases, in the rotary
base, and in what MiniCPM's layers scale down.

:meth:`Decoder.join` makes fewer and larger products of the same weights, for a device on which every launch costs. A
CPU gains nothing by it, and rounds a wider product otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model.fused import swiglu
from engine.model.kv import KVArena, KVBatch, KVLayout, KVReview
from engine.model.kv_steps import KVSteps


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
    """Cosines and sines, float32 [..., head_dim], of rotary positions [...] (RoFormer, arXiv 2104.09864).

    The first half of the sines is negative, as :func:`rotate` needs it.
    """
    # In float32 whatever the model's dtype: bfloat16 has no odd numbers above 256.
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions[..., None].float() * (1.0 / theta**exponents)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


@cache  # a recorded step goes on using them, and there are few: their lengths are powers of two
@torch.inference_mode(False)
def rotary_table(length: int, head_dim: int, theta: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """:func:`rotary` of the positions 0..length-1, made once: [2, length, head_dim]."""
    return torch.stack(rotary(torch.arange(length, device=device), head_dim, theta)).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + head_dim/2) of ``x`` [..., head_dim] by their angles."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((high, low), dim=-1) * sin


def join_linears(linears: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None] | None:
    """The weights of products of one input as a single matrix [all outputs, inputs], with their bias if one has any.

    The weights of ``linears`` become parts of that matrix, so that nothing is kept twice and every name stays. None
    where one of them is no plain matrix (it was quantised).
    """
    if not all(map(_is_plain, linears)):
        return None
    weight = torch.cat([linear.weight.data for linear in linears])
    bias = None
    if any(linear.bias is not None for linear in linears):
        zeros = [linear.weight.data.new_zeros(linear.out_features) for linear in linears]
        given = [none if linear.bias is None else linear.bias.data for linear, none in zip(linears, zeros, strict=True)]
        bias = torch.cat(given)
    start = 0
    for linear in linears:
        part = slice(start, start + linear.out_features)
        linear.weight.data = weight[part]
        if bias is not None and linear.bias is not None:
            linear.bias.data = bias[part]
        start = part.stop
    return weight, bias


def _is_plain(linear: nn.Module) -> bool:
    """Whether a layer's weight is a matrix of numbers: quantised ones are tensors or layers of other classes."""
    return type(linear) is nn.Linear and type(linear.weight.data) is Tensor


def add_product(x: Tensor, linear: nn.Linear, y: Tensor, scale: float) -> Tensor:
    """``x`` [..., outputs] and the product of ``y`` [..., inputs] with a matrix and ``scale``, added in one launch."""
    return torch.addmm(x.flatten(0, -2), y.flatten(0, -2), linear.weight.t(), alpha=scale).view_as(x)


def store_by_input(weight: Tensor) -> Tensor:
    """The same matrix [outputs, inputs], stored input by input.

    A product of four rows with it then costs a CPU what a product of one row costs otherwise, up to a third less than
    with a matrix stored output by output.
    """
    return weight.t().contiguous().t()


class Attention(nn.Module):
    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        self.head_dim, self.heads, self.kv_heads = sizes.head_dim, sizes.num_attention_heads, sizes.num_key_value_heads
        self.joined: tuple[Tensor, Tensor | None] | None = None
        """The weights of q, k and v as one matrix, and their bias, see :meth:`Decoder.join`."""
        width, bias = sizes.hidden_size, sizes.qkv_bias
        self.q_proj = nn.Linear(width, sizes.num_attention_heads * sizes.head_dim, bias=bias)
        self.k_proj = nn.Linear(width, sizes.num_key_value_heads * sizes.head_dim, bias=bias)
        self.v_proj = nn.Linear(width, sizes.num_key_value_heads * sizes.head_dim, bias=bias)
        self.o_proj = nn.Linear(sizes.num_attention_heads * sizes.head_dim, width, bias=False)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], layer: int, cache: KVLayout | None, mask: Tensor | None
    ) -> Tensor:
        # x [B, T, hidden] -> the same; query [B, heads, T, head_dim], key and value [B, kv_heads, T, head_dim]
        out: Tensor = self.o_proj(self.mix(x, turn, layer, cache, mask))
        return out

    def mix(
        self, x: Tensor, turn: tuple[Tensor, Tensor], layer: int, cache: KVLayout | None, mask: Tensor | None
    ) -> Tensor:
        # x [B, T, hidden] -> what the heads attend to [B, T, heads * head_dim]
        if self.joined is None:
            query, key, value = (
                projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
                for projection in (self.q_proj, self.k_proj, self.v_proj)
            )
            query, key = rotate(query, *turn), rotate(key, *turn)
        else:
            both = F.linear(x, *self.joined).unflatten(-1, (-1, self.head_dim))
            if isinstance(cache, KVSteps | KVBatch) and not isinstance(cache, KVReview):
                return cache.attend_joined(layer, both, self.heads, turn)
            query, key, value = both.transpose(1, 2).split((self.heads, self.kv_heads, self.kv_heads), 1)
            query, key = rotate(query, *turn), rotate(key, *turn)
        if cache is not None:
            mixed = cache.attend(layer, query, key, value)
        else:
            mixed = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=query.shape[1] != key.shape[1]
            )
        return mixed.transpose(1, 2).flatten(-2)

    def join(self) -> None:
        self.joined = join_linears((self.q_proj, self.k_proj, self.v_proj))


class MLP(nn.Module):
    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        self.joined: tuple[Tensor, Tensor | None] | None = None
        """The weights of gate and up as one matrix."""
        self.gate_proj = nn.Linear(sizes.hidden_size, sizes.intermediate_size, bias=False)
        self.up_proj = nn.Linear(sizes.hidden_size, sizes.intermediate_size, bias=False)
        self.down_proj = nn.Linear(sizes.intermediate_size, sizes.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # [B, T, hidden] -> the same, through [B, T, intermediate]
        out: Tensor = self.down_proj(self.mix(x))
        return out

    def mix(self, x: Tensor) -> Tensor:
        # [B, T, hidden] -> [B, T, intermediate]
        if self.joined is None:
            apart: Tensor = F.silu(self.gate_proj(x)) * self.up_proj(x)
            return apart
        return swiglu(F.linear(x, *self.joined))

    def join(self) -> None:
        self.joined = join_linears((self.gate_proj, self.up_proj))


class DecoderLayer(nn.Module):
    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        self.self_attn = Attention(sizes)
        self.mlp = MLP(sizes)
        self.input_layernorm = nn.RMSNorm(sizes.hidden_size, eps=sizes.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(sizes.hidden_size, eps=sizes.rms_norm_eps)
        self.scale = sizes.residual_scale
        self.adds_products = False
        """Products are added to the states in one launch."""

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], layer: int, cache: KVLayout | None, mask: Tensor | None
    ) -> Tensor:
        # x [B, T, hidden] -> the same; turn: cosines and sines, see rotary
        if self.adds_products:
            mixed = self.self_attn.mix(self.input_layernorm(x), turn, layer, cache, mask)
            x = add_product(x, self.self_attn.o_proj, mixed, self.scale)
            mixed = self.mlp.mix(self.post_attention_layernorm(x))
            return add_product(x, self.mlp.down_proj, mixed, self.scale)
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

    def join(self) -> None:
        """Keep what is multiplied with the same input as one matrix, and add products to the states at once.

        To be called once, when the weights are there to stay: not for training. The names in the state dict stay, and
        quantised layers are left as they are.
        """
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            layer.self_attn.join()
            layer.mlp.join()
            layer.adds_products = _is_plain(layer.self_attn.o_proj) and _is_plain(layer.mlp.down_proj)

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
