"""Reads words from what the ears heard: Whisper's decoder, with the draft of an earlier reading to check first.

The decoder was trained on clips of 30 s with silence at their end, and where it sees no end it goes round in circles.
So the sound is followed by what the encoder makes of silence, computed once: it costs nothing but a longer attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.conversation.reading import Reading, Transcribed
from engine.errors import NotFiniteError
from engine.model.audio import FRAMES_PER_SECOND, AudioEncoder
from engine.model.word_decoder import WordDecoder

SILENCE = -0.8
"""Log-mel of the silence behind the sound: as far below ordinary speech as Whisper's front end lets silence be."""

BEYOND_FRAMES = 25
"""Silence that the encoder hears behind the sound, frames of 20 ms, before what it makes of silence alone: it has to
hear that the sound ends. Without, the decoder reads a lone digit time and again (19 of 30 right with it, 8 without)."""

TAIL_S = 15
"""Silence that the decoder sees behind the sound, seconds. With 10 it ends as surely, with 5 not always."""

TOKENS_PER_SECOND, TOKENS_MORE = 10, 8
"""A reading has no more tokens than this: nobody speaks faster (spelled letters take two tokens each)."""


LEAST_END = -3.0
"""Log-probability of the end from which a reading ends rather than begin anew with its first token. It was -0.8 to -2.1
where lone digits were read twice, and -3.7 to -11 where somebody said a word twice."""


def with_silence(mel: Tensor) -> Tensor:
    """Log-mel [bins, M] with the silence of :data:`BEYOND_FRAMES` behind it."""
    return F.pad(mel, (0, 2 * BEYOND_FRAMES), value=SILENCE)


class WordReader:
    """One model's decoder with what all readings share. Keeps nothing of any call."""

    def __init__(self, ears: AudioEncoder, decoder: WordDecoder) -> None:
        self.decoder, self.config = decoder, decoder.config
        self._arena = self.decoder.arena()
        bins, frames, weight = ears.config.num_mel_bins, ears.config.max_positions, ears.layer_norm.weight
        device, dtype = weight.device, weight.dtype
        with torch.inference_mode():
            silence = torch.full((1, bins, 2 * frames), SILENCE, device=device, dtype=dtype)
            self._tail = self.decoder.listen(ears(silence, [2 * frames], chunk_length=0)[0])
            self._banned = torch.zeros(self.config.vocab_size, dtype=torch.bool, device=device)
            self._banned[list(self.config.suppressed_ids)] = True
            self._banned[[*self.config.prompt_ids, self.config.no_speech_id]] = True
            self._banned[self.config.end_id] = False

    def read(self, reading: Reading) -> Transcribed:
        """Read all the sound of ``reading``, beginning with its certain tokens. Raises NotFiniteError.

        Greedy; the tokens of the reading before are checked in one pass, and only what comes after the first that is
        other now is drawn one by one.
        """
        config, certain = self.config, reading.certain
        sound, frames = self._sound(reading), reading.frames
        limit = TOKENS_PER_SECOND * frames // FRAMES_PER_SECOND + TOKENS_MORE
        most = certain + max(1, min(limit, config.max_positions - len(config.prompt_ids) - 1) - certain)
        ids, place = list(reading.ids[:certain]), len(config.prompt_ids) + certain
        drawn = self._draw(self._pass([*config.prompt_ids, *reading.ids], 0, sound)[place - 1 :])
        chances: list[float] = []
        drafted = list(reading.ids[certain:])
        while len(ids) < most:
            token, chance, end = drawn.pop(0)
            if ids and token == ids[0] and end >= LEAST_END:
                token, chance = config.end_id, end
            chances.append(chance)
            if token == config.end_id:
                break
            ids.append(token)
            if drafted and drafted[0] == token:
                del drafted[0]
            else:
                drawn, drafted = self._draw(self._pass([token], place, sound)), []
            place += 1
        return Transcribed(tuple(ids), sum(chances) / len(chances) if chances else 0.0)

    def _sound(self, reading: Reading) -> Tensor:
        """Keys and values of the sound and of the silence behind it."""
        frames = reading.frames
        tail = self._tail[:, :, :, frames : frames + TAIL_S * FRAMES_PER_SECOND]
        return torch.cat([*reading.sound, tail], 3)

    def _pass(self, ids: Sequence[int], start: int, sound: Tensor) -> Tensor:
        """States [T, d_model] of tokens from position ``start`` on."""
        cache = self._arena.place([0], [start], [len(ids)])
        states: Tensor = self.decoder(torch.tensor([ids], device=sound.device), cache, sound)[0]
        return states

    def _draw(self, states: Tensor) -> list[tuple[int, float, float]]:
        """The likeliest token after each of ``states`` [T, d_model], its log-probability, and that of the end."""
        scores = self.decoder.logits(states)
        if not scores.isfinite().all():
            raise NotFiniteError
        best, tokens = scores.masked_fill_(self._banned, float("-inf")).max(-1)
        chances = torch.stack((best, scores[:, self.config.end_id])) - scores.logsumexp(-1)
        return list(zip(tokens.tolist(), *chances.tolist(), strict=True))
