"""Does a word begin when the engine says so? An independent recogniser listens to spoken answers.

``python -m engine.mini.measure.alignment`` asks the shipped checkpoint for answers in calls of several turns, as the
app would, and has pocketsphinx find every word in the sound: it is told the words, and says when each begins. Printed
is how far the engine's starts are from that, in milliseconds: where a word was announced (when it was written, before
its sound), and where it was when its sound was handed over, which is what captions and memory go by. And how long a
caller waits for the first sound, and how much of that is silence.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.client import OUTPUT_RATE, EngineSession, SessionOptions, Unit
from engine.mini.layout import CHECKPOINT
from engine.mini.measure.intelligibility import questions
from engine.mini.sound.augment import RATE, resample
from engine.mini.world import grammar
from engine.serving.factory import create_engine
from engine.spec import EngineSpec
from engine.spoken import SpokenText

TURNS = 5
"""Answers of a call; the pace of a voice is learned over them."""
LIMIT_MS = 250
LOUD = 0.01
"""Of full scale: from here on a sound is heard."""
AROUND = RATE // 5
"""Silence before and after what the recogniser listens to."""


@dataclass(slots=True)
class SpokenAnswer:
    """One answer as a caller gets it."""

    text: str = ""
    pcm: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))
    announced: dict[int, int] = field(default_factory=dict)
    """Samples at which words begin, by their first character: as they were first told."""
    starts: dict[int, int] = field(default_factory=dict)
    """When their sound came."""
    first_sound_s: float = 0.0

    def words(self) -> list[tuple[int, str]]:
        """Words as the recogniser knows them, each with the first character of its piece."""
        bounds = [*sorted(self.starts), len(self.text)]
        pieces = [(begin, grammar.plain(self.text[begin:end]).strip()) for begin, end in pairwise(bounds)]
        return [(begin, word) for begin, word in pieces if word]

    @property
    def silence_s(self) -> float:
        """Seconds before the first sample that is heard."""
        loud = np.flatnonzero(np.abs(self.pcm) > LOUD * 32767)
        return float(loud[0]) / OUTPUT_RATE if len(loud) else 0.0


async def ask(session: EngineSession, question: str, epoch: int) -> SpokenAnswer:
    """One turn of a call: typed, answered and heard to the end."""
    await session.prefill(Unit(text=question))
    spoken, table, made = SpokenAnswer(), SpokenText(), 0
    begun = time.perf_counter()
    async for chunk in session.generate(epoch):
        table.add(chunk.text, chunk.starts)
        for character, sample in chunk.starts:
            spoken.announced.setdefault(character, sample)
        if len(chunk.pcm) and not made:
            spoken.first_sound_s = time.perf_counter() - begun
        spoken.pcm = np.concatenate([spoken.pcm, chunk.pcm])
        spoken.starts |= {c: s for c, s in table.starts if made <= s < len(spoken.pcm) or chunk.finish}
        made = len(spoken.pcm)
    await session.heard(epoch, made)
    spoken.text = table.text
    return spoken


async def answers(count: int, voice: str, model: Path) -> list[SpokenAnswer]:
    """Answers to ``count`` questions, in calls of :data:`TURNS`."""
    engine = create_engine(EngineSpec(model=str(model), device="cpu", in_process=True))
    await engine.start()
    try:
        spoken = []
        turns = questions(count)
        for begin in range(0, count, TURNS):
            session = await engine.open(SessionOptions(voice=voice, seed=begin))
            for epoch, turn in enumerate(turns[begin : begin + TURNS], 1):
                spoken.append(await ask(session, turn.heard, epoch))
            await session.close()
        return spoken
    finally:
        await engine.stop()


class Aligner:
    """Pocketsphinx, told which words are said. Raises ImportError where it is not installed."""

    def __init__(self) -> None:
        from pocketsphinx import Config, Decoder, get_model_path  # type: ignore[import-untyped]

        config = Config(hmm=get_model_path("en-us/en-us"), dict=get_model_path("en-us/cmudict-en-us.dict"), lm=None)
        config.set_string("-logfn", "/dev/null")
        self._decoder = Decoder(config)

    def starts(self, words: list[str], pcm: NDArray[np.int16]) -> list[float] | None:
        """The second at which each of ``words`` begins in ``pcm`` (24 kHz); None where it does not find them all, or
        does not know one."""
        if not words or any(not self._decoder.lookup_word(word) for word in words):
            return None
        wave = resample((pcm / 32768).astype(np.float32), OUTPUT_RATE, RATE)
        wave = np.pad(0.5 * wave / max(1e-3, float(np.abs(wave).max(initial=0))), AROUND)
        self._decoder.set_align_text(" ".join(words))
        self._decoder.start_utt()
        self._decoder.process_raw(np.round(wave * 32767).astype(np.int16).tobytes(), full_utt=True)
        self._decoder.end_utt()
        if self._decoder.hyp() is None:
            return None
        found = [(re.sub(r"\(\d+\)", "", part.word), part.start_frame) for part in self._decoder.seg()]
        said = [(word, frame) for word, frame in found if word[0] not in "<["]
        if [word for word, _ in said] != words:
            return None
        return [frame / 100 - AROUND / RATE for _, frame in said]


def errors(spoken: list[SpokenAnswer], aligner: Aligner) -> tuple[list[float], list[float], int]:
    """Milliseconds by which words begin later than was announced, and than was told with their sound; and the answers
    in which the recogniser did not find its words."""
    early, final, lost = [], [], 0
    for answer in spoken:
        pieces = [(at, word) for at, piece in answer.words() for word in piece.split()[:1]]
        every = [word for _, piece in answer.words() for word in piece.split()]
        heard = aligner.starts(every, answer.pcm) if len(every) == len(pieces) else None
        if heard is None:
            lost += 1
            continue
        for (at, _), second in zip(pieces, heard, strict=True):
            early.append(1000 * (second - answer.announced[at] / OUTPUT_RATE))
            final.append(1000 * (second - answer.starts[at] / OUTPUT_RATE))
    return early, final, lost


def distribution(name: str, values: list[float]) -> str:
    off = np.abs(values)
    spread = ", ".join(f"{share} % within {np.quantile(off, share / 100):.0f}" for share in (50, 90, 99))
    within = 100 * float(np.mean(off <= LIMIT_MS))
    return f"  {name}: {spread}, all within {off.max():.0f} ms; {within:.1f} % within {LIMIT_MS} ms"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m engine.mini.measure.alignment", description=__doc__)
    parser.add_argument("--count", type=int, default=50, help="answers of each voice")
    parser.add_argument("--model", type=Path, default=CHECKPOINT, help="checkpoint in place of the shipped one")
    args = parser.parse_args()
    aligner = Aligner()
    for voice in ("default", *sorted(path.stem for path in (args.model / "assets" / "voices").glob("*.wav"))):
        spoken = asyncio.run(answers(args.count, voice, args.model))
        early, final, lost = errors(spoken, aligner)
        print(f"{voice}: {len(final)} words of {len(spoken) - lost} answers; {lost} that the recogniser did not follow")
        print(distribution("announced when written", early))
        print(distribution("told with the sound", final))
        sound, silence = [answer.first_sound_s for answer in spoken], [answer.silence_s for answer in spoken]
        print(f"  first sound after {1000 * np.median(sound):.0f} ms, {1000 * np.median(silence):.0f} ms of it silent")


if __name__ == "__main__":
    main()
