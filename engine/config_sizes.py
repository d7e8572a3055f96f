"""How many weights a configuration describes, before anything is built, and whether a machine could hold them.

Matrices and tables only: norms and biases, well below one per cent of the whole, are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.config_reader import Reader

if TYPE_CHECKING:
    from engine.config import OmniConfig
    from engine.config_family import VisionLanguageConfig

MOST_PARAMETERS = 10**12
"""A hundred times the published models: no machine holds more."""


def check_size(parts: dict[str, int], root: Reader) -> None:
    """Refuse sizes each of which may be plausible, but not all together. Raises ConfigError."""
    total = sum(parts.values())
    if total > MOST_PARAMETERS:
        part = max(parts, key=parts.__getitem__)
        problem = (
            f"describes a model of {total:.1e} parameters, mostly here, where {MOST_PARAMETERS:.0e} fill a machine"
        )
        raise root.error(part or "hidden_size", problem, "restore the official configuration")


def language_weights(config: VisionLanguageConfig) -> int:
    """The language model and the resampler."""
    llm, hidden = config.llm, config.llm.hidden_size
    attention = 2 * hidden * llm.head_dim * (llm.num_heads + llm.num_kv_heads)
    tables = llm.vocab_size * (1 if llm.tie_word_embeddings else 2)
    language = llm.num_layers * (attention + 3 * hidden * llm.intermediate_size) + hidden * tables
    resampler = config.vision.hidden_size * hidden + 5 * hidden**2 + config.query_num * hidden
    return language + resampler * config.sees


def sight_weights(config: VisionLanguageConfig) -> int:
    """The vision tower."""
    vision, width = config.vision, config.vision.hidden_size
    seen = vision.num_channels * vision.patch_size**2 + vision.patches_per_side**2
    sight = vision.num_layers * (4 * width**2 + 2 * width * vision.intermediate_size) + seen * width
    return sight * config.sees


def omni_weights(config: OmniConfig) -> dict[str, int]:
    """All parts of a model that hears and speaks besides, see
    :meth:`~engine.config_family.VisionLanguageConfig.weights_by_part`."""
    audio, tts, dvae, vocos, hidden = config.audio, config.tts, config.dvae, config.vocos, config.llm.hidden_size
    projector = audio.ffn_dim // 4 * hidden + hidden**2
    d = audio.d_model
    hearing = audio.num_layers * (4 * d**2 + 2 * d * audio.ffn_dim)
    hearing += 3 * d * (audio.num_mel_bins + d) + audio.max_positions * d
    size = tts.hidden_size
    speech = tts.num_layers * (4 * size**2 + 3 * size * tts.intermediate_size)
    speech += size * (tts.vocab_size + tts.num_text_tokens + 2 * tts.num_vq * tts.num_audio_tokens)
    speech += tts.llm_dim * size + size**2
    stacks = 2 * (dvae.n_layer * 8 * dvae.hidden**2 + 3 * dvae.bn_dim * (dvae.idim + dvae.hidden))
    outer = dvae.hidden * (dvae.vq_dim + dvae.idim) + 4 * dvae.idim**2 + 6 * dvae.num_mel_bins * dvae.idim
    vocoder = vocos.num_layers * 2 * vocos.dim * vocos.intermediate_dim
    vocoder += vocos.dim * (7 * vocos.input_channels + vocos.n_fft + 2)
    reading = 0
    if (reader := config.reader) is not None:
        d = reader.d_model
        reading = reader.num_layers * (8 * d**2 + 2 * d * reader.ffn_dim) + d * (
            reader.vocab_size + reader.max_positions
        )
    return {
        "": language_weights(config) + projector,
        "vision_config": sight_weights(config),
        "audio_config": hearing,
        "reader_config": reading,
        "tts_config": speech,
        "dvae_config": stacks + outer,
        "vocos_config": vocoder,
    }
