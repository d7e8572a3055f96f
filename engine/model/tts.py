"""ConditionalChatTTS: a small Llama that reads text tokens and writes four audio codes per step.

A sequence has fixed places: ``[Stts]``, the speaker vector, ``text_reserved_len`` text slots, ``[Ptts]``, then audio
codes. Text slots are filled while speech is being made: a code sees ``text_chunk_size`` slots per ``audio_chunk_size``
codes begun, so that speech can start before the text is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from engine.config import DVAEConfig, TTSConfig
from engine.model.decoder import Decoder, DecoderSizes, store_by_input
from engine.model.dvae import DVAE
from engine.model.fused import fused
from engine.model.kv import KVLayout
from engine.model.kv_steps import look_


@dataclass(frozen=True, slots=True)
class CodeTables:
    """The embeddings and the heads of all codes as one matrix each, made once for drawing codes step by step."""

    embeddings: Tensor
    """[num_vq * num_audio_tokens, hidden]"""
    heads: Tensor
    """[num_vq * num_audio_tokens, hidden], weight norm applied."""
    offsets: Tensor
    """int64 [num_vq], first row of each codebook."""


@dataclass(frozen=True, slots=True)
class SpeechSight:
    """What audio codes see: all earlier codes, and a window of the text that grows with the codes.

    ``[Ptts]`` is never seen, not even by itself, and all tokens of one pass share one row, so that a pass over several
    codes sees them in both directions (both as published).
    """

    sizes: tuple[int, int, int, int, int]
    """The first text slot, the text slots and what is behind them, codes that open a further window, text slots that it
    has, and the first code's place."""
    text_length: Tensor
    """int64 [B], text tokens known so far; the slot after them holds ``[Etts]``."""

    @classmethod
    def of(cls, config: TTSConfig, text_length: Tensor) -> SpeechSight:
        windows = config.text_reserved_len, config.audio_chunk_size, config.text_chunk_size
        return cls((1 + config.num_spk_embs, *windows, config.condition_length), text_length)

    def __call__(self, queries: Tensor, keys: Tensor, ends: Tensor) -> Tensor:
        said = self.audio(keys) & (keys < ends[:, None])
        return self.text(queries[:, :1], keys) | said[:, None]

    def each(self, queries: Tensor, keys: Tensor, ends: Tensor) -> Tensor:
        """The same for codes that were drawn one by one and are looked at together: each sees what it saw then."""
        return self.text(queries, keys) | (self.audio(keys) & (keys <= queries[..., None]))

    def text(self, positions: Tensor, keys: Tensor) -> Tensor:
        """Visible text slots: positions [B, T] of codes, keys [S] -> bool [B, T, S]."""
        first, reserved, codes, text, _ = self.sizes
        begun = -torch.div(reserved - positions, codes, rounding_mode="floor")
        seen = first + torch.minimum((begun * text).clamp(max=reserved), self.text_length[:, None] + 1)
        return keys < seen[..., None]

    def audio(self, keys: Tensor) -> Tensor:
        return keys >= self.sizes[-1]

    def advance_(self, places: Tensor, mask: Tensor, capacity: int) -> None:
        """See :class:`~engine.model.kv_steps.SteppingSight`."""
        advance_mask_(places, mask, self.text_length, capacity, self.sizes)


@fused("(Tensor(a!) places, Tensor(b!) mask, Tensor text_length, int capacity, int[] sizes) -> ()")
def advance_mask_(places: Tensor, mask: Tensor, text_length: Tensor, capacity: int, sizes: Sequence[int]) -> None:
    """Go on to the next code of every row: ``places`` int64 [rows] grow by one, up to ``capacity``, and ``mask`` [rows,
    1, 1, span] becomes what a code there sees: 0, or -inf where it sees nothing. ``sizes`` as in :class:`SpeechSight`.
    """
    first, reserved, codes, text, audio = sizes
    places.add_(1).clamp_(max=capacity)
    look_(mask, SpeechSight((first, reserved, codes, text, audio), text_length), places)


class Projector(nn.Module):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width_in, width_out)
        self.linear2 = nn.Linear(width_out, width_out)

    def forward(self, x: Tensor) -> Tensor:
        # [..., input width] -> [..., hidden]
        out: Tensor = self.linear2(F.relu(self.linear1(x)))
        return out


