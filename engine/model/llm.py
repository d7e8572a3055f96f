"""The language model: a decoder with its head. Qwen2 (arXiv 2407.10671), Llama 3 (arXiv 2407.21783) or MiniCPM-2.4B
(arXiv 2404.06395), which differ in what their configuration says."""

from __future__ import annotations

from torch import Tensor, nn

from engine.config import LLMConfig
from engine.model.decoder import Decoder, DecoderSizes
from engine.model.kv import KVLayout


class LanguageModel(nn.Module):
    """Official keys ``model.*`` and ``lm_head.weight``."""

    def __init__(self, config: LLMConfig) -> None:
        super().__init__()
        self.tied = config.tie_word_embeddings
        self.embedding_scale, self.head_divisor = config.embedding_scale, config.head_divisor
        self.model = Decoder(
            DecoderSizes(
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_kv_heads,
                rms_norm_eps=config.rms_norm_eps,
                rope_theta=config.rope_theta,
                qkv_bias=config.qkv_bias,
                head_dim=config.head_dim,
                residual_scale=config.residual_scale,
            )
        )
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie()

    def tie(self) -> None:
        """Share the embedding table with the head where the config says so; call again after weights were replaced."""
        if self.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids int64 [...] -> embeddings [..., hidden]."""
        out: Tensor = self.model.embed_tokens(ids)
        return out if self.embedding_scale == 1.0 else out * self.embedding_scale

    def forward(
        self,
        embeds: Tensor,
        *,
        cache: KVLayout | None = None,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Embeddings [B, T, hidden] -> states after the final norm [B, T, hidden]; see :meth:`Decoder.forward`."""
        out: Tensor = self.model(embeds, cache=cache, attention_mask=attention_mask, positions=positions)
        return out

    def logits(self, states: Tensor) -> Tensor:
        """States [..., hidden] -> float32 logits [..., vocab]."""
        return self.scores(states).float()

    def scores(self, states: Tensor) -> Tensor:
        """:meth:`logits` in the model's dtype."""
        if self.head_divisor != 1.0:
            states = states / self.head_divisor
        out: Tensor = self.lm_head(states)
        return out
