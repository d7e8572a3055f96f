"""How many weights a configuration describes, before anything is built, and whether a machine could hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.config import OmniConfig

MOST_PARAMETERS = 10**12
"""A hundred times the published model: no machine holds more."""


def parameters_by_part(config: OmniConfig) -> dict[str, int]:
    """Weights of every part, keyed by where ``config.json`` gives its sizes (``""``: at the top).

    Matrices and tables only: norms and biases, well below one per cent of the whole, are left out.
    """
    llm, vision, audio, tts = config.llm, config.vision, config.audio, config.tts
    dvae, vocos, hidden = config.dvae, config.vocos, config.llm.hidden_size
    attention = 2 * hidden * llm.head_dim * (llm.num_heads + llm.num_kv_heads)
    tables = llm.vocab_size * (1 if llm.tie_word_embeddings else 2)
    language = llm.num_layers * (attention + 3 * hidden * llm.intermediate_size) + hidden * tables
    resampler = vision.hidden_size * hidden + 5 * hidden**2 + config.query_num * hidden
    projector = audio.ffn_dim // 4 * hidden + hidden**2
    width = vision.hidden_size
    seen = vision.num_channels * vision.patch_size**2 + vision.patches_per_side**2
    sight = vision.num_layers * (4 * width**2 + 2 * width * vision.intermediate_size) + seen * width
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
        "": language + resampler * config.sees + projector,
        "vision_config": sight * config.sees,
        "audio_config": hearing,
        "reader_config": reading,
        "tts_config": speech,
        "dvae_config": stacks + outer,
        "vocos_config": vocoder,
    }
