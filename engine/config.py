"""Sizes and settings of a model, read from ``config.json`` and ``preprocessor_config.json``.

What the whole family has is in :mod:`engine.config_family`, with the language model's and the eyes' part beside it;
here is what MiniCPM-o 2.6 has besides, and :func:`read_config`, which tells the models apart.

Every size comes from the files. A key that is missing takes the default of the published configuration classes.
DVAE and Vocos have no sizes in the official files (they are fixed there); a ``dvae_config`` / ``vocos_config``
block overrides them for smaller models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config_end_of_turn import EndOfTurnConfig, read_end_of_turn
from engine.config_family import (
    CONFIG_FILE,
    PREPROCESSOR_FILE,
    VisionLanguageConfig,
    check_sight,
    read_files,
    readers,
    recognise,
)
from engine.config_language import NAMES, LLMConfig, read_language_config
from engine.config_naming import NamingConfig, read_naming_config
from engine.config_reader import Reader
from engine.config_sizes import check_size, omni_weights
from engine.config_vision import (
    REMEDY,
    ImageConfig,
    VisionConfig,
    read_image_config,
    read_query_num,
    read_vision_config,
)
from engine.config_words import ReaderConfig, read_words_config

__all__ = [
    "CONFIG_FILE",
    "PREPROCESSOR_FILE",
    "AudioConfig",
    "DVAEConfig",
    "ImageConfig",
    "LLMConfig",
    "MelConfig",
    "OmniConfig",
    "TTSConfig",
    "VisionConfig",
    "VisionLanguageConfig",
    "VocosConfig",
    "read_config",
]

LONGEST_S = 3_600.0
MOST_CODES = 1 << 20
"""Codes that one quantiser of the DVAE may tell apart; the published one has 625."""


@dataclass(frozen=True, slots=True)
class AudioConfig:
    """Whisper encoder (``apm.*``), projector and pooling."""

    d_model: int
    num_layers: int
    num_heads: int
    ffn_dim: int
    num_mel_bins: int
    max_positions: int
    pool_step: int
    chunk_length: float
    """Seconds of the attention chunks in whole-clip mode; ≤ 0: the whole clip is one chunk."""

    @property
    def head_dim(self) -> int:
        return self.d_model // self.num_heads


@dataclass(frozen=True, slots=True)
class TTSConfig:
    """ConditionalChatTTS (``tts.*``)."""

    llm_dim: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    max_positions: int
    rms_norm_eps: float
    rope_theta: float
    vocab_size: int
    """Rows of the backbone's own embedding table, which is stored but never read."""
    num_audio_tokens: int
    num_text_tokens: int
    num_mel_bins: int
    num_vq: int
    num_spk_embs: int
    spk_emb_token_id: int
    audio_bos_token_id: int
    text_eos_token_id: int
    text_chunk_size: int
    text_reserved_len: int
    audio_chunk_size: int
    top_p: float
    top_k: int
    repetition_penalty: float
    temperature: tuple[float, ...]
    """Of each of the codes. Not in the official configuration, where it is part of the code."""

    @property
    def audio_eos_id(self) -> int:
        return self.num_audio_tokens - 1

    @property
    def condition_length(self) -> int:
        """Positions before the first audio code: ``[Stts]``, speaker, text slots, ``[Ptts]``."""
        return 1 + self.num_spk_embs + self.text_reserved_len + 1


@dataclass(frozen=True, slots=True)
class DVAEConfig:
    """DVAE with a grouped finite scalar quantiser (``tts.dvae.*``)."""

    idim: int = 512
    hidden: int = 256
    bn_dim: int = 128
    n_layer: int = 12
    vq_dim: int = 1024
    num_mel_bins: int = 100
    levels: tuple[int, ...] = (5, 5, 5, 5)
    groups: int = 2
    residuals: int = 2


