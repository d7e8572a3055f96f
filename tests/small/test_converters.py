"""The readers of GGUF and CTranslate2 files: on tiny files made here, and on the real ones where they are kept."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from engine.errors import LoadError
from engine.small.ctranslate2 import read_variables, whisper_tensors
from engine.small.language import EXTRA, from_folder, from_gguf, with_extra
from engine.spec import small_cache
from tests.small.stand_ins import packed

REAL = Path(os.environ.get("SMALL_DOWNLOADS") or small_cache() / "downloads")
"""Small lets go of its downloads when it is assembled; who keeps a copy names the folder."""


def real(name: str) -> Path:
    if not (REAL / name).is_file():
        pytest.skip(f"no {name} in {REAL}; SMALL_DOWNLOADS names a folder that has it")
    return REAL / name


def test_whisper_gets_its_names_back(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    fused = generator.standard_normal((12, 4)).astype(np.float16)
    both = generator.standard_normal((8, 4)).astype(np.float16)
    bias = np.arange(12, dtype=np.float16)
    path = tmp_path / "model.bin"
    path.write_bytes(
        packed(
            ("encoder/num_heads", np.array(8, np.int8)),
            ("encoder/layer_1/self_attention/linear_0/weight", fused),
            ("encoder/layer_1/self_attention/linear_0/bias", bias),
            ("decoder/layer_0/attention/linear_1/weight", both),
            ("decoder/layer_0/attention/layer_norm/gamma", bias),
            ("encoder/position_encodings/encodings", fused),
            ("decoder/embeddings/weight", fused),
        )
    )
    found = {key: tensor.numpy() for key, tensor in whisper_tensors(path)}
    wanted = {
        "encoder.layers.1.self_attn.q_proj.weight": fused[:4], "encoder.layers.1.self_attn.k_proj.weight": fused[4:8],
        "encoder.layers.1.self_attn.v_proj.weight": fused[8:], "encoder.layers.1.self_attn.q_proj.bias": bias[:4],
        "encoder.layers.1.self_attn.v_proj.bias": bias[8:], "decoder.layers.0.encoder_attn.k_proj.weight": both[:4],
        "decoder.layers.0.encoder_attn.v_proj.weight": both[4:],
        "decoder.layers.0.encoder_attn_layer_norm.weight": bias, "encoder.embed_positions.weight": fused,
        "decoder.embed_tokens.weight": fused,
    }  # fmt: skip
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[key], wanted[key]) for key in wanted)


def test_a_file_that_is_cut_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "model.bin", packed(("decoder/embeddings/weight", np.zeros((3, 4), np.float32)))
    for data, words in (
        (whole[:-20], "is truncated"),
        (whole[:9], "is truncated|not WhisperSpec"),
        (whole + b"x", "has 1 bytes too many|-"),
        (b"\x05" + whole[1:], "in version 5, not WhisperSpec in version 6"),
    ):
        path.write_bytes(data)
        with pytest.raises(LoadError, match=words):
            read_variables(path)


def test_whisper_is_read_as_its_library_reads_it(tmp_path: Path) -> None:
    path = real("whisper-base.bin")
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(
        d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8, decoder_attention_heads=8,
        encoder_ffn_dim=2048, decoder_ffn_dim=2048, vocab_size=51865,
    )  # fmt: skip
    ours = {key: tensor.float() for key, tensor in whisper_tensors(path)}
    model = WhisperModel(config).eval()
    model.load_state_dict(ours)
    library = pytest.importorskip("ctranslate2")
    words = [f"unused{number}" for number in range(51865)]
    for word, number in Tokenizer.from_file(str(real("whisper-tokenizer.json"))).get_vocab().items():
        words[number] = word
    (tmp_path / "vocabulary.json").write_text(json.dumps(words))
    (tmp_path / "model.bin").symlink_to(path)
    (tmp_path / "config.json").symlink_to(real("whisper-config.json"))
    mel = np.random.default_rng(0).standard_normal((1, 80, 3000)).astype(np.float32)
    reference = library.models.Whisper(str(tmp_path), device="cpu", compute_type="float32")
    theirs = np.array(reference.encode(library.StorageView.from_array(mel)))
    with torch.inference_mode():
        states = model.encoder(torch.from_numpy(mel)).last_hidden_state.numpy()
    assert np.abs(states - theirs).max() < 2e-3 * np.abs(theirs).max()


VOCABULARY = ["!", "a", "b", "Ġ", "ab", "Ċ", "<|endoftext|>", "<|im_start|>", "<|im_end|>", *["[PAD]"] * 39]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A Qwen2 model of one layer in Q8_0, with its table twice: rounded differently, as the real file has it."""
    gguf = pytest.importorskip("gguf")
    path, width = tmp_path / "tiny.gguf", 64
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name("Tiny")
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(32)
    writer.add_block_count(1)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_context_length(128)
    writer.add_rope_freq_base(1e6)
    names = [f"{word}{n}" if word == "[PAD]" else word for n, word in enumerate(VOCABULARY)]
    writer.add_token_list(names)
    writer.add_token_merges(["a b"])
    writer.add_token_types([3 if "|" in word else 5 if word == "[PAD]" else 1 for word in VOCABULARY])
    generator = np.random.default_rng(1)
    for name, shape in (
        ("token_embd.weight", (len(names), width)), ("output.weight", (len(names), width)),
        ("output_norm.weight", (width,)), ("blk.0.attn_q.weight", (64, width)), ("blk.0.attn_q.bias", (64,)),
        ("blk.0.ffn_down.weight", (width, 32)),
    ):  # fmt: skip
        array = generator.standard_normal(shape).astype(np.float32)
        if len(shape) == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf_is_read_as_its_library_reads_it(tiny: Path) -> None:
    check_gguf(tiny)
    language = from_gguf(tiny)
    assert language.sizes["hidden_size"] == 64
    assert language.sizes["vocab_size"] == len(VOCABULARY)
    assert language.tokenizer.encode("ab <|im_end|>ba").ids == [4, 3, 8, 2, 1]
    added = with_extra(language)
    tokenizer = added.tokenizer
    assert [tokenizer.token_to_id(token) for token in EXTRA] == list(range(9, 9 + len(EXTRA)))
    assert tokenizer.encode("a<|spk|>b").ids == [1, tokenizer.token_to_id("<|spk|>"), 2]
    before, after = (torch.cat(list(source.tensors[0].pieces())) for source in (language, added))
    assert torch.equal(before[:9], after[:9])
    assert torch.equal(before[35:], after[35:])
    assert torch.allclose(after[9:35], 0.875 * before[5])