class ConditionalChatTTS(nn.Module):
    """Official keys ``projector``, ``emb_code``, ``emb_text``, ``head_code``, ``model``, ``dvae``."""

    def __init__(self, config: TTSConfig, dvae: DVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.projector = Projector(config.llm_dim, config.hidden_size)
        self.emb_code = nn.ModuleList(
            nn.Embedding(config.num_audio_tokens, config.hidden_size) for _ in range(config.num_vq)
        )
        self.emb_text = nn.Embedding(config.num_text_tokens, config.hidden_size)
        self.head_code = nn.ModuleList(
            weight_norm(nn.Linear(config.hidden_size, config.num_audio_tokens, bias=False))
            for _ in range(config.num_vq)
        )
        self.model = Decoder(
            DecoderSizes(
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_heads,
                rms_norm_eps=config.rms_norm_eps,
                rope_theta=config.rope_theta,
                qkv_bias=False,
                head_dim=config.hidden_size // config.num_heads,
            )
        )
        self.dvae = DVAE(dvae)

    def speaker(self, states: Tensor) -> Tensor:
        """Language-model states at ``<|spk|>`` [B, llm_dim] -> unit speaker vectors [B, hidden]."""
        return F.normalize(self.projector(states), dim=-1)

    def embed_text(self, ids: Tensor, speaker: Tensor) -> Tensor:
        """Text ids int64 [B, T] -> [B, T, hidden]; ``[spk_emb]`` becomes the speaker vector [B, hidden]."""
        is_speaker = (ids == self.config.spk_emb_token_id)[..., None]
        return torch.where(is_speaker, speaker[:, None].to(self.emb_text.weight.dtype), self.emb_text(ids))

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Codes int64 [B, T, num_vq] -> summed embeddings [B, T, hidden]; negative codes stand for ``[Ptts]``."""
        # A negative code has no row of its own; it is read as 0 and then thrown away.
        total = sum(table(codes[..., q].clamp(min=0)) for q, table in enumerate(self.emb_code))
        begin = self.emb_text.weight[self.config.audio_bos_token_id]
        return torch.where((codes[..., :1] < 0), begin, total)

    def tables(self) -> CodeTables:
        """To be made once when the weights are there to stay."""
        tables = [cast(nn.Embedding, table).weight for table in self.emb_code]
        offsets = torch.arange(self.config.num_vq, device=tables[0].device) * self.config.num_audio_tokens
        heads = self._heads()
        return CodeTables(torch.cat(tables), store_by_input(heads) if heads.device.type == "cpu" else heads, offsets)

    def _heads(self) -> Tensor:
        return torch.cat([cast(Tensor, head.weight) for head in self.head_code])

    def logits(self, states: Tensor) -> Tensor:
        """States [..., hidden] -> float32 [..., num_vq, num_audio_tokens]."""
        # In float32 from here on: the goldens' closest scores lie 1e-3 apart, at a magnitude of 30.
        return self._scores(states, self._heads()).float()

    def _scores(self, states: Tensor, heads: Tensor) -> Tensor:
        out: Tensor = F.linear(states, heads).unflatten(-1, (self.config.num_vq, self.config.num_audio_tokens))
        return out

    def forward(self, embeds: Tensor, *, cache: KVLayout | None = None, attention_mask: Tensor | None = None) -> Tensor:
        """Embeddings [B, T, hidden] -> states after the final norm; see :meth:`Decoder.forward`.

        Text is fed with a causal cache at its slots, codes with one whose sight is :meth:`sight`. For training on whole
        sequences leave the cache out and give :meth:`training_mask`.
        """
        out: Tensor = self.model(embeds, cache=cache, attention_mask=attention_mask)
        return out

    def step(self, embeds: Tensor, cache: KVLayout, tables: CodeTables) -> Tensor:
        """One audio step of a batch: embedded previous codes [B, 1, hidden] -> logits of the next [B, num_vq, V], in
        the model's dtype."""
        return self._scores(self(embeds, cache=cache)[:, -1], tables.heads)

    def sight(self, text_length: Tensor) -> SpeechSight:
        """Sight of audio steps, for text of int64 [B] tokens."""
        return SpeechSight.of(self.config, text_length)

    def training_mask(self, text_length: Tensor, length: int) -> Tensor:
        """Mask bool [B, 1, length, length] over a whole sequence, equal to what streaming would see step by step."""
        places = torch.arange(length, device=text_length.device)
        rows = places.expand(len(text_length), -1)
        sight = self.sight(text_length)
        earlier = places <= places[:, None]
        speaks = places >= self.config.condition_length - 1
        codes = (sight.text(rows, places) | sight.audio(places)) & earlier
        return torch.where(speaks[:, None], codes, earlier)[:, None]
