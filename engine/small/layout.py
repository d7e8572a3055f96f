"""``config.json`` and its like for small: the sizes of its parts, in the official keys."""

from __future__ import annotations

import json
from typing import Any

from engine.small.language import LanguageSource

SENSES: dict[str, Any] = {
    "architectures": ["MiniCPMO"], "model_type": "minicpmo", "version": "2.6", "torch_dtype": "bfloat16",
    "hidden_act": "silu", "use_cache": True, "attention_dropout": 0.0, "use_sliding_window": False,
    # Pictures are told in words, since no eyes have learnt to show them to a language model of this width.
    "init_vision": False, "init_audio": True, "init_tts": True,
    "audio_config": {
        "model_type": "whisper", "d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8,
        "encoder_ffn_dim": 2048, "num_mel_bins": 80, "max_source_positions": 1500, "activation_function": "gelu",
        "scale_embedding": False,
    },
    "audio_pool_step": 5, "audio_chunk_length": 1.0, "chunk_input": True, "stream_input": False,
    "listen_speak_type": "asr",
}  # fmt: skip
END_OF_TURN: dict[str, Any] = {"tells_end_of_turn": True, "end_of_turn_marks": ".?!", "end_of_turn_even": 0.04}
"""Chosen in replayed calls for tuning, 28 with a whole message, 28 with one that pauses: with 0.02 the decision takes
280 ms in the median and 490 in the 90th percentile, and 54 % of the pauses are taken for the end; with 0.04 it is 280,
670 and 39 %, with 0.08 280, 1172 and 32 %."""
READER: dict[str, Any] = {
    "model_type": "whisper", "d_model": 512, "decoder_layers": 6, "decoder_attention_heads": 8,
    "decoder_ffn_dim": 2048, "vocab_size": 51865, "max_target_positions": 448, "activation_function": "gelu",
    "scale_embedding": False, "decoder_start_token_id": 50258, "eos_token_id": 50257,
}  # fmt: skip
"""Of Whisper's decoder, in the words of ``WhisperConfig``."""
PREPROCESSOR: dict[str, Any] = {
    "image_processor_type": "MiniCPMVImageProcessor", "version": 2.6, "feature_size": 80, "sampling_rate": 16000,
    "hop_length": 160, "n_fft": 400, "chunk_length": 30,
}  # fmt: skip
GENERATION: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": 64}
"""Greedy, and short: a small model's second thoughts are worse than its first."""
TOKENIZER: dict[str, Any] = {
    "tokenizer_class": "Qwen2TokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>", "unk_token": "<unk>", "clean_up_tokenization_spaces": False,
    "add_prefix_space": False,
}  # fmt: skip


def chat_template(told: str) -> str:
    """The turns of a conversation as the language model knows them (ChatML), behind what it is ``told`` at the start
    unless the conversation begins with a system message of its own. A Jinja template."""
    first = json.dumps(f"<|im_start|>system\n{told}<|im_end|>\n")
    return (
        "{% for message in messages %}"
        "{% if loop.first and message['role'] != 'system' %}{{ " + first + " }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


def config(language: LanguageSource, reader: dict[str, Any], voice: dict[str, Any]) -> dict[str, Any]:
    """``config.json``: the language model's sizes, ``reader_config``, and the blocks of the voice
    (``tts_config``, ``dvae_config``, ``vocos_config``)."""
    blocks = {**voice, "tts_config": voice["tts_config"] | {"llm_dim": language.sizes["hidden_size"]}}
    return SENSES | END_OF_TURN | language.sizes | {"reader_config": reader} | blocks
