"""The sizes of mini, and the folder of its checkpoint: configuration and tokenizers in the official layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from engine.mini.tokenizers import add_words, build_llm_tokenizer, build_tts_tokenizer, read_figures, single_tokens

CHECKPOINT = Path(__file__).parent / "checkpoint"
LEXICON = Path(__file__).parent / "sound" / "lexicon.json"
LLM_VOCAB = 2624
QUERIES = 24


def config(tts_ids: dict[str, int], tts_vocab: int) -> dict[str, Any]:
    """``config.json``: official keys, plus the blocks ``dvae_config`` and ``vocos_config`` for the two parts whose
    sizes are constants in the big model."""
    return {
        "architectures": ["MiniCPMO"], "model_type": "minicpmo", "version": "2.6", "torch_dtype": "bfloat16",
        "hidden_size": 320, "intermediate_size": 832, "num_hidden_layers": 6, "num_attention_heads": 5,
        "num_key_value_heads": 5, "vocab_size": LLM_VOCAB, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "max_position_embeddings": 4096, "hidden_act": "silu", "tie_word_embeddings": False, "use_cache": True,
        "attention_dropout": 0.0, "initializer_range": 0.02, "use_sliding_window": False,
        "query_num": QUERIES, "image_size": 448, "patch_size": 14, "drop_vision_last_layer": False,
        "batch_vision_input": True, "vision_batch_size": 16, "use_image_id": True, "slice_mode": True,
        "slice_config": {"model_type": "minicpmv", "patch_size": 14, "max_slice_nums": 1, "scale_resolution": 196},
        "vision_config": {
            "model_type": "siglip_vision_model", "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 5,
            "num_attention_heads": 4, "image_size": 448, "patch_size": 14, "num_channels": 3,
            "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "attention_dropout": 0.0,
        },
        "audio_config": {
            "model_type": "whisper", "d_model": 256, "encoder_layers": 5, "encoder_attention_heads": 4,
            "encoder_ffn_dim": 1024, "num_mel_bins": 80, "max_source_positions": 1500, "activation_function": "gelu",
            "scale_embedding": False,
        },
        "audio_pool_step": 5, "audio_chunk_length": 1.0, "chunk_input": True, "stream_input": False,
        "init_vision": True, "init_audio": True, "init_tts": True, "listen_speak_type": "asr",
        "tells_end_of_turn": True, "typed_as_heard": True,
        "tts_config": {
            "model_type": "conditional_chattts", "llm_dim": 320, "hidden_size": 256, "intermediate_size": 704,
            "num_attention_heads": 4, "num_hidden_layers": 4, "max_position_embeddings": 4096, "num_audio_tokens": 626,
            "num_text_tokens": tts_vocab, "num_mel_bins": 100, "num_vq": 4, "num_spk_embs": 1,
            "spk_emb_token_id": tts_ids["[spk_emb]"], "audio_bos_token_id": tts_ids["[Ptts]"],
            "text_eos_token_id": tts_ids["[Etts]"], "use_speaker_embedding": True, "use_llm_hidden_state": False,
            "use_text": True, "use_mlp": True, "streaming": True, "streaming_text_chunk_size": 20,
            "streaming_text_reserved_len": 300, "streaming_audio_chunk_size": 50,
            # With the reference's 0.1 to 0.3 and a top_p of 0.7 a talker as small as this gets stuck in one sound.
            "temperature": [0.65] * 4, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.0,
        },
        "dvae_config": {
            "num_mel_bins": 100, "idim": 192, "hidden": 192, "bn_dim": 96, "n_layer": 4, "vq_dim": 384, "G": 2, "R": 2,
            "levels": [5, 5, 5, 5],
        },
        "vocos_config": {
            "input_channels": 100, "dim": 256, "intermediate_dim": 768, "num_layers": 6, "n_fft": 1024,
            "hop_length": 256,
        },
    }  # fmt: skip


PREPROCESSOR: dict[str, Any] = {
    "image_processor_type": "MiniCPMVImageProcessor", "max_slice_nums": 1, "scale_resolution": 196, "patch_size": 14,
    "use_image_id": True, "image_feature_size": QUERIES, "im_start": "<image>", "im_end": "</image>",
    "slice_start": "<slice>", "slice_end": "</slice>", "unk": "<unk>", "im_id_start": "<image_id>",
    "im_id_end": "</image_id>", "slice_mode": True, "norm_mean": [0.5, 0.5, 0.5], "norm_std": [0.5, 0.5, 0.5],
    "version": 2.6, "feature_size": 80, "sampling_rate": 16000, "hop_length": 160, "n_fft": 400, "chunk_length": 30,
}  # fmt: skip

GENERATION = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": 32}
"""Greedy: a grammar as small as mini's has one right answer, and none is longer."""


def write_layout(folder: Path = CHECKPOINT) -> None:
    """Writes everything of the checkpoint but the weights. The ids of an existing language tokenizer stay as they are,
    since trained weights mean them; words that it lacks are added."""
    lexicon: dict[str, list[str]] = json.loads(LEXICON.read_text())
    if not (folder / "tokenizer.json").exists():
        build_llm_tokenizer(folder)
    llm = add_words(Tokenizer.from_file(str(folder / "tokenizer.json")), single_tokens(), LLM_VOCAB)
    llm.normalizer = read_figures()
    llm.save(str(folder / "tokenizer.json"))
    tts = build_tts_tokenizer(folder / "assets" / "chattts_tokenizer", lexicon)
    ids = {t: int(tts.token_to_id(t) or 0) for t in ("[spk_emb]", "[Ptts]", "[Etts]")}
    documents = {
        "config.json": config(ids, tts.get_vocab_size()),
        "preprocessor_config.json": PREPROCESSOR,
        "generation_config.json": GENERATION,
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    write_layout()
