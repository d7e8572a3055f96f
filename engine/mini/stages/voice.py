"""Stages *codec*, *vocoder* and *talker*: mini's own voice, from answer text to 24 kHz sound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from engine.config import OmniConfig
from engine.mini.layout import CHECKPOINT
from engine.mini.sound.pronunciation import PHONES
from engine.mini.sound.voice_data import HOP, RATE, Sentence, log_mel, sentences
from engine.mini.stages.language import voice_vectors
from engine.mini.stages.training import Budget, Losses, load_modules, train
from engine.model.decoder import rotate
from engine.model.dvae import DVAE
from engine.model.tts import ConditionalChatTTS
from engine.model.vocos import Vocos

SENTENCES = 10_000
"""Of the first voice, and half as many of the second: with 3,000 the talker learns them by heart."""
JUDGES = 40
"""The last sentences are kept for validation."""
CODE_WEIGHTS = (1.0, 0.3, 1.0, 0.3)
"""The second code of each group only refines the first."""


def crops(data: list[Sentence], seed: int, size: int, frames: int) -> Callable[[int], Tensor]:
    """Waves [size, frames * HOP] cut at random."""

    def make(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        rows = []
        for _ in range(size):
            x = data[rng.integers(len(data))].samples
            at = int(rng.integers(0, max(1, len(x) - frames * HOP)))
            rows.append(np.pad(x[at : at + frames * HOP], (0, max(0, frames * HOP - len(x) + at)))[: frames * HOP])
        return torch.from_numpy(np.stack(rows).astype(np.float32) / 32768)

    return make


class Codec(nn.Module):
    def __init__(self, config: OmniConfig) -> None:
        super().__init__()
        self.dvae = DVAE(config.dvae)
        for stack in (self.dvae.encoder, self.dvae.decoder):
            for block in stack.decoder_block:
                nn.init.constant_(block.coef, 0.1)  # type: ignore[arg-type]


def train_codec(
    config: OmniConfig, folder: Path, budget: Budget, *, seed: int = 6, size: int = 12, workers: int = 0,
    until: int | None = None, device: str = "cpu",
) -> Codec:  # fmt: skip
    """DVAE: log-mel through four codes a token and back, L1."""
    torch.manual_seed(seed)
    codec = Codec(config).to(device)
    data = sentences(folder, SENTENCES)

    def loss(wave: Tensor, _: float) -> Losses:
        mel = log_mel(wave.to(device))
        back, _codes = codec.dvae(mel)
        return {"loss": (back - mel).abs().mean()}

    judge = crops(data[-JUDGES:], 1, 16, 128)
    train("codec", folder, codec, crops(data[:-JUDGES], seed, size, 96), loss, budget, workers=workers, until=until,
          evaluate=lambda: {"l1": float(loss(judge(0), 1.0)["loss"])}, every=120)  # fmt: skip
    return codec


class Vocoder(nn.Module):
    def __init__(self, config: OmniConfig) -> None:
        super().__init__()
        self.vocos = Vocos(config.vocos)
        with torch.no_grad():
            for block in self.vocos.backbone.convnext:
                nn.init.constant_(block.gamma, 1 / config.vocos.num_layers)  # type: ignore[arg-type]


def spectral_loss(made: Tensor, true: Tensor) -> Tensor:
    """Magnitudes at three resolutions: spectral convergence and logarithmic difference (arXiv 1910.11480)."""
    total = made.new_zeros(())
    for n_fft in (512, 1024, 2048):
        window = torch.hann_window(n_fft, device=made.device)
        a, b = (torch.stft(x, n_fft, n_fft // 4, window=window, return_complex=True).abs().clamp(min=1e-5)
                for x in (made, true))  # fmt: skip
        total = total + (a - b).norm() / b.norm() + (a.log() - b.log()).abs().mean()
    return total / 3


def train_vocoder(
    config: OmniConfig, folder: Path, budget: Budget, *, seed: int = 7, size: int = 8, workers: int = 0,
    until: int | None = None, device: str = "cpu",
) -> Vocoder:  # fmt: skip
    """Vocos: log-mel to wave; half of the batches hear what the codec makes of the mel."""
    torch.manual_seed(seed)
    vocoder, codec = Vocoder(config).to(device), Codec(config)
    coded = load_modules(folder, "codec", codec)
    codec.to(device)
    data = sentences(folder, SENTENCES)

    def loss(wave: Tensor, progress: float) -> Losses:
        wave = wave.to(device)
        mel = log_mel(wave)
        heard = mel
        if coded and progress > 0.3 and int(wave.abs().sum() * 1000) % 2:
            with torch.no_grad():
                heard = codec.dvae(mel)[0]
        made = vocoder.vocos(heard)
        spectral, distance = spectral_loss(made, wave), (log_mel(made) - mel).abs().mean()
        return {"loss": spectral + distance, "spectral": spectral, "mel": distance}

    judge = crops(data[-JUDGES:], 1, 12, 128)
    train("vocoder", folder, vocoder, crops(data[:-JUDGES], seed, size, 48), loss, budget, workers=workers, until=until,
          evaluate=lambda: {"judge_mel": float(loss(judge(0), 0.0)["mel"])}, every=120)  # fmt: skip
    return vocoder


class Talker(nn.Module):
    def __init__(self, config: OmniConfig) -> None:
        super().__init__()
        self.tts = ConditionalChatTTS(config.tts, config.dvae)
        self.tts.dvae.requires_grad_(False)
        self.tts.model.embed_tokens.requires_grad_(False)
        for name, parameter in self.tts.named_parameters():
            if parameter.dim() > 1 and parameter.requires_grad and "original" not in name:
                nn.init.normal_(parameter, std=0.02 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.06)


class TalkerData:
    """Sentences as text ids, codes and the phone that each code belongs to."""

    def __init__(self, config: OmniConfig, folder: Path, codec: DVAE) -> None:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(CHECKPOINT / "assets" / "chattts_tokenizer"))
        phones = set(tokenizer.convert_tokens_to_ids(list(PHONES.values())))
        self.config = config.tts
        self.items: list[tuple[int, list[int], NDArrayCodes, list[int]]] = []
        for sentence in sentences(folder, SENTENCES):
            wave = torch.from_numpy(sentence.samples.astype(np.float32) / 32768)[None]
            with torch.no_grad():
                codes = codec.encode(log_mel(wave))[0][0].T.contiguous()
            ids = tokenizer.encode(sentence.text, add_special_tokens=False)
            self.items.append((sentence.voice, ids, codes, _alignment(sentence, ids, phones, len(codes))))

    def batch(self, seed: int, size: int, training: bool = True) -> Callable[[int], Any]:
        items = self.items[:-JUDGES] if training else self.items[-JUDGES:]
        voices = voice_vectors(self.config.llm_dim)

        def make(step: int) -> Any:
            rng = np.random.default_rng((seed, step))
            chosen = [items[i] for i in rng.integers(0, len(items), size)]
            blur = 0.2 * torch.from_numpy(rng.standard_normal((size, voices.shape[1]))).float()
            return chosen, voices[[v for v, *_ in chosen]] + blur, int(rng.integers(1 << 31))

        return make


NDArrayCodes = Tensor
"""int64 [codes, num_vq]."""


def _alignment(sentence: Sentence, ids: list[int], phones: set[int], codes: int) -> list[int]:
    """Index into ``ids`` of the phone spoken at every code; -1 in pauses, empty where the phones do not match."""
    places = [i for i, token in enumerate(ids) if token in phones]
    spoken = [(name, start) for name, start in sentence.phones if name != "PAU"]
    if len(places) != len(spoken):
        return []
    starts = np.array([start for _, start in sentence.phones])
    index = np.searchsorted(starts, (np.arange(codes) + 0.5) * 2 * HOP / RATE, side="right") - 1
    order = np.cumsum([name != "PAU" for name, _ in sentence.phones]) - 1
    return [places[order[i]] if i >= 0 and sentence.phones[i][0] != "PAU" else -1 for i in index]


def talker_losses(talker: Talker, made: Any, corruption: float) -> Losses:
    """Cross-entropy of the codes, and of the attention of one head to the phone that is being spoken."""
    chosen, speakers, seed = made
    tts, config = talker.tts, talker.tts.config
    device = tts.emb_text.weight.device
    generator = torch.Generator().manual_seed(seed)
    longest, most = max(len(ids) for _, ids, _, _ in chosen), max(len(c) for _, _, c, _ in chosen)
    size, head = len(chosen), 1 + config.num_spk_embs
    text = torch.zeros(size, head + longest + 1, dtype=torch.long)
    codes = torch.full((size, most + 1, config.num_vq), -1)
    aims = torch.full((size, most + 1, config.num_vq), -100)
    places = torch.full((size, most + 1), -1)
    for row, (_, ids, code, alignment) in enumerate(chosen):
        line = [tts_begin(talker), config.spk_emb_token_id, *ids, config.text_eos_token_id]
        text[row, : len(line)] = torch.tensor(line)
        codes[row, 1 : len(code) + 1] = code
        aims[row, : len(code)] = code
        aims[row, len(code)] = config.audio_eos_id
        if alignment:
            places[row, : len(code)] = torch.tensor(alignment)
    noise = torch.rand(codes.shape, generator=generator) < corruption * torch.rand(size, 1, 1, generator=generator)
    codes = torch.where(
        noise & (codes >= 0), torch.randint(0, config.audio_eos_id, codes.shape, generator=generator), codes
    )
    speaker = tts.speaker(speakers.to(device))
    embeds = torch.cat([tts.embed_text(text.to(device), speaker), tts.embed_codes(codes.to(device))], 1)
    # Only the text slots in use are computed; positions and sight are those of the full layout.
    begin = config.condition_length - 1
    positions = torch.cat([torch.arange(text.shape[1]), torch.arange(begin, begin + most + 1)]).to(device)
    lengths = torch.tensor([len(ids) for _, ids, _, _ in chosen], device=device)
    mask = tts.training_mask(lengths, begin + most + 1)[:, :, positions][..., positions]
    itself = torch.eye(len(positions), dtype=torch.bool, device=device)
    seen: dict[int, tuple[Tensor, tuple[Tensor, Tensor]]] = {}
    hooks = [
        tts.model.layers[k].self_attn.register_forward_pre_hook(lambda _, a, k=k: seen.__setitem__(k, (a[0], a[1])))  # type: ignore[union-attr]
        for k in ALIGNED_LAYERS
    ]
    states = tts.model(embeds, attention_mask=mask | itself, positions=positions[None])
    for hook in hooks:
        hook.remove()
    logits = tts.logits(states[:, text.shape[1] :])
    aims = aims.to(device)
    each = [F.cross_entropy(logits[:, :, q].flatten(0, 1), aims[..., q].flatten(), ignore_index=-100) for q in range(4)]
    code_loss = sum((w * e for w, e in zip(CODE_WEIGHTS, each, strict=True)), start=each[0] * 0) / sum(CODE_WEIGHTS)
    align = code_loss * 0
    aligned_rows = places.to(device)
    for k, (x, turn) in seen.items():
        attention: Any = tts.model.layers[k].self_attn
        q, key = (
            p(x).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)[:, 0]
            for p in (attention.q_proj, attention.k_proj)
        )
        q, key = rotate(q, turn[0][:, 0], turn[1][:, 0]), rotate(key, turn[0][:, 0], turn[1][:, 0])
        scores = q[:, text.shape[1] :] @ key[:, : text.shape[1]].transpose(1, 2) / attention.head_dim**0.5
        scores = scores.masked_fill(~mask[:, 0, text.shape[1] :, : text.shape[1]], -1e4)
        hit = aligned_rows >= 0
        if hit.any():
            align = align + F.cross_entropy(scores[hit], aligned_rows[hit] + head) / len(seen)
    return {
        "loss": code_loss + 0.3 * align,
        "first": (each[0] + each[2]) / 2,
        "second": (each[1] + each[3]) / 2,
        "align": align,
    }


ALIGNED_LAYERS = (1, 2)


def tts_begin(talker: Talker) -> int:
    """Id of ``[Stts]``, which the tokenizer puts before ``[Ptts]``."""
    return talker.tts.config.audio_bos_token_id - 1


def train_talker(
    config: OmniConfig, folder: Path, budget: Budget, *, seed: int = 8, size: int = 8, workers: int = 0,
    until: int | None = None, device: str = "cpu",
) -> Talker:  # fmt: skip
    """ConditionalChatTTS: phones to codes. Runs after *codec*, and again whenever that was trained on: the codes are
    others then."""
    torch.manual_seed(seed)
    talker, codec = Talker(config), Codec(config)
    if not load_modules(folder, "codec", codec):
        raise FileNotFoundError(f"{folder}/codec.pt is missing; run the stage codec first")
    talker.tts.dvae.load_state_dict(codec.dvae.state_dict())
    data = TalkerData(config, folder, codec.dvae)
    talker.to(device)
    judge = data.batch(1, 24, training=False)

    def evaluate() -> dict[str, float]:
        return {f"judge_{k}": v.item() for k, v in talker_losses(talker, judge(0), 0.0).items()}

    train("talker", folder, talker, data.batch(seed, size),
          lambda made, progress: talker_losses(talker, made, 0.3 * progress), budget, workers=workers, until=until,
          evaluate=evaluate, every=180)  # fmt: skip
    return talker