@dataclass(frozen=True, slots=True)
class VocosConfig:
    """Vocos vocoder (``assets/Vocos.pt``), mel at 24 kHz to samples."""

    input_channels: int = 100
    dim: int = 512
    intermediate_dim: int = 1536
    num_layers: int = 8
    n_fft: int = 1024
    hop_length: int = 256


@dataclass(frozen=True, slots=True)
class MelConfig:
    """How sound becomes log-mel frames (Whisper's front end)."""

    num_mel_bins: int
    sampling_rate: int
    hop_length: int
    n_fft: int
    chunk_length: int
    """Seconds of the longest clip."""

    @property
    def max_samples(self) -> int:
        return self.chunk_length * self.sampling_rate


@dataclass(frozen=True, slots=True)
class OmniConfig(VisionLanguageConfig):
    """Everything that the modules of MiniCPM-o 2.6 need to know to be built."""

    audio: AudioConfig
    tts: TTSConfig
    dvae: DVAEConfig
    vocos: VocosConfig
    mel: MelConfig
    chunk_input: bool
    """Sound placeholders are cut into groups of one second."""
    end_of_turn: EndOfTurnConfig | None
    """How the language model says that a message is over; None for the official one, which cannot."""
    typed_as_heard: bool
    """Whether what a person types is put to the model as its ears put what they say: in lower case, with a space in
    front (``typed_as_heard``, no key of the official model)."""
    reader: ReaderConfig | None
    """Of a model that understands by reading words; None for the official one."""
    naming: NamingConfig | None
    """Of a model without eyes that is told in words what a picture shows; None for the official one."""

    @property
    def takes_pictures(self) -> bool:
        """Whether pictures reach the language model, by eyes of its own or in words."""
        return self.sees or self.naming is not None

    def weights_by_part(self) -> dict[str, int]:
        return omni_weights(self)

    @classmethod
    def from_dir(cls, directory: str | Path) -> OmniConfig:
        """Read both files of a model directory. Raises ConfigError."""
        return cls.from_dicts(*read_files(directory))

    @classmethod
    def from_dicts(
        cls, config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None, source: str | Path = CONFIG_FILE
    ) -> OmniConfig:
        """Build from the contents of the two files; ``source`` is the name used in errors. Raises ConfigError."""
        root, pre = readers(config, preprocessor, source)
        _check_parts(root)
        audio, tts = root.block("audio_config"), root.block("tts_config")
        built = cls(
            generation="o-2.6",
            llm=read_language_config(root, "o-2.6"),
            vision=read_vision_config(root, "o-2.6"),
            audio=_audio(audio, root),
            tts=_tts(tts),
            dvae=_dvae(root.block("dvae_config", "golden_dvae")),
            vocos=_vocos(root.block("vocos_config", "golden_vocos")),
            image=read_image_config(pre, root, "o-2.6"),
            mel=_mel(pre, audio),
            query_num=read_query_num(root, "o-2.6"),
            chunk_input=root.get("chunk_input", True),
            sees=root.get("init_vision", True),
            end_of_turn=read_end_of_turn(root),
            typed_as_heard=root.get("typed_as_heard", False),
            quantization=root.block("quantization_config").data or None,
            reader=read_words_config(root.block("reader_config")),
            naming=read_naming_config(root.block("naming_config")),
        )
        check_sight(built, root, pre)
        _check_consistency(built, root, pre)
        check_size(built.weights_by_part(), root)
        return built


def read_config(directory: str | Path) -> VisionLanguageConfig:
    """The configuration of any model of the family: an :class:`OmniConfig` for MiniCPM-o 2.6. Raises ConfigError."""
    config, preprocessor, path = read_files(directory)
    omni = recognise(Reader(config, path)) == "o-2.6"
    return (OmniConfig if omni else VisionLanguageConfig).from_dicts(config, preprocessor, path)


@dataclass(frozen=True, slots=True)
class EarsConfig:
    """Ears that read, of whatever model."""

    audio: AudioConfig
    mel: MelConfig
    reader: ReaderConfig


