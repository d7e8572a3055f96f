"""The reference pattern: the same weights, driven the way the published code drives them.

Our own small program with the published code's habits, so that both can be timed in one run: transformers' Qwen2 and
Llama over a DynamicCache that grows by concatenation, text by ``generate`` in calls of three tokens, a speech step with
a wait for the device after each code, sound padded to 30 s before its mel, logits of every prompt token, and the first
block of speech withheld until the second one is there. What it says is not looked at; text and speech never end.
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
from transformers import DynamicCache, LlamaConfig, LlamaModel, Qwen2Config, Qwen2ForCausalLM, WhisperFeatureExtractor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from engine.checkpoint.loader import LoadedModel
from engine.conversation.sampling import SpeechSampling, top_k, top_p
from engine.conversation.speech import SpeechTokens
from engine.model.audio import pool
from engine.processing.image import ImageProcessor, pad_slices

TOKENS_PER_CALL = 3
CODES_PER_BLOCK = 25
OVERLAP = 2048
"""Samples of a block that are held back for the cross-fade with the next."""

PROMPT = "<|im_end|>\n<|im_start|>assistant\n<|spk_bos|><|spk|><|spk_eos|><|tts_bos|>"


class GrowingCache:
    """Keys and values of the audio encoder, concatenated with what is new at every pass."""

    def __init__(self, layers: int, heads: int, head_dim: int, like: Tensor) -> None:
        self.keys = [like.new_zeros(1, heads, 0, head_dim) for _ in range(layers)]
        self.values = list(self.keys)
        self.positions = torch.zeros(1, 0, dtype=torch.int64)

    @property
    def length(self) -> int:
        return self.keys[0].shape[2]

    def extend(self, new: int) -> Any:
        """Prepare a pass over ``new`` frames."""
        self.positions = torch.arange(self.length, self.length + new, device=self.keys[0].device)[None]
        return self

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key = self.keys[layer] = torch.cat([self.keys[layer], key], 2)
        value = self.values[layer] = torch.cat([self.values[layer], value], 2)
        return F.scaled_dot_product_attention(query, key, value)

    def copy(self) -> GrowingCache:
        twin = copy.copy(self)
        twin.keys, twin.values = list(self.keys), list(self.values)
        return twin


Snapshot = tuple[Any, GrowingCache]
"""What a session holds: the caches of the language model and of the audio encoder."""


class Emulator:
    """One session; all of its state lives on this object, as in the published code."""

    def __init__(self, loaded: LoadedModel, seed: int = 0) -> None:
        self.model, self.vocos, self.config = loaded.model, loaded.vocos, loaded.config
        self.tokenizer = loaded.tokenizer
        self.speech_tokens = SpeechTokens(loaded.tts_tokenizer, self.config.tts, loaded.pronunciation)
        self.device = self.model.device
        mel = self.config.mel
        self.mel = WhisperFeatureExtractor(
            feature_size=mel.num_mel_bins, sampling_rate=mel.sampling_rate, hop_length=mel.hop_length,
            chunk_length=mel.chunk_length, n_fft=mel.n_fft,
        )  # fmt: skip
        self.images = ImageProcessor(self.config.image)
        self.llm, self.tts = _llm(loaded), _tts(loaded)
        self.llm_cache, self.audio_cache = DynamicCache(), self._silence()
        self.last_state: Tensor | None = None
        torch.manual_seed(seed)

    def snapshot(self) -> Snapshot:
        """What the session holds now."""
        return _twin(self.llm_cache), self.audio_cache.copy()

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot, so that a measurement can be repeated."""
        self.llm_cache, self.audio_cache = _twin(snapshot[0]), snapshot[1].copy()
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
        heard = model.apm.stream(mel, [mel.shape[-1]], cache.extend(frames))
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
        self.llm(inputs_embeds=embeds[None], past_key_values=self.llm_cache, attention_mask=self._all(len(ids)))

    @torch.inference_mode()
    def text(self) -> Iterator[str]:
        """The answer's text, three tokens at a time, without end."""
        prompt = self.tokenizer.encode(PROMPT, add_special_tokens=False)
        speaker = prompt.index(self.tokenizer.convert_tokens_to_ids("<|spk|>"))
        stops = [self.tokenizer.convert_tokens_to_ids(stop) for stop in ("<|im_end|>", "<|endoftext|>")]
        ids = torch.tensor([prompt], device=self.device)
        while True:
            output = self.llm.generate(
                input_ids=ids, past_key_values=self.llm_cache, attention_mask=self._all(ids.shape[1]),
                max_new_tokens=TOKENS_PER_CALL, min_new_tokens=TOKENS_PER_CALL, eos_token_id=stops, pad_token_id=0,
                do_sample=True, temperature=0.7, top_k=100, top_p=0.8, repetition_penalty=1.05,
                return_dict_in_generate=True, output_hidden_states=True,
            )  # fmt: skip
            if self.last_state is None:
                self.last_state = output.hidden_states[0][-1][:, speaker]
            drawn = output.sequences[:, ids.shape[1] :]
            yield self.tokenizer.decode(drawn[0].tolist())
            ids = drawn[:, -1:]

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
            ids = self.speech_tokens.encode(spoken)[: config.text_reserved_len]
            if len(ids) < config.text_chunk_size * (block + 1):
                if len(ids) < config.text_reserved_len - 1:
                    continue
                return
            begin = 0 if block == 0 else first + block * config.text_chunk_size
            row = [*self.speech_tokens.head, *ids]
            self._read(cache, row, begin, first + (block + 1) * config.text_chunk_size, speaker)
            codes = self._codes(cache, codes, len(ids))
            new = self.wave(codes[max(len(codes) - CODES_PER_BLOCK - 4, 0) :])
            block += 1
            if pending is not None:
                whole = torch.cat([pending[:-OVERLAP], pending[-OVERLAP:] + new[:OVERLAP], new[OVERLAP:]])
                yield spoken, whole[: len(pending)].numpy()
                new = whole[len(pending) :]
            pending = new

    def _all(self, new: int) -> Tensor:
        """The mask of a context of which nothing is padding."""
        return torch.ones(1, self.llm_cache.get_seq_length() + new, dtype=torch.int64, device=self.device)

    @torch.inference_mode()
    def blocks(self, text_length: int) -> Iterator[Tensor]:
        """Blocks of speech [512 N] that see ``text_length`` text tokens, without end."""
        cache = self._blank_speech()
        codes = torch.zeros(0, self.config.tts.num_vq, dtype=torch.int64, device=self.device)
        while True:
            codes = self._codes(cache, codes, text_length)
            yield self.wave(codes[max(len(codes) - CODES_PER_BLOCK - 4, 0) :])

    def _blank_speech(self) -> Any:
        """A speech cache whose text slots are there, but empty."""
        config, cache = self.config.tts, DynamicCache()
        size = config.hidden_size // config.num_heads
        blank = self.tts.norm.weight.new_zeros(1, config.num_heads, config.condition_length - 1, size)
        for layer in range(config.num_layers):
            cache.update(blank, blank, layer)
        return cache

    def _silence(self) -> GrowingCache:
        audio = self.config.audio
        return GrowingCache(audio.num_layers, audio.num_heads, audio.head_dim, self.model.apm.layer_norm.weight)

    def _read(self, cache: Any, row: list[int], begin: int, end: int, speaker: Tensor) -> None:
        """Put text tokens begin..end-1 into their places of the cache."""
        part = DynamicCache()
        for layer, old in enumerate(cache.layers):
            part.update(old.keys[:, :, :begin], old.values[:, :, :begin], layer)
        ids = torch.tensor([row[begin:end]], device=self.device)
        self.tts(inputs_embeds=self.model.tts.embed_text(ids, speaker), past_key_values=part)
        end = begin + ids.shape[1]
        for old, new in zip(cache.layers, part.layers, strict=True):
            old.keys[:, :, begin:end] = new.keys[:, :, begin:end]
            old.values[:, :, begin:end] = new.values[:, :, begin:end]

    def _codes(self, cache: Any, codes: Tensor, text_length: int) -> Tensor:
        """25 more codes [N, num_vq], one eager step each, with a wait for the device after every one."""
        tts, config, sampling = self.model.tts, self.config.tts, SpeechSampling()
        temperature = torch.tensor(sampling.temperature, device=self.device)[:, None]
        for _ in range(CODES_PER_BLOCK):
            seen = tts.sight(torch.tensor([text_length], device=self.device))
            past = cache.get_seq_length()
            keys = torch.arange(past + 1, device=self.device)
            mask = seen(torch.tensor([[past]], device=self.device), keys, torch.tensor([past + 1], device=self.device))
            previous = codes[-1:] if len(codes) else codes.new_full((1, config.num_vq), -1)
            state = self.tts(
                inputs_embeds=tts.embed_codes(previous[None]), past_key_values=cache, attention_mask=mask[None]
            ).last_hidden_state[:, -1]
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
        out: Tensor = self.vocos(self.model.tts.dvae.decode(codes.T[None]))[0].cpu()
        return out


