"""Training: what it sees is what a call would give, it learns, and it resumes to the same numbers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from engine.config import OmniConfig
from engine.mini.export import collect, export, unpack
from engine.mini.layout import CHECKPOINT
from engine.mini.sound.hearing import PhoneHeads, WarpedMel, edit_distance, encode_units, to_units
from engine.mini.sound.hearing_data import phones_of, word_ends
from engine.mini.sound.recorded_words import bank_of
from engine.mini.sound.synthesis import Speech
from engine.mini.stages.language import token_builder, train_language
from engine.mini.stages.seeing import FORMS, patch_targets, train_seeing
from engine.mini.stages.training import Budget, begin_at, plain_attention
from engine.mini.world.rendering import PALETTE, render_with_plan
from engine.mini.world.scenes import Scene, Thing
from engine.mini.world.words import HeardWords, WordHead, embedding_table
from engine.model.audio import AudioEncoder, conv_length
from engine.model.kv import KVArena, whole
from engine.processing.mel import MelExtractor

config = OmniConfig.from_dir(CHECKPOINT)


@pytest.mark.parametrize("samples", [16_000, 40_000, 37_001])
def test_units_are_encoded_as_in_a_call(samples: int) -> None:
    torch.manual_seed(0)
    encoder = AudioEncoder(config.audio).eval()
    sound = (torch.randn(samples) * 0.1).numpy()
    batch = to_units([sound, sound[:20_000]])
    with torch.no_grad():
        together = encode_units(encoder, WarpedMel(config.mel), batch)[0, : batch.frames[0]]
    mel, apart, length = MelExtractor(config.mel), [], 0
    arena = KVArena(config.audio.num_layers, config.audio.num_heads, config.audio.head_dim, slots=1, capacity=256)
    with torch.inference_mode():
        slot = arena.allocate()
        for start in range(0, samples, 16_000):
            features = mel(sound[start : start + 16_000])
            frames = conv_length(features.shape[1])
            cache = arena.place([slot], [length], [frames], sight=whole)
            apart.append(encoder.stream(features[None], [features.shape[1]], cache)[0, :frames])
            length += frames
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stage", [train_seeing, train_language])
def test_resuming_gives_the_same_numbers(stage: Callable[..., nn.Module], tmp_path: Path) -> None:
    budget = Budget(steps=6, learning_rate=1e-3, warmup=2)
    straight = stage(config, tmp_path / "straight", budget, size=2)
    stage(config, tmp_path / "halves", budget, size=2, until=3)
    resumed = stage(config, tmp_path / "halves", budget, size=2)
    for a, b in zip(straight.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_training_goes_on_from_a_checkpoint_where_its_state_is_lost(tmp_path: Path) -> None:
    budget = Budget(steps=2, learning_rate=1e-3, warmup=1)
    trained = train_language(config, tmp_path / "lost", budget, size=2)
    (tmp_path / "shipped" / "assets").mkdir(parents=True)
    assert export(config, tmp_path / "lost", tmp_path / "shipped") == ["language"]
    unpacked = set(unpack(tmp_path / "new", tmp_path / "shipped"))
    assert {"words", "language", "vocoder"} <= unpacked
    assert "listening" not in unpacked  # it begins with what language learned since
    begun = train_language(config, tmp_path / "new", budget, size=2, until=0)
    for name, weight in trained.llm.state_dict().items():
        torch.testing.assert_close(begun.llm.state_dict()[name], weight, rtol=1e-2, atol=1e-3)


def test_a_table_that_has_grown_begins_with_the_rows_that_it_had() -> None:
    old, new = nn.Embedding(3, 4), nn.Embedding(5, 4)
    more = new.weight[3:].clone()
    begin_at(new, old.state_dict())
    torch.testing.assert_close(new.weight, torch.cat([old.weight, more]))
    begin_at(old, new.state_dict())  # too large for it
    torch.testing.assert_close(old.weight, new.weight[:3])


def test_what_was_unpacked_is_exported_again_unless_it_was_trained(tmp_path: Path) -> None:
    unpack(tmp_path)
    shipped = collect(config, tmp_path)[0]
    train_language(config, tmp_path, Budget(steps=2, learning_rate=1e-3, warmup=1), size=2)
    trained, _, found = collect(config, tmp_path)
    assert {"language", "talker", "seeing", "vocoder"} <= set(found)
    changed = {key.split(".")[0] for key, weight in trained.items() if not torch.equal(weight, shipped[key])}
    assert changed == {"llm"}


def test_the_codec_that_made_the_talkers_codes_is_exported(tmp_path: Path) -> None:
    unpack(tmp_path)
    shipped = collect(config, tmp_path)[0]
    codec = {key.removeprefix("tts."): weight for key, weight in shipped.items() if key.startswith("tts.dvae.")}
    torch.save({"modules": {key: weight + 1 for key, weight in codec.items()}}, tmp_path / "codec.pt")
    torch.save({"modules": {f"tts.{key}": weight for key, weight in codec.items()}}, tmp_path / "talker.pt")
    state = collect(config, tmp_path)[0]
    assert codec
    for key, weight in codec.items():
        torch.testing.assert_close(state[f"tts.{key}"], weight + 1)


def test_a_little_training_lowers_the_loss(tmp_path: Path) -> None:
    train_seeing(config, tmp_path, Budget(steps=24, learning_rate=2e-3, warmup=2), size=4, until=2)
    train_seeing(config, tmp_path, Budget(steps=24, learning_rate=2e-3, warmup=2), size=4)
    entries = [json.loads(line) for line in (tmp_path / "seeing.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]


def test_word_head_learns_to_put_a_word_where_it_ends() -> None:
    torch.manual_seed(0)
    builder = token_builder(config)
    words = HeardWords(builder)
    head = WordHead(words, embedding_table(config.llm.vocab_size, config.llm.hidden_size))
    labels = words.labels("seven four", [0.45, 0.95], 12, 10)
    assert [words.vocabulary[c] for c in labels if c > 0] == words.encode("seven four")
    tokens = nn.Parameter(torch.randn(1, 12, config.llm.hidden_size) * 0.1)
    optimizer = torch.optim.Adam([tokens], 0.1)
    for _ in range(60):
        terms = head.loss(tokens, [12], [words.classes("seven four")], [labels])
        optimizer.zero_grad()
        (terms["word"] + terms["aligned"]).backward()
        optimizer.step()
    assert words.text(head(tokens)[0].argmax(-1).tolist()) == "seven four"


def test_a_word_that_two_tokens_say_counts_as_said_twice() -> None:
    words = HeardWords(token_builder(config))
    table = embedding_table(config.llm.vocab_size, config.llm.hidden_size)
    head = WordHead(words, table)
    [seven] = words.encode("seven")

    def twice(said: str) -> float:
        tokens = table[torch.tensor([[words.blank if c == " " else seven for c in said]])]
        return head.loss(tokens, [4], [words.classes("seven")], [[-100] * 4])["twice"].item()

    assert twice("7   ") < 0.1
    assert twice("77  ") > 0.9
    assert twice("7 7 ") < 0.1


def test_an_unknown_word_is_heard_as_one_that_is_not_known() -> None:
    words = HeardWords(token_builder(config))
    assert words.encode("seven zugzwang") == [words.encode("seven")[0], words.garbage]


def test_word_ends_follow_from_the_phones() -> None:
    names = ["PAU", "S", "EH", "V", "AX", "N", "F", "AO", "R", "PAU"]
    speech = Speech(np.zeros(16_000, np.float32), 16_000, tuple((n, i / 10) for i, n in enumerate(names)))
    assert word_ends("seven four", speech) == pytest.approx((0.6, 0.9))
    assert word_ends("seven", speech) == ()


def test_phone_heads_ignore_frames_without_a_label() -> None:
    torch.manual_seed(0)
    heads, hidden = PhoneHeads(32), torch.randn(1, 20, 32)
    _, none = heads.loss(hidden, [20], [phones_of("seven")], torch.full((1, 20), -100))
    _, some = heads.loss(
        hidden, [20], [phones_of("seven")], torch.cat([torch.full((1, 10), -100), torch.zeros(1, 10).long()], 1)
    )
    assert none.item() == 0
    assert some.item() > 0


def test_whose_voice_it_is_lies_apart_from_the_words() -> None:
    torch.manual_seed(0)
    words = HeardWords(token_builder(config))
    head = WordHead(words, embedding_table(config.llm.vocab_size, config.llm.hidden_size))
    labels = [words.labels("seven", [0.45], 12, 10)] * 2
    table = embedding_table(config.llm.vocab_size, config.llm.hidden_size)[words.vocabulary]
    plain = table[torch.tensor(labels[0]).clamp(min=0)].expand(2, -1, -1)
    tokens = plain + 5 * torch.tensor([1.0, -1.0])[:, None, None] * head.direction
    assert head.voice(tokens, [12, 12], [True, False]) < 0.1
    assert head.voice(tokens, [12, 12], [False, True]) > 1
    assert head.voice(tokens, [12, 12], [None, None]) == 0
    heard = [words.text(row.argmax(-1).tolist()) for row in head(tokens)]
    assert heard == [words.text(head(plain)[0].argmax(-1).tolist())] * 2


def test_patches_know_what_is_drawn_on_them() -> None:
    scene = Scene(True, [Thing("red", "circle", 0, 0), Thing("blue", "star", 2, 2)])
    picture, plan = render_with_plan(scene, random.Random(1), 0.0)
    rows, columns = picture.height // 14, picture.width // 14
    colours, forms = (t.view(rows, columns) for t in patch_targets(scene, plan, (rows, columns)))
    assert colours[rows // 6, columns // 6] == list(PALETTE).index("red") + 1
    assert forms[-rows // 6, -columns // 6] == FORMS.index("star") + 1
    assert colours[rows // 2, columns // 2] == forms[rows // 2, columns // 2] == 0


def test_recorded_words_are_put_together_with_their_ends() -> None:
    bank = bank_of("somebody", [("seven", np.full(1600, 9000, np.int16), 16_000), ("oh", np.ones(800, np.int16), 8000)])
    for seed in range(20):
        text, speech = bank.say(np.random.default_rng(seed))
        assert set(text.split()) <= {"seven", "oh"}
        assert len(speech.word_ends) == len(text.split())
        assert speech.word_ends[-1] <= len(speech.samples) / speech.rate
        assert sorted(speech.word_ends) == list(speech.word_ends)


def test_plain_attention_is_attention() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 7, 8), torch.randn(2, 2, 7, 8), torch.randn(2, 2, 7, 8)
    mask = torch.rand(2, 1, 7, 7) > 0.3
    mask |= torch.eye(7, dtype=torch.bool)
    attend = torch.nn.functional.scaled_dot_product_attention
    torch.testing.assert_close(plain_attention(q, k, v, attn_mask=mask, enable_gqa=True),
                               attend(q, k, v, attn_mask=mask, enable_gqa=True))  # fmt: skip
    torch.testing.assert_close(plain_attention(q, k, v, is_causal=True, enable_gqa=True),
                               attend(q, k, v, is_causal=True, enable_gqa=True))  # fmt: skip


def test_edit_distance() -> None:
    assert edit_distance([1, 2, 3], [1, 3]) == 1
    assert edit_distance([], [1, 2]) == 2
    assert edit_distance([1], [2]) == 1


def test_an_untrained_talker_ends_at_once(tmp_path: Path) -> None:
    from engine.model.tts import ConditionalChatTTS

    state, _, found = collect(config, tmp_path)
    assert found == []
    tts = ConditionalChatTTS(config.tts, config.dvae)
    tts.load_state_dict({k.removeprefix("tts."): v for k, v in state.items() if k.startswith("tts.")}, strict=False)
    codes = torch.randint(0, 625, (1, 5, 4))
    codes[:, 0] = -1
    with torch.no_grad():
        logits = tts.logits(tts(tts.embed_codes(codes)))
    assert (logits.argmax(-1) == config.tts.audio_eos_id).all()
    assert float(logits.softmax(-1)[..., config.tts.audio_eos_id].min()) > 0.9
