"""Stages *open-codec*, *open-vocoder* and *open-talker*: the voice that small speaks with.

Each begins at mini's shipped weights (:func:`begin`). The codec comes first; the vocoder and the talker need it, and
the talker must begin anew after every change of the codec's codes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.config import OmniConfig
from engine.conversation.speech import CONTEXT_CODES, CONTEXT_TEXT
from engine.mini.export import unpack
from engine.mini.open_voice.synthesis import Hibari, TimedSpeech
from engine.mini.phones import SYMBOLS
from engine.mini.sound.pronunciation import PHONES as MINI_PHONES
from engine.mini.sound.voice_data import HOP, log_mel
from engine.mini.stages.training import Budget, Losses, load_modules, train
from engine.mini.stages.voice import Codec, Talker, Vocoder, crops, spectral_loss, talker_losses
from engine.mini.tokenizers import TTS_SPECIALS
from engine.processing.pronunciation import STRESSES, WIDE

JUDGES = 40
BLUR = 0.03
"""Noise on each element of a voice's unit vector, so that what lies near it is the same voice."""
CORRUPTED = 0.3
"""Share of the codes so far that are random at most."""
JOINED, LONGEST = 0.25, 420
"""Share of sentences that another one follows, and how many codes the two may have."""
GOING_ON = 0.08
"""Share of texts that go on from a stretch of speech before."""
MOST_CODES = 2_100
"""Codes of a batch, padding included."""
SAME_SOUND = {
    "A": "EY", "I": "AY", "O": "OW", "W": "AW", "Y": "OY", "i": "IY", "u": "UW", "æ": "AE", "ɑ": "AA", "ɔ": "AO",
    "ə": "AX", "ɛ": "EH", "ɜ": "ER", "ɪ": "IH", "ʊ": "UH", "ʌ": "AH", "ᵊ": "AX", "ᵻ": "IH", "ɐ": "AX", "b": "B",
    "d": "D", "f": "F", "h": "HH", "j": "Y", "k": "K", "l": "L", "m": "M", "n": "N", "p": "P", "s": "S", "t": "T",
    "v": "V", "w": "W", "z": "Z", "ð": "DH", "ŋ": "NG", "ɡ": "G", "ɹ": "R", "ʃ": "SH", "ʒ": "ZH", "ʤ": "JH", "ʧ": "CH",
    "θ": "TH", "T": "D",
}  # fmt: skip
"""Phones of the lexicon, and the ones that mini's talker knows for them."""


def said(folder: Path, hibari: Callable[[], Hibari], texts: Callable[[], list[str]], count: int) -> list[TimedSpeech]:
    """``count`` sentences, 45 % of them the man's, made once and kept in ``folder``."""
    file = folder / "open-voice.npz"
    if not file.exists():
        speak, source = hibari(), random.Random(5)
        made = [speak(text, int(source.random() < 0.45), seed) for seed, text in enumerate(texts()[:count])]
        index = [[s.voice, s.text, len(s.samples), s.tokens, s.starts] for s in made]
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(file, audio=np.concatenate([s.samples for s in made]), index=np.array(json.dumps(index)))
    stored = np.load(file)
    audio, found, at = stored["audio"], [], 0
    for voice, text, length, tokens, starts in json.loads(str(stored["index"])):
        found.append(TimedSpeech(voice, text, audio[at : at + length], tuple(tokens), tuple(starts)))
        at += length
    return found


def begin(folder: Path) -> None:
    """Lets the stages of a new folder begin at mini's weights."""
    if not (folder / "open-codec.start.pt").exists():
        unpack(folder / "mini")
        for stage in ("codec", "vocoder", "talker"):
            (folder / "mini" / f"{stage}.start.pt").replace(folder / f"open-{stage}.start.pt")


