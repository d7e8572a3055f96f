"""Stage ``apm_reset``: sound by the second into the streaming encoder, until its cache is full and begins anew.

The set keeps tensors of some seconds and the lengths of the cache. Which inputs were fed is named in the manifest, or
found: the order of sounds, and the system prompt before them, whose first kept tensors come closest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.client import INPUT_RATE
from engine.conversation.streaming import StreamingModel
from engine.conversation.work import Hear
from engine.parity.goldens import GoldenSet, SetError
from engine.parity.layout import Sound
from engine.parity.ledger import SIGNAL, STATES, StageRow
from engine.parity.probe import Probe
from engine.parity.sampled import gap, sampled
from engine.processing.prompts import Message, get_sys_prompt

STAGE = "apm_reset"
FIELDS = {
    "input_ids": "ids",
    "merged_embeds": "merged",
    "logits_last": "logits",
    "mel": "mel",
    "apm_last_hidden": "states",
    "last_hidden": "states",
    "audio_projection": "projected",
    "projection": "projected",
    "embeds": "vectors",
    "embeddings": "vectors",
}
"""What a key holds, by the words in it; the longer word counts."""


@dataclass(frozen=True, slots=True)
class HeardSound:
    """All of one piece of sound, which was a message of its own."""

    ids: Tensor
    merged: Tensor
    logits: Tensor
    mel: Tensor
    states: Tensor
    projected: Tensor
    vectors: Tensor
    cached: int
    """Frames in the cache afterwards."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An expected tensor of one piece."""

    key: str
    piece: int
    what: str


def compare_hearing(goldens: GoldenSet, stream: StreamingModel, row: StageRow) -> None:
    kept = _kept(goldens)
    lengths = _lengths(goldens.manifest)
    count = max([len(lengths), *(entry.piece + 1 for entry in kept)])
    heard = _fed(goldens, stream, kept, lengths, count)
    for entry in kept:
        expected, own = goldens.take(entry.key), getattr(heard[entry.piece], entry.what)
        if entry.what == "ids":
            row.same(entry.key, own, expected.flatten())
        else:
            row.close(entry.key, sampled(own, expected), expected, SIGNAL if entry.what == "mel" else STATES)
    for piece, length in lengths.items():
        row.same(f"{STAGE}: frames in the cache after piece {piece}", heard[piece].cached, length)
    for key, _ in goldens.keys(rf"{STAGE}\..*cache_len.*"):
        expected = goldens.take(key)
        row.same(key, sampled(torch.tensor([piece.cached for piece in heard]), expected.flatten()), expected.flatten())
    if max((piece.cached for piece in heard), default=0) and not _was_reset(heard):
        row.problems.append(f"{STAGE} has {count} pieces, too few to fill the cache of the encoder")


def _was_reset(heard: Sequence[HeardSound]) -> bool:
    return any(after.cached < before.cached for before, after in pairwise(heard))


def _kept(goldens: GoldenSet) -> list[Kept]:
    """The set's tensors of single pieces: a number (unit, chunk, step …) and a word for what it is are in their key."""
    found = []
    for key, _ in goldens.keys(rf"{STAGE}\..*"):
        rest = re.sub(r"_?every\d+(st|nd|rd|th)|_?(first|last|head|tail)\d+", "", key.removeprefix(f"{STAGE}."))
        number = re.search(r"\d+", rest)
        words = [word for word in FIELDS if re.search(rf"(^|[._\d]){word}($|[._\d])", rest)]
        if number and words:
            found.append(Kept(key, int(number[0]), FIELDS[max(words, key=len)]))
    return found


def _lengths(manifest: dict[str, Any]) -> dict[int, int]:
    """Cache lengths by piece: a list or a mapping in the stage's entry, or the set's list of steps."""
    lengths: dict[int, int] = {}
    own = manifest.get(STAGE)
    for name, value in own.items() if isinstance(own, dict) else []:
        if "cache_len" in name and isinstance(value, list):
            lengths |= dict(enumerate(value))
        elif "cache_len" in name and isinstance(value, dict):
            lengths |= {int(number[0]): after for key, after in value.items() if (number := re.search(r"\d+", key))}
    for key, after in manifest.get("apm_cache_len_after", {}).items():
        if key.startswith(f"{STAGE}.") and (number := re.search(r"\d+", key)):
            lengths[int(number[0])] = after
    return lengths


