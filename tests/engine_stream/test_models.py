"""Training passes without caches equal streaming passes with them, and gradients reach every weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine.checkpoint.loader import LoadedModel
from engine.model.dvae import DVAE
from engine.model.tts import ConditionalChatTTS
from engine.model.vocos import Vocos


def fresh(module: nn.Module) -> None:
    """Weights that can be trained: the loaded ones are frozen."""
    module.requires_grad_(True).train()


@torch.inference_mode()
def test_teacher_forcing_sees_what_streaming_saw(loaded: LoadedModel) -> None:
    """The mask for whole sequences equals text prefills and audio steps one by one, for texts of two lengths."""
    tts = loaded.model.tts
    config = tts.config
    lengths, codes = torch.tensor([4, 37]), torch.randint(0, config.audio_eos_id, (2, 70, config.num_vq))
    head = 1 + config.num_spk_embs
    text = torch.randint(5, config.num_text_tokens - 20, (2, config.condition_length - 1))
    speaker = nn.functional.normalize(torch.randn(2, config.hidden_size), dim=-1)
    begin = torch.full((2, 1, config.num_vq), -1)
    embeds = torch.cat([tts.embed_text(text, speaker), tts.embed_codes(torch.cat([begin, codes], 1))], 1)
    mask = tts.training_mask(lengths, embeds.shape[1])
    states = tts(embeds, attention_mask=mask)

    store = tts.model.arena(slots=2, capacity=512)
    text_states = []
    for row, length in enumerate(lengths.tolist()):
        filled = head + length + 1
        cache = store.place([row], [0], [filled])
        text_states.append(tts(embeds[row : row + 1, :filled], cache=cache)[0])
        torch.testing.assert_close(text_states[row], states[row, :filled], rtol=1e-4, atol=1e-5)
    cache = store.place([0, 1], [config.condition_length - 1] * 2, [1, 1], sight=tts.sight(lengths), steps=71)
    for step in range(71):
        at = config.condition_length - 1 + step
        stepped = tts(embeds[:, at : at + 1], cache=cache)
        torch.testing.assert_close(stepped[:, 0], states[:, at], rtol=1e-4, atol=1e-4)
        cache = cache.advance()


@pytest.mark.parametrize(("codes", "slots"), [(0, 10), (48, 10), (49, 20), (98, 20), (99, 30), (2000, 300)])
def test_the_text_window_grows_with_the_codes(loaded: LoadedModel, codes: int, slots: int) -> None:
    """Code number ``codes`` sees so many text slots: 49 codes with ten, then ten more per fifty."""
    tts = loaded.model.tts
    config = tts.config
    keys = torch.arange(config.condition_length + 2100)
    past = torch.tensor([[config.condition_length - 1 + codes]])
    seen = tts.sight(torch.tensor([400]))(past, keys, past[:, 0] + 1)[0, 0]
    head = 1 + config.num_spk_embs
    assert int(seen[: config.condition_length].sum()) == head + slots
    assert not seen[config.condition_length - 1]
    assert int(seen[config.condition_length :].sum()) == codes


def test_gradients_reach_every_weight(loaded: LoadedModel) -> None:
    config = loaded.config
    tts = ConditionalChatTTS(config.tts, config.dvae)
    codes = torch.randint(0, config.tts.audio_eos_id, (2, 5, config.tts.num_vq))
    speaker = tts.speaker(torch.randn(2, config.tts.llm_dim))
    ids = torch.tensor([[config.tts.spk_emb_token_id, 6, 7], [config.tts.spk_emb_token_id, 8, 9]])
    embeds = torch.cat([tts.embed_text(ids, speaker), tts.embed_codes(codes)], 1)
    exists = torch.ones(2, 8)
    exists[1, 6:] = 0
    loss = tts.logits(tts(embeds, attention_mask=exists)).sum()
    mel, again = tts.dvae(torch.randn(2, config.dvae.num_mel_bins, 12))
    assert again.shape == (2, config.tts.num_vq, 6)
    (loss + mel.sum()).backward()
    idle = {name for name, weight in tts.named_parameters() if weight.grad is None}
    assert idle == {"model.embed_tokens.weight"}
    vocos = Vocos(config.vocos)
    vocos(torch.randn(1, config.vocos.input_channels, 4)).sum().backward()
    assert all(weight.grad is not None for weight in vocos.parameters())


@torch.inference_mode()
def test_codes_survive_the_round_trip(loaded: LoadedModel) -> None:
    """Quantised features decode to the codes' own, and quantising them again changes nothing."""
    dvae = loaded.model.tts.dvae
    mel = torch.randn(2, dvae.config.num_mel_bins, 40)
    codes, features = dvae.encode(mel)
    assert codes.shape == (2, 4, 20)
    assert int(codes.min()) >= 0
    assert int(codes.max()) < 625
    torch.testing.assert_close(dvae.features(codes), features)


def reach(module: nn.Module, frames: int, run: str, per_frame: int, channels: int) -> int:
    """Frames on the left that output frame ``frames // 2`` depends on, by its gradient."""
    x = torch.randn(1, channels, frames, dtype=torch.float64, requires_grad=True)
    made: Tensor = getattr(module.double(), run)(x)
    at = frames // 2 * per_frame
    made[..., at : at + per_frame].sum().backward()
    assert x.grad is not None
    touched = x.grad.abs().sum((0, 1)).nonzero()[:, 0]
    return frames // 2 - int(touched.min())


def test_receptive_fields_are_measured(loaded: LoadedModel) -> None:
    config = loaded.config

    class Frames(DVAE):
        def spread(self, x: Tensor) -> Tensor:
            out: Tensor = self.out_conv(self.decoder(x)) * self.coef
            return out

    dvae = Frames(config.dvae)
    for weight in dvae.parameters():
        nn.init.normal_(weight, std=0.5)
    assert reach(dvae, 61, "spread", 1, config.dvae.idim) == dvae.receptive_field

    class Double(Vocos):
        def spread(self, mel: Tensor) -> Tensor:
            out: Tensor = self.head(self.backbone(mel))
            return out

    vocos = Double(config.vocos)
    assert reach(vocos, 61, "spread", config.vocos.hop_length, config.vocos.input_channels) == vocos.receptive_field


def test_tied_heads_share_their_table(loaded: LoadedModel) -> None:
    from dataclasses import replace

    from engine.model.llm import LanguageModel

    llm = LanguageModel(replace(loaded.config.llm, tie_word_embeddings=True))
    assert llm.lm_head.weight is llm.model.embed_tokens.weight