def train_codec(config: OmniConfig, folder: Path, data: list[TimedSpeech], budget: Budget, *, size: int = 12) -> Codec:
    """DVAE: log-mel through four codes a token and back, L1."""
    torch.manual_seed(0)
    codec = Codec(config)

    def loss(wave: Tensor, _: float) -> Losses:
        mel = log_mel(wave)
        return {"loss": (codec.dvae(mel)[0].float() - mel).abs().mean()}

    judge = crops(data[-JUDGES:], 1, 16, 128)  # type: ignore[arg-type]
    train("open-codec", folder, codec, crops(data[:-JUDGES], 2, size, 96), loss, budget,  # type: ignore[arg-type]
          evaluate=lambda: {"l1": float(loss(judge(0), 1.0)["loss"])}, every=60)  # fmt: skip
    return codec


def train_vocoder(
    config: OmniConfig, folder: Path, data: list[TimedSpeech], budget: Budget, *, size: int = 8
) -> Vocoder:
    """Vocos: log-mel to wave; most batches hear what the codec makes of the mel."""
    torch.manual_seed(0)
    vocoder, codec = Vocoder(config), _codec(config, folder)

    def loss(wave: Tensor, coded: bool) -> Losses:
        mel = log_mel(wave)
        heard = mel
        if coded:
            with torch.no_grad():
                heard = codec.dvae(mel)[0].float()
        made = vocoder.vocos(heard)
        spectral, distance = spectral_loss(made, wave), (log_mel(made) - mel).abs().mean()
        return {"loss": spectral + distance, "spectral": spectral, "mel": distance}

    judge = crops(data[-JUDGES:], 1, 16, 128)  # type: ignore[arg-type]
    train("open-vocoder", folder, vocoder, crops(data[:-JUDGES], 3, size, 48),  # type: ignore[arg-type]
          lambda wave, _: loss(wave, int(wave.abs().sum() * 1_000) % 10 < 7), budget,
          evaluate=lambda: {"judge_mel": float(loss(judge(0), True)["mel"])}, every=60)  # fmt: skip
    return vocoder


class OpenTalker(Talker):
    """A talker that is told its voice by the unit vector itself: no language model is there to say it."""

    def __init__(self, config: OmniConfig) -> None:
        super().__init__(config)
        self.tts.projector = nn.Identity()  # type: ignore[assignment]


Item = tuple[int, list[int], Tensor, list[int]]
"""Voice, ids, codes int64 [codes, num_vq], and the index into ids of what every code says (-1: nothing yet)."""


