"""Sizes and settings of a MiniCPM-o 2.6 model, read from ``config.json`` and ``preprocessor_config.json``.

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

from engine.config_reader import Reader, check_architecture, read_json
from engine.config_sizes import MOST_PARAMETERS, parameters_by_part
from engine.config_words import ReaderConfig, read_words_config
from engine.errors import ConfigError

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
LONGEST_S = 3_600.0
MOST_CODES = 1 << 20
"""Codes that one quantiser of the DVAE may tell apart; the published one has 625."""


@dataclass(frozen=True, slots=True)
class LLMConfig:
    """Qwen2 decoder (``llm.*``)."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    max_positions: int
    tie_word_embeddings: bool


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """SigLIP tower with NaViT positions (``vpm.*``)."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    """Encoder layers before the last one may be dropped."""
    drop_last_layer: bool | None
    """None when the file does not say: then the checkpoint's own number of layers decides."""
    num_heads: int
    num_channels: int
    patch_size: int
    image_size: int
    layer_norm_eps: float
    batch_size: int
    """Slices that go through the tower at once."""

    @property
    def num_layers(self) -> int:
        """Encoder layers that exist (the published class drops the last one unless told otherwise)."""
        return self.num_hidden_layers - (self.drop_last_layer is not False)

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size


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
class ImageConfig:
    """How pictures become patches (``preprocessor_config.json``)."""

    max_slice_nums: int
    scale_resolution: int
    patch_size: int
    use_image_id: bool
    query_num: int
    norm_mean: tuple[float, float, float]
    norm_std: tuple[float, float, float]


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
class OmniConfig:
    """Everything that the modules need to know to be built."""

    llm: LLMConfig
    vision: VisionConfig
    audio: AudioConfig
    tts: TTSConfig
    dvae: DVAEConfig
    vocos: VocosConfig
    image: ImageConfig
    mel: MelConfig
    query_num: int
    chunk_input: bool
    """Sound placeholders are cut into groups of one second."""
    sees: bool
    """False for a model without eyes (``init_vision`` is false): no ``vpm``, no ``resampler``."""
    tells_end_of_turn: bool
    """Whether the language model was trained to say, by the probability of ``<|im_end|>``, that a message is over
    (``tells_end_of_turn``, no key of the official model). Where it was not, the probability means nothing: Qwen2.5 0.5B
    gives complete statements 0.02."""
    quantization: Mapping[str, Any] | None
    """The checkpoint's own ``quantization_config``, if its weights are stored quantised."""
    reader: ReaderConfig | None
    """Of a model that understands by reading words; None for the official one."""

    @property
    def resampler_heads(self) -> int:
        return max(1, self.llm.hidden_size // 128)

    @property
    def parameters(self) -> int:
        """Weights of all parts, to about one per cent."""
        return sum(parameters_by_part(self).values())

    @classmethod
    def from_dir(cls, directory: str | Path) -> OmniConfig:
        """Read both files of a model directory. Raises ConfigError."""
        directory = Path(directory)
        if not directory.is_dir():
            problem = "is not a directory" if directory.exists() else "does not exist"
            raise ConfigError(directory, problem, "give the path of a local MiniCPM-o 2.6 directory")
        path = directory / CONFIG_FILE
        if not path.is_file():
            remedy = "give the directory that holds config.json, the tokenizer and the *.safetensors of MiniCPM-o 2.6"
            raise ConfigError(path, "is missing", remedy)
        return cls.from_dicts(read_json(path), read_json(directory / PREPROCESSOR_FILE), path)

    @classmethod
    def from_dicts(
        cls, config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None, source: str | Path = CONFIG_FILE
    ) -> OmniConfig:
        """Build from the contents of the two files; ``source`` is the name used in errors. Raises ConfigError."""
        root = Reader(config, source)
        check_architecture(root)
        vision, audio, tts = root.block("vision_config"), root.block("audio_config"), root.block("tts_config")
        pre = Reader(preprocessor or {}, Path(source).with_name(PREPROCESSOR_FILE))
        built = cls(
            llm=_llm(root),
            vision=_vision(vision, root),
            audio=_audio(audio, root),
            tts=_tts(tts),
            dvae=_dvae(root.block("dvae_config", "golden_dvae")),
            vocos=_vocos(root.block("vocos_config", "golden_vocos")),
            image=_image(pre, root),
            mel=_mel(pre, audio),
            query_num=root.positive("query_num", 64),
            chunk_input=root.get("chunk_input", True),
            sees=root.get("init_vision", True),
            tells_end_of_turn=root.get("tells_end_of_turn", False),
            quantization=root.block("quantization_config").data or None,
            reader=read_words_config(root.block("reader_config")),
        )
        _check_consistency(built, root, pre)
        _check_size(built, root)
        return built


def _check_consistency(config: OmniConfig, root: Reader, pre: Reader) -> None:
    llm, vision, audio, tts = config.llm, config.vision, config.audio, config.tts
    remedy = "restore the official configuration"
    for key, what, size, heads in (
        ("num_key_value_heads", "attention heads,", llm.num_heads, llm.num_kv_heads),
        ("vision_config.num_attention_heads", "width", vision.hidden_size, vision.num_heads),
        ("audio_config.encoder_attention_heads", "width", audio.d_model, audio.num_heads),
        ("tts_config.num_attention_heads", "width", tts.hidden_size, tts.num_heads),
    ):
        if size % heads:
            raise root.error(key, f"is {heads}, which does not divide the {what} {size}", remedy)
    if llm.hidden_size % 4 or llm.hidden_size % config.resampler_heads:
        problem = f"is {llm.hidden_size}, which the resampler cannot split into {config.resampler_heads} heads"
        raise root.error("hidden_size", problem, remedy)
    if tts.llm_dim != llm.hidden_size:
        raise root.error("tts_config.llm_dim", f"is {tts.llm_dim}, but hidden_size is {llm.hidden_size}", remedy)
    if audio.ffn_dim // 4 != audio.d_model:
        problem = f"is {audio.ffn_dim}, but the projector reads a quarter of it and d_model is {audio.d_model}"
        raise root.error("audio_config.encoder_ffn_dim", problem, remedy)
    if config.reader is not None and config.reader.d_model != audio.d_model:
        problem = f"is {config.reader.d_model}, but audio_config.d_model is {audio.d_model}"
        raise root.error("reader_config.d_model", problem, remedy)
    if audio.num_mel_bins != config.mel.num_mel_bins:
        problem = f"is {config.mel.num_mel_bins}, but the audio encoder takes {audio.num_mel_bins} mel bands"
        raise pre.error("feature_size", problem, remedy)
    if config.image.query_num != config.query_num:
        problem = f"is {config.image.query_num}, but query_num in {CONFIG_FILE} is {config.query_num}"
        raise pre.error("image_feature_size", problem, remedy)
    if config.image.patch_size != vision.patch_size:
        problem = f"is {config.image.patch_size}, but the vision tower has patches of {vision.patch_size} pixels"
        raise pre.error("patch_size", problem, remedy)


def _check_size(config: OmniConfig, root: Reader) -> None:
    """Refuse sizes each of which may be plausible, but not all together."""
    total = config.parameters
    if total > MOST_PARAMETERS:
        sizes = parameters_by_part(config)
        part = max(sizes, key=sizes.__getitem__)
        problem = (
            f"describes a model of {total:.1e} parameters, mostly here, where {MOST_PARAMETERS:.0e} fill a machine"
        )
        raise root.error(part or "hidden_size", problem, "restore the official configuration")


def _mel(pre: Reader, audio: Reader) -> MelConfig:
    bins = pre.positive("feature_size", audio.positive("num_mel_bins", 80))
    rate, hop = pre.positive("sampling_rate", 16_000), pre.positive("hop_length", 160)
    return MelConfig(bins, rate, hop, pre.positive("n_fft", 400), pre.positive("chunk_length", 30))


def _llm(root: Reader) -> LLMConfig:
    hidden, heads = root.positive("hidden_size", 3584), root.positive("num_attention_heads", 28)
    rope = root.block("rope_parameters", "rope_scaling")
    for key in ("rope_type", "type"):
        rope.expect(key, "default")
    return LLMConfig(
        hidden_size=hidden,
        intermediate_size=root.positive("intermediate_size", 18944),
        num_layers=root.positive("num_hidden_layers", 28),
        num_heads=heads,
        num_kv_heads=root.positive("num_key_value_heads", 4),
        head_dim=root.positive("head_dim", hidden // heads),
        vocab_size=root.positive("vocab_size", 151700),
        rms_norm_eps=root.get("rms_norm_eps", 1e-6),
        rope_theta=rope.get("rope_theta", root.get("rope_theta", 1e6)),
        max_positions=root.positive("max_position_embeddings", 32768),
        tie_word_embeddings=root.get("tie_word_embeddings", False),
    )


def _vision(vision: Reader, root: Reader) -> VisionConfig:
    drop = root.get("drop_vision_last_layer", False) if "drop_vision_last_layer" in root.data else None
    return VisionConfig(
        hidden_size=vision.positive("hidden_size", 1152),
        intermediate_size=vision.positive("intermediate_size", 4304),
        num_hidden_layers=vision.positive("num_hidden_layers", 27),
        drop_last_layer=drop,
        num_heads=vision.positive("num_attention_heads", 16),
        num_channels=vision.positive("num_channels", 3),
        patch_size=vision.positive("patch_size", 14),
        image_size=vision.positive("image_size", 980),
        layer_norm_eps=vision.get("layer_norm_eps", 1e-6),
        batch_size=root.positive("vision_batch_size", 16),
    )


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


def _image(pre: Reader, root: Reader) -> ImageConfig:
    return ImageConfig(
        max_slice_nums=pre.positive("max_slice_nums", 9),
        scale_resolution=pre.positive("scale_resolution", 448, most=4_096),
        patch_size=pre.positive("patch_size", root.block("vision_config").positive("patch_size", 14)),
        use_image_id=pre.get("use_image_id", root.get("use_image_id", True)),
        query_num=pre.positive("image_feature_size", root.positive("query_num", 64)),
        norm_mean=_triple(pre, "norm_mean"),
        norm_std=_triple(pre, "norm_std"),
    )


def _triple(pre: Reader, key: str) -> tuple[float, float, float]:
    """Three channel values; a single number stands for all three."""
    value = pre.data.get(key, 0.5)
    values = [value] * 3 if isinstance(value, int | float) else value
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(v, int | float) for v in values):
        raise pre.error(key, f"is {value!r}, not three numbers", "restore the official configuration")
    return float(values[0]), float(values[1]), float(values[2])