def read_ears_config(directory: str | Path) -> EarsConfig:
    """Of a directory with a ``reader_config``, whatever else it holds. Raises ConfigError."""
    config, preprocessor, path = read_files(directory)
    root, pre = readers(config, preprocessor, path)
    audio, reader = root.block("audio_config"), read_words_config(root.block("reader_config"))
    if reader is None:
        raise root.error("reader_config", "is missing: this model does not read", "give the directory of one that does")
    return EarsConfig(_audio(audio, root), _mel(pre, audio), reader)


def _check_parts(root: Reader) -> None:
    """Refuse another model, and settings that are not computed here. Raises ConfigError."""
    remedy = f"give the directory of a {NAMES['o-2.6']} checkpoint"
    if (found := recognise(root)) != "o-2.6":
        problem = f"is that of {NAMES[found]}, which sees and writes but neither hears nor speaks"
        raise root.error("architectures", problem, f"{remedy}, or ask it with `python -m engine.chat`")
    for part in ("init_audio", "init_tts"):
        root.expect(part, True)
    root.block("audio_config").expect("activation_function", "gelu")
    root.block("audio_config").expect("model_type", "whisper")
    root.block("audio_config").expect("scale_embedding", False)
    root.block("tts_config").expect("model_type", "conditional_chattts")
    for setting in ("use_speaker_embedding", "use_text", "use_mlp"):
        root.block("tts_config").expect(setting, True)
    root.block("tts_config").expect("use_llm_hidden_state", False)


def _check_consistency(config: OmniConfig, root: Reader, pre: Reader) -> None:
    llm, audio, tts = config.llm, config.audio, config.tts
    for key, size, heads in (
        ("audio_config.encoder_attention_heads", audio.d_model, audio.num_heads),
        ("tts_config.num_attention_heads", tts.hidden_size, tts.num_heads),
    ):
        if size % heads:
            raise root.error(key, f"is {heads}, which does not divide the width {size}", REMEDY)
    if tts.llm_dim != llm.hidden_size:
        raise root.error("tts_config.llm_dim", f"is {tts.llm_dim}, but hidden_size is {llm.hidden_size}", REMEDY)
    if audio.ffn_dim // 4 != audio.d_model:
        problem = f"is {audio.ffn_dim}, but the projector reads a quarter of it and d_model is {audio.d_model}"
        raise root.error("audio_config.encoder_ffn_dim", problem, REMEDY)
    if config.reader is not None and config.reader.d_model != audio.d_model:
        problem = f"is {config.reader.d_model}, but audio_config.d_model is {audio.d_model}"
        raise root.error("reader_config.d_model", problem, REMEDY)
    if config.sees and config.naming is not None:
        problem = "is there, but the model has eyes of its own (init_vision)"
        raise root.error("naming_config", problem, "leave one of them out")
    if audio.num_mel_bins != config.mel.num_mel_bins:
        problem = f"is {config.mel.num_mel_bins}, but the audio encoder takes {audio.num_mel_bins} mel bands"
        raise pre.error("feature_size", problem, REMEDY)


def _mel(pre: Reader, audio: Reader) -> MelConfig:
    bins = pre.positive("feature_size", audio.positive("num_mel_bins", 80))
    rate, hop = pre.positive("sampling_rate", 16_000), pre.positive("hop_length", 160)
    return MelConfig(bins, rate, hop, pre.positive("n_fft", 400), pre.positive("chunk_length", 30))


def _audio(audio: Reader, root: Reader) -> AudioConfig:
    return AudioConfig(
        d_model=audio.positive("d_model", 1024),
        num_layers=audio.positive("encoder_layers", 24),
        num_heads=audio.positive("encoder_attention_heads", 16),
        ffn_dim=audio.positive("encoder_ffn_dim", 4096),
        num_mel_bins=audio.positive("num_mel_bins", 80),
        max_positions=audio.positive("max_source_positions", 1500),
        pool_step=root.positive("audio_pool_step", 2),
        chunk_length=_seconds(root, "audio_chunk_length", 1.0),
    )