def test_the_real_gguf_is_read_as_its_library_reads_it() -> None:
    check_gguf(real("qwen2.5-coder-0.5b-instruct.gguf"))


def check_gguf(path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    ours = {tensor.key: tensor for tensor in from_gguf(path).tensors}
    for key, name in (
        ("llm.model.embed_tokens.weight", "output.weight"),
        ("llm.model.norm.weight", "output_norm.weight"),
        ("llm.model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight"),
        ("llm.model.layers.0.self_attn.q_proj.bias", "blk.0.attn_q.bias"),
        ("llm.model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"),
    ):
        theirs = gguf.quants.dequantize(stored[name].data, stored[name].tensor_type)
        found = torch.cat(list(ours[key].pieces())).numpy()
        assert found.shape == ours[key].shape
        assert np.array_equal(found, theirs), key


def test_a_folder_of_the_makers_is_taken(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Qwen2.5-9B"
    folder.mkdir()
    sizes = from_gguf(tiny).sizes | {"model_type": "qwen2", "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(sizes))
    weights = {"model.norm.weight": torch.randn(64).bfloat16(), "lm_head.weight": torch.randn(48, 64).bfloat16()}
    save_file(weights, folder / "model.safetensors")
    from_gguf(tiny).tokenizer.save(str(folder / "tokenizer.json"))
    language = from_folder(folder)
    assert language.name == "Qwen2.5-9B"
    assert {tensor.key: torch.cat(list(tensor.pieces())).tolist() for tensor in language.tensors} == {
        f"llm.{key}": tensor.tolist() for key, tensor in weights.items()
    }
    assert len(with_extra(language).tensors) == 2
    (folder / "config.json").write_text(json.dumps(sizes | {"model_type": "llama"}))
    with pytest.raises(LoadError, match="is of another kind of model; name the folder of a Qwen2"):
        from_folder(folder)