class OpenTalkerData:
    """Batches of sentences of like length; now and then one is followed by another of its voice."""

    def __init__(self, data: list[TimedSpeech], codec: Codec, voices: Tensor) -> None:
        """``voices``: unit vectors [2, tts hidden]."""
        ids = {symbol: number for number, symbol in enumerate(SYMBOLS)}
        self.voices, self.items = voices, list[Item]()
        for sentence in data:
            wave = torch.from_numpy(sentence.samples.astype(np.float32) / 32767)[None]
            with torch.no_grad():
                codes = codec.dvae.encode(log_mel(wave))[0][0].T.contiguous()
            middles = (np.arange(len(codes)) + 0.5) * 2 * HOP
            spoken = np.searchsorted(np.array(sentence.starts), middles, side="right") - 1
            self.items.append((sentence.voice, [ids[token] for token in sentence.tokens], codes, spoken.tolist()))
        self.training, self.judges = self.items[:-JUDGES], self.items[-JUDGES:]
        self.of = [[item for item in self.training if item[0] == voice] for voice in range(len(voices))]

    def batch(self, seed: int, size: int) -> Callable[[int], Any]:
        def make(step: int) -> Any:
            source = random.Random(seed * 1_000_003 + step)
            drawn = sorted((self._draw(source) for _ in range(4 * size)), key=lambda item: len(item[2]))
            at = source.randrange(4) * size
            chosen = drawn[at : at + size]
            return self.packed(chosen[: max(3, MOST_CODES // len(chosen[-1][2]))], source.randrange(1 << 31))

        return make

    def _draw(self, source: random.Random) -> Item:
        item = self._sentences(source)
        return _going_on(item, source) if source.random() < GOING_ON else item

    def _sentences(self, source: random.Random) -> Item:
        voice, ids, codes, spoken = source.choice(self.training)
        if source.random() < JOINED:
            _, more, following, after = source.choice(self.of[voice])
            if len(codes) + len(following) < LONGEST:
                spoken = spoken + [len(ids) - 1 if at < 0 else at + len(ids) for at in after]
                return voice, ids + more, torch.cat([codes, following]), spoken
        return voice, ids, codes, spoken

    def packed(self, chosen: list[Item], seed: int) -> Any:
        """What :func:`~engine.mini.stages.voice.talker_losses` takes."""
        vectors = self.voices[[voice for voice, *_ in chosen]]
        blur = BLUR * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed))
        return chosen, F.normalize(vectors + blur, dim=-1), seed


def _going_on(item: Item, source: random.Random) -> Item:
    """``item`` as if a stretch of speech before it ended inside: the last of its text and codes come first."""
    voice, ids, codes, spoken = item
    if len(ids) > 4 * CONTEXT_TEXT:
        at = source.randrange(2 * CONTEXT_TEXT, len(ids) - CONTEXT_TEXT)
        code = next((place for place, token in enumerate(spoken) if token >= at), 0)
        if code > CONTEXT_CODES:
            first = at - CONTEXT_TEXT
            left = [token - first if token >= first else -1 for token in spoken[code - CONTEXT_CODES :]]
            return voice, ids[first:], codes[code - CONTEXT_CODES :], left
    return item


def train_talker(
    config: OmniConfig, folder: Path, data: list[TimedSpeech], voices: Tensor, budget: Budget, *, size: int = 12
) -> OpenTalker:
    """ConditionalChatTTS: phones to codes. ``config`` has room for :data:`~engine.mini.phones.SYMBOLS`."""
    torch.manual_seed(0)
    talker, codec = OpenTalker(config), _codec(config, folder)
    start = held_by(folder / "open-talker.start.pt")
    start["tts.emb_text.weight"] = _phone_table(start["tts.emb_text.weight"])
    torch.save({"modules": start}, folder / "open-talker.start.pt")
    talker.tts.dvae.load_state_dict(codec.dvae.state_dict())
    batches = OpenTalkerData(data, codec, voices)

    def aligned(made: Any, corruption: float) -> Losses:
        losses = talker_losses(talker, made, corruption)
        return losses | {"loss": losses["loss"] + 0.3 * losses["align"]}

    def evaluate() -> dict[str, float]:
        losses = talker_losses(talker, batches.packed(batches.judges, 0), 0.0)
        return {f"judge_{name}": value.item() for name, value in losses.items()}

    train("open-talker", folder, talker, batches.batch(4, size),
          lambda made, progress: aligned(made, CORRUPTED * min(1.0, 0.2 + 2 * progress)), budget,
          evaluate=evaluate, every=60)  # fmt: skip
    return talker


def held_by(path: Path) -> dict[str, Tensor]:
    """The modules that a stage keeps."""
    modules: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)["modules"]
    return modules


def _codec(config: OmniConfig, folder: Path) -> Codec:
    codec = Codec(config)
    if not load_modules(folder, "open-codec", codec):
        raise FileNotFoundError(f"{folder}/open-codec.pt is missing; run the stage open-codec first")
    return codec.eval()


def _phone_table(old: Tensor) -> Tensor:
    """The rows of mini's phones for those of the lexicon; stress is a direction of its own."""
    if len(old) == len(SYMBOLS):
        return old
    known = {symbol: row for row, symbol in enumerate([*TTS_SPECIALS, *MINI_PHONES.values(), ",", ".", "?"])}
    narrow = {chr(wide): chr(plain) for plain, wide in WIDE.items()}
    generator = torch.Generator().manual_seed(1)
    marks = {mark: 0.3 * float(old.std()) * torch.randn(old.shape[1], generator=generator) for mark in STRESSES[1:]}
    rows = []
    for symbol in SYMBOLS:
        if symbol in known:
            rows.append(old[known[symbol]])
        elif symbol == "!":
            rows.append(old[known["."]])
        else:
            sound = old[known[MINI_PHONES[SAME_SOUND[narrow.get(symbol[-1], symbol[-1])]]]]
            rows.append(sound + marks[symbol[0]] if len(symbol) > 1 else sound)
    return torch.stack(rows)