def _fed(
    goldens: GoldenSet, stream: StreamingModel, kept: Sequence[Kept], lengths: Mapping[int, int], count: int
) -> list[HeardSound]:
    """What becomes of the sounds that come closest to the first pieces that the set keeps."""
    first = sorted(kept, key=lambda entry: entry.piece)[:3]
    tried = first[-1].piece + 1 if first else min(count, 2)
    best: tuple[float, list[Sound], Message | None] | None = None
    for sounds, prompt in product(_orders(goldens, count), _prompts(goldens)):
        heard = _hear(stream, sounds[:tried], prompt)
        gaps = [gap(getattr(heard[entry.piece], entry.what), goldens.expected[entry.key]) for entry in first]
        wrong = sum(piece.cached != lengths.get(index, piece.cached) for index, piece in enumerate(heard))
        far = max(gaps, default=0.0) + wrong
        if best is None or far < best[0]:
            best = far, sounds, prompt
    if best is None:
        raise SetError(f"inputs.safetensors holds no sound for the {count} pieces of {STAGE}")
    return _hear(stream, best[1], best[2])


def _prompts(goldens: GoldenSet) -> list[Message | None]:
    """What may have come first. Without a prompt the first piece begins the session, and is forgotten after it."""
    voices = [sound for name, sound in goldens.sounds.items() if name.startswith("ref")]
    return [*(get_sys_prompt(voice, "omni", "en") for voice in (None, *voices)), None]


def _orders(goldens: GoldenSet, count: int) -> Iterator[list[Sound]]:
    """Orders of inputs that give ``count`` pieces: named ones, a long one in seconds, and some again and again."""
    sounds = goldens.sounds
    entry = goldens.manifest.get(STAGE)
    for value in entry.values() if isinstance(entry, dict) else []:
        names = value if isinstance(value, list) else [value]
        if names and all(isinstance(name, str) and name in sounds for name in names):
            yield from _repeated([sounds[name] for name in names], count)
    for sound in sounds.values():
        seconds = [sound[at : at + INPUT_RATE] for at in range(0, len(sound), INPUT_RATE)]
        if len(seconds) >= count:
            yield seconds[:count]
    whole = {name: sound for name, sound in sounds.items() if len(sound) == INPUT_RATE}
    own = [sound for name, sound in sorted(sounds.items(), key=_by_number) if name.startswith(STAGE)]
    units = [sound for name, sound in whole.items() if name.startswith("unit")]
    for group in (own, units, list(whole.values()), *([sound] for sound in whole.values())):
        if group:
            yield from _repeated(group, count)


def _by_number(item: tuple[str, Sound]) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", item[0]))


def _repeated(group: Sequence[Sound], count: int) -> Iterator[list[Sound]]:
    yield [group[index % len(group)] for index in range(count)]
    if len(group) == 1 and len(group[0]) > INPUT_RATE:  # one sound over and over, cut into seconds
        endless = np.tile(group[0], -(-count * INPUT_RATE // len(group[0])))
        yield [endless[at * INPUT_RATE : (at + 1) * INPUT_RATE] for at in range(count)]


@torch.inference_mode()
def _hear(stream: StreamingModel, sounds: Sequence[Sound], prompt: Message | None) -> list[HeardSound]:
    """Every piece as a message of one session."""
    probe, state = Probe(stream), stream.open()
    pieces = []
    try:
        if prompt is not None:
            probe.run(stream.feed(state, stream.prepare(state, prompt)))
        for sound in sounds:
            prepared = stream.prepare(state, Message("user", [sound]))
            run = probe.run(stream.feed(state, prepared))
            (record,), fed = run.of(Hear), run.outputs[0]
            pieces.append(
                HeardSound(
                    ids=torch.from_numpy(prepared.row.ids),
                    merged=fed.embeds,
                    logits=stream.model.llm.logits(fed.states[-1]),
                    mel=record.work.mel,
                    states=record.outputs["ears"][0][0],
                    projected=record.outputs["audio_projection"][0][0],
                    vectors=record.result,
                    cached=record.count,
                )
            )
        return pieces
    finally:
        stream.pool.drop(state)