def _seconds(reader: Reader, key: str, default: float) -> float:
    value = reader.get(key, default)
    if abs(value) > LONGEST_S:
        raise reader.error(
            key, f"is {value:g} seconds, which is more than an hour", "restore the official configuration"
        )
    return value


def _tts(tts: Reader) -> TTSConfig:
    return TTSConfig(
        llm_dim=tts.positive("llm_dim", 2560),
        hidden_size=tts.positive("hidden_size", 768),
        intermediate_size=tts.positive("intermediate_size", 3072),
        num_layers=tts.positive("num_hidden_layers", 20),
        num_heads=tts.positive("num_attention_heads", 12),
        max_positions=tts.positive("max_position_embeddings", 4096),
        rms_norm_eps=tts.get("rms_norm_eps", 1e-6),
        rope_theta=tts.get("rope_theta", 1e4),
        vocab_size=tts.positive("vocab_size", 32000),
        num_audio_tokens=tts.positive("num_audio_tokens", 626),
        num_text_tokens=tts.positive("num_text_tokens", 21178),
        num_mel_bins=tts.positive("num_mel_bins", 100),
        num_vq=tts.positive("num_vq", 4),
        num_spk_embs=tts.positive("num_spk_embs", 1),
        spk_emb_token_id=tts.get("spk_emb_token_id", 21143),
        audio_bos_token_id=tts.get("audio_bos_token_id", 21132),
        text_eos_token_id=tts.get("text_eos_token_id", 21133),
        text_chunk_size=tts.positive("streaming_text_chunk_size", 10),
        text_reserved_len=tts.positive("streaming_text_reserved_len", 300),
        audio_chunk_size=tts.positive("streaming_audio_chunk_size", 50),
        top_p=tts.get("top_p", 0.7),
        top_k=tts.positive("top_k", 20),
        repetition_penalty=tts.get("repetition_penalty", 1.0),
        temperature=_temperature(tts),
    )


def _temperature(tts: Reader) -> tuple[float, ...]:
    values = tts.get("temperature", [0.1, 0.3, 0.1, 0.3])
    if tts.data.get("temperature") is not None and (
        len(values) != tts.positive("num_vq", 4) or not all(type(v) in (int, float) and 0 < v < 100 for v in values)
    ):
        raise tts.error("temperature", f"is {values!r}, not a number above 0 for each code", "give num_vq numbers")
    return tuple(map(float, values))


def _dvae(block: Reader) -> DVAEConfig:
    base = DVAEConfig()
    return DVAEConfig(
        idim=block.positive("idim", base.idim),
        hidden=block.positive("hidden", base.hidden),
        bn_dim=block.positive("bn_dim", base.bn_dim),
        n_layer=block.positive("n_layer", base.n_layer),
        vq_dim=block.positive("vq_dim", base.vq_dim),
        num_mel_bins=block.positive("num_mel_bins", base.num_mel_bins),
        levels=_levels(block, base.levels),
        groups=block.positive("G", base.groups),
        residuals=block.positive("R", base.residuals),
    )


def _levels(block: Reader, default: tuple[int, ...]) -> tuple[int, ...]:
    levels = block.get("levels", list(default))
    if not levels or not all(type(level) is int and level >= 2 for level in levels) or math.prod(levels) > MOST_CODES:
        problem = f"is {levels!r:.100}, not a few whole numbers from 2 on with a product of at most {MOST_CODES}"
        raise block.error("levels", problem, "restore the official configuration")
    return tuple(levels)


def _vocos(block: Reader) -> VocosConfig:
    base = VocosConfig()
    return VocosConfig(
        input_channels=block.positive("input_channels", base.input_channels),
        dim=block.positive("dim", base.dim),
        intermediate_dim=block.positive("intermediate_dim", base.intermediate_dim),
        num_layers=block.positive("num_layers", base.num_layers),
        n_fft=block.positive("n_fft", base.n_fft),
        hop_length=block.positive("hop_length", base.hop_length),
    )
