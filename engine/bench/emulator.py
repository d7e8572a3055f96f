"""The reference pattern: the same weights, driven the way the published code drives them.

Our own small program with the published code's habits, so that both can be timed in one run: a key/value cache that
grows by concatenation, text in calls of three tokens, an eager speech step with a wait for the device after each code,
sound padded to 30 s before its mel, logits of every prompt token, and the first block of speech withheld until the
second one is there. What it says is not looked at; the ends of text and speech are never drawn.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import WhisperFeatureExtractor

from engine.loader import LoadedModel
from engine.model.audio import pool
from engine.model.kv import KVBatch
from engine.processing.image import ImageProcessor, pad_slices
from engine.sampling import SpeechSampling, TextSampling, top_k, top_p

TOKENS_PER_CALL = 3
CODES_PER_BLOCK = 25
OVERLAP = 2048
"""Samples of a block that are held back for the cross-fade with the next."""

PROMPT = "<|im_end|>\n<|im_start|>assistant\n<|spk_bos|><|spk|><|spk_eos|><|tts_bos|>"


class GrowingCache:
    """Keys and values per layer, concatenated with what is new at every pass."""

    def __init__(self, layers: int, heads: int, head_dim: int, like: Tensor, length: int = 0) -> None:
        """``length`` tokens of zeros to begin with."""
        self.keys = [like.new_zeros(1, heads, length, head_dim) for _ in range(layers)]
        self.values = [like.new_zeros(1, heads, length, head_dim) for _ in range(layers)]
        self.positions = torch.zeros(1, 0, dtype=torch.int64)
        self.mask: Tensor | None = None

    @property
    def length(self) -> int:
        return self.keys[0].shape[2]

    def until(self, length: int) -> GrowingCache:
        """A cache with the first ``length`` tokens of this one."""
        part = copy.copy(self)
        part.keys = [key[:, :, :length] for key in self.keys]
        part.values = [value[:, :, :length] for value in self.values]
        return part

    def extend(self, new: int, mask: Tensor | None = None) -> Any:
        """Prepare a pass over ``new`` tokens; ``mask`` bool [new or 1, length + new], else causal."""
        start, end, device = self.length, self.length + new, self.keys[0].device
        self.positions = torch.arange(start, end, device=device)[None]
        self.mask = torch.ones(new, end, dtype=torch.bool, device=device).tril(start) if mask is None else mask
        return self

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key = self.keys[layer] = torch.cat([self.keys[layer], key], 2)
        value = self.values[layer] = torch.cat([self.values[layer], value], 2)
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask)


Snapshot = tuple[GrowingCache, GrowingCache]
"""What a session holds: the caches of the language model and of the audio encoder."""


class Emulator:
    """One session; all of its state lives on this object, as in the published code."""

    def __init__(self, loaded: LoadedModel, seed: int = 0) -> None:
        self.model, self.vocos, self.config = loaded.model, loaded.vocos, loaded.config
        self.tokenizer, self.tts_tokenizer = loaded.tokenizer, loaded.tts_tokenizer
        self.device = self.model.device
        mel = self.config.mel
        self.mel = WhisperFeatureExtractor(
            feature_size=mel.num_mel_bins, sampling_rate=mel.sampling_rate, hop_length=mel.hop_length,
            chunk_length=mel.chunk_length, n_fft=mel.n_fft,
        )  # fmt: skip
        self.images = ImageProcessor(self.config.image)
        llm, weight = self.config.llm, self.model.llm.model.norm.weight
        self.llm_cache = GrowingCache(llm.num_layers, llm.num_kv_heads, llm.head_dim, weight)
        self.audio_cache = self._silence()
        self.last_state: Tensor | None = None
        torch.manual_seed(seed)

    def snapshot(self) -> Snapshot:
        """What the session holds now."""
        return self.llm_cache.until(self.llm_cache.length), self.audio_cache.until(self.audio_cache.length)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot, so that a measurement can be repeated."""
        self.llm_cache, self.audio_cache = (cache.until(cache.length) for cache in snapshot)
        self.last_state = None

    @torch.inference_mode()
    def prefill(self, audio: NDArray[np.float32], frame: Image.Image | None) -> None:
        """Feed one unit: a second of sound at 16 kHz, and a picture or none."""
        audio, frame = copy.deepcopy(audio), copy.deepcopy(frame)
        model, device = self.model, self.device
        mel = self.mel([audio], sampling_rate=16_000, padding="max_length", return_tensors="pt")["input_features"]
        mel = mel[..., : -(-len(audio) // self.config.mel.hop_length)].to(device, model.dtype)
        frames = (mel.shape[-1] - 1) // 2 + 1
        cache = self.audio_cache
        if cache.length + frames >= self.config.audio.max_positions:
            cache = self.audio_cache = self._silence()
        mask = torch.ones(1, cache.length + frames, dtype=torch.bool, device=device)
        heard = model.apm.stream(mel, [mel.shape[-1]], cache.extend(frames, mask))
        sound = pool(model.audio_projection_layer(heard), self.config.audio.pool_step)[0]

        text, seen = "<unit>", None
        if frame is not None:
            patches, sizes = pad_slices([self.images(frame, 1)])
            seen = model.see(patches.to(device, model.dtype), sizes)[0]
            text += "<image>" + "<unk>" * len(seen) + "</image>"
        text += "<|audio_start|>" + "<unk>" * len(sound) + "<|audio_end|>"
        ids = torch.tensor(self.tokenizer.encode(text, add_special_tokens=False), device=device)
        embeds = model.llm.embed(ids).clone()
        blank = (ids == self.tokenizer.convert_tokens_to_ids("<unk>")).nonzero()[:, 0]
        embeds[blank] = (sound if seen is None else torch.cat([seen, sound])).to(embeds.dtype)
        states = self._llm(embeds[None])
        model.llm.logits(states)

    @torch.inference_mode()
    def text(self) -> Iterator[str]:
        """The answer's text, three tokens at a time, without end."""
        ids = self.tokenizer.encode(PROMPT, add_special_tokens=False)
        speaker = ids.index(self.tokenizer.convert_tokens_to_ids("<|spk|>"))
        sampling = TextSampling()
        stops = [self.tokenizer.convert_tokens_to_ids(stop) for stop in ("<|im_end|>", "<|endoftext|>")]
        while True:
            drawn: list[int] = []
            for _ in range(TOKENS_PER_CALL):
                tokens = torch.tensor([ids + drawn], device=self.device)
                states = self._llm(self.model.llm.embed(tokens[:, -1:] if drawn else tokens))
                if self.last_state is None:
                    self.last_state = states[:, speaker]
                scores = self.model.llm.logits(states[:, -1])
                kept = scores.gather(1, tokens)
                penalty = sampling.repetition_penalty
                scores.scatter_(1, tokens, torch.where(kept < 0, kept * penalty, kept / penalty))
                scores[:, stops] = float("-inf")
                scores = top_p(top_k(scores / sampling.temperature, sampling.top_k), sampling.top_p)
                token = torch.multinomial(scores.softmax(-1), 1)
                drawn.append(int(token))
            yield self.tokenizer.decode(drawn)
            ids = drawn[-1:]

    @torch.inference_mode()
    def speak(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Text and speech (24 kHz) of an answer as they would be handed out, without end."""
        tts, config, source = self.model.tts, self.config.tts, self.text()
        cache = self._blank_speech()
        spoken, block = next(source), 0
        assert self.last_state is not None
        speaker = tts.speaker(self.last_state)
        first = config.condition_length - 1 - config.text_reserved_len
        codes = torch.zeros(0, config.num_vq, dtype=torch.int64, device=self.device)
        pending: Tensor | None = None
        for piece in source:
            spoken += piece
            ids = self.tts_tokenizer.encode(spoken, add_special_tokens=False)[: config.text_reserved_len]
            if len(ids) < config.text_chunk_size * (block + 1):
                if len(ids) < config.text_reserved_len - 1:
                    continue
                return
            begin = 0 if block == 0 else first + block * config.text_chunk_size
            row = [self.tts_tokenizer.convert_tokens_to_ids("[Stts]"), config.spk_emb_token_id, *ids]
            self._read(cache, row, begin, first + (block + 1) * config.text_chunk_size, speaker)
            codes = self._codes(cache, codes, len(ids))
            new = self.wave(codes[max(len(codes) - CODES_PER_BLOCK - 4, 0) :])
            block += 1
            if pending is not None:
                whole = torch.cat([pending[:-OVERLAP], pending[-OVERLAP:] + new[:OVERLAP], new[OVERLAP:]])
                yield spoken, whole[: len(pending)].numpy()
                new = whole[len(pending) :]
            pending = new

    def _llm(self, embeds: Tensor) -> Tensor:
        cache: KVBatch = self.llm_cache.extend(embeds.shape[1])
        return self.model.llm(embeds, cache=cache)

    @torch.inference_mode()
    def blocks(self, text_length: int) -> Iterator[Tensor]:
        """Blocks of speech [512 N] that see ``text_length`` text tokens, without end."""
        cache = self._blank_speech()
        codes = torch.zeros(0, self.config.tts.num_vq, dtype=torch.int64, device=self.device)
        while True:
            codes = self._codes(cache, codes, text_length)
            yield self.wave(codes[max(len(codes) - CODES_PER_BLOCK - 4, 0) :])

    def _blank_speech(self) -> GrowingCache:
        """A speech cache whose text slots are there, but empty."""
        config, weight = self.config.tts, self.model.tts.model.norm.weight
        size = config.hidden_size // config.num_heads
        return GrowingCache(config.num_layers, config.num_heads, size, weight, config.condition_length - 1)

    def _silence(self) -> GrowingCache:
        audio = self.config.audio
        return GrowingCache(audio.num_layers, audio.num_heads, audio.head_dim, self.model.apm.layer_norm.weight)

    def _read(self, cache: GrowingCache, row: list[int], begin: int, end: int, speaker: Tensor) -> None:
        """Put text tokens begin..end-1 into their places of the cache."""
        tts, part = self.model.tts, cache.until(begin)
        ids = torch.tensor([row[begin:end]], device=self.device)
        tts(tts.embed_text(ids, speaker), cache=part.extend(ids.shape[1]))
        end = begin + ids.shape[1]
        for layer, (key, value) in enumerate(zip(part.keys, part.values, strict=True)):
            cache.keys[layer][:, :, begin:end] = key[:, :, begin:end]
            cache.values[layer][:, :, begin:end] = value[:, :, begin:end]

    def _codes(self, cache: GrowingCache, codes: Tensor, text_length: int) -> Tensor:
        """25 more codes [N, num_vq], one eager step each, with a wait for the device after every one."""
        tts, config, sampling = self.model.tts, self.config.tts, SpeechSampling()
        temperature = torch.tensor(sampling.temperature, device=self.device)[:, None]
        for _ in range(CODES_PER_BLOCK):
            seen = tts.sight(torch.tensor([text_length], device=self.device))
            past = cache.length
            keys = torch.arange(past + 1, device=self.device)
            mask = seen(torch.tensor([[past]], device=self.device), keys, torch.tensor([past + 1], device=self.device))
            previous = codes[-1:] if len(codes) else codes.new_full((1, config.num_vq), -1)
            state = tts(tts.embed_codes(previous[None]), cache=cache.extend(1, mask[0]))[:, -1]
            scores = torch.stack([head(state)[0] for head in tts.head_code]).float() / temperature
            if len(codes):
                scores = top_k(top_p(scores, sampling.top_p, 3), sampling.top_k, 3)
            scores[:, -1] = float("-inf")
            code = torch.multinomial(scores.softmax(-1), 1)[:, 0]
            if bool((code == config.audio_eos_id).any()):
                break
            codes = torch.cat([codes, code[None]])
        return codes

    @torch.inference_mode()
    def wave(self, codes: Tensor) -> Tensor:
        """Codes int64 [N, num_vq] -> wave [512 N] on the CPU."""
        return self.vocos(self.model.tts.dvae.decode(codes.T[None]))[0].cpu()