def _twin(cache: Any) -> Any:
    """A cache that grows on its own from here; passes never write into tensors that are there."""
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    return twin


def _llm(loaded: LoadedModel) -> Any:
    """transformers' language model over the loaded weights."""
    config = loaded.config.llm
    with torch.device("meta"):
        llm = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=config.vocab_size, hidden_size=config.hidden_size, num_hidden_layers=config.num_layers,
                intermediate_size=config.intermediate_size, num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_kv_heads, max_position_embeddings=config.max_positions,
                rms_norm_eps=config.rms_norm_eps, rope_theta=config.rope_theta, tie_word_embeddings=False,
                attn_implementation="sdpa",
            )
        )  # fmt: skip
    llm.load_state_dict(loaded.model.llm.state_dict(), assign=True)
    llm.model.rotary_emb = Qwen2RotaryEmbedding(llm.config).to(loaded.model.device)
    return llm.eval()


def _tts(loaded: LoadedModel) -> Any:
    """transformers' Llama over the loaded weights of the speech model."""
    config = loaded.config.tts
    with torch.device("meta"):
        tts = LlamaModel(
            LlamaConfig(
                vocab_size=config.vocab_size, hidden_size=config.hidden_size, num_hidden_layers=config.num_layers,
                intermediate_size=config.intermediate_size, num_attention_heads=config.num_heads,
                max_position_embeddings=config.max_positions, rms_norm_eps=config.rms_norm_eps,
                rope_theta=config.rope_theta, attn_implementation="sdpa",
            )
        )  # fmt: skip
    tts.load_state_dict(loaded.model.tts.model.state_dict(), assign=True)
    tts.rotary_emb = LlamaRotaryEmbedding(tts.config).to(loaded.model.device)
    return tts.eval()
