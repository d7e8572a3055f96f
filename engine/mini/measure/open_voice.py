"""Is an open voice understood? Recognisers take down open sentences that it never learned from.

``python -m engine.mini.measure.open_voice FOLDER`` lets a checkpoint with stored voices (small) speak as in a call and
counts wrong words: those of pocketsphinx with its own language model of all English, which learned from people and has
nothing to do with this project, and those of the checkpoint's own reader, if it has one. Besides how lively the voice
is (standard deviation of its pitch) and what it costs.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from engine.chat.hearing import hear_words
from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import load_checkpoint
from engine.client import OUTPUT_RATE
from engine.conversation.answer_text import AnswerText
from engine.conversation.pace import Pace
from engine.conversation.speech import TextItem
from engine.conversation.speech_live import LiveOptions, LiveSpeech
from engine.conversation.streaming import StreamingModel
from engine.mini.measure.intelligibility import recogniser
from engine.mini.sound.augment import RATE, resample
from engine.mini.sound.hearing import edit_distance
from engine.processing.numerals import read_aloud
from engine.processing.prompts import Message

Audio = NDArray[np.float32]
SENTENCES = (
    "The weather is going to be sunny tomorrow afternoon.", "I would love to help you plan your birthday party.",
    "Water boils at one hundred degrees at sea level.", "My sister lives in a small village near the mountains.",
    "You could try adding a little salt and lemon juice.", "The train leaves at half past seven in the morning.",
    "Reading a good book is a wonderful way to relax.", "Elephants are much larger than mice.",
    "Could you please tell me where the nearest bank is?", "I'm afraid I don't know the answer to that question.",
    "The old man walked slowly down the quiet street.", "Sugar and butter are mixed together before adding flour.",
    "Many people enjoy swimming in the ocean during summer.", "She opened the window because the room was too warm.",
    "William Shakespeare wrote many famous plays.", "There are seven days in a week and twelve months in a year.",
    "Let's talk about your favorite music for a while.", "The children are playing football in the garden.",
    "A healthy breakfast gives you energy for the whole day.", "He forgot his umbrella and got completely wet.",
    "What kind of movies do you like to watch?", "The moon moves around the earth about once a month.",
    "Please remember to lock the door when you leave.", "Dogs are friendly animals that love to play outside.",
    "It might be a good idea to see a doctor.", "We visited a beautiful museum in Berlin last year.",
    "The recipe calls for three eggs and a cup of milk.", "Learning a new language takes time and patience.",
    "The company hired twenty people in September.", "I think the blue shirt looks better than the green one.",
    "Thunder is the sound that follows a flash of lightning.",
    "My grandmother used to bake fresh bread every Sunday.", "Computers can store a huge amount of information.",
    "Turn left at the corner and walk past the church.", "Some birds fly thousands of miles to find warm places.",
    "The coffee was too hot to drink right away.", "Why did the chicken cross the road?",
    "Exercise is important for your heart and your mind.", "They built a wooden bridge across the narrow river.",
    "Good night, and sweet dreams.",
)  # fmt: skip
"""Not to be learned from, nor from anything like them."""


SILENCE = np.zeros(round(0.3 * OUTPUT_RATE), np.float32)
"""Before and behind a sentence, as whoever listens has it. Without it pocketsphinx misses first words: it understands
87 instead of 92 % of what the synthesizer itself says."""


@dataclass(frozen=True, slots=True)
class SpokenSentence:
    text: str
    sound: Audio
    """24 kHz."""
    cost_s: float
    """Processor time of all of it."""
    first_s: float
    """Processor time until the first sound."""


class GivenText:
    """A source of text that is known, word by word as a language model would write it."""

    def __init__(self, text: str, speaker: torch.Tensor) -> None:
        words = text.split()
        self._items = [TextItem(words[0], speaker), *(TextItem(f" {word}", position=1) for word in words[1:])]

    def next(self, most: int | None = None) -> Generator[Any, Any, TextItem | None]:
        yield from ()
        return self._items.pop(0) if self._items else None


def speak(stream: StreamingModel, text: str, voice: str, seed: int) -> SpokenSentence:
    """``text`` as a call would hear it."""
    state, slot = stream.open(seed, voice), stream.pool.speech.allocate()
    assert state.voice is not None
    stored = state.voice
    speech = LiveSpeech(
        state, GivenText(text, torch.empty(1, stream.config.llm.hidden_size)), stream.speech_tokens,
        stream.speech_sampling, LiveOptions(), AnswerText(stream.samples_per_code, Pace()), slot=slot,
        speaker=lambda _: stored, context=stream.wave_context, samples_per_code=stream.samples_per_code,
    )  # fmt: skip
    started, first, waves = time.process_time(), 0.0, list[Audio]()
    for chunk in stream.executor.drive(speech.task()):
        if len(chunk.wave):
            first = first or time.process_time() - started
            waves.append(chunk.wave.numpy())
    cost = time.process_time() - started
    stream.pool.speech.release(slot)
    stream.pool.drop(state)
    return SpokenSentence(text, np.concatenate(waves) if waves else np.zeros(1, np.float32), cost, first)


def dictation() -> Callable[[Audio], str]:
    """CMU's recogniser of any English, at 16 kHz. Raises ImportError where it is not installed."""
    from pocketsphinx import Config, Decoder, get_model_path  # type: ignore[import-untyped]

    model, words = get_model_path("en-us/en-us"), get_model_path("en-us/cmudict-en-us.dict")
    config = Config(hmm=model, dict=words, lm=get_model_path("en-us/en-us.lm.bin"))
    config.set_string("-logfn", "/dev/null")
    return recogniser(Decoder(config))


def reader(stream: StreamingModel) -> Callable[[Audio], str]:
    """The checkpoint's own."""

    def recognise(sound: Audio) -> str:
        def task() -> Generator[Any, Any, None]:
            yield (yield from hear_words(stream, [Message("user", [sound])]))

        [[message]] = stream.executor.drive(task())
        return " ".join(getattr(part, "text", str(part)) for part in message.content)

    return recognise


def words_of(text: str) -> list[int]:
    """Words as numbers; figures are words, case and marks do not count."""
    plain = re.sub(r"\(\d+\)", "", text.lower())
    return [hash(word) for word in re.sub(r"[^a-z' ]", " ", read_aloud(plain)).split()]


def wrong_words(spoken: list[SpokenSentence], recognise: Callable[[Audio], str]) -> tuple[int, int]:
    """Wrong words and all words."""
    wrong = total = 0
    for sentence in spoken:
        said = words_of(sentence.text)
        heard = np.concatenate([SILENCE, sentence.sound, SILENCE])
        wrong += edit_distance(words_of(recognise(resample(heard, OUTPUT_RATE, RATE))), said)
        total += len(said)
    return wrong, total


def melody(spoken: list[SpokenSentence]) -> tuple[float, float]:
    """Median pitch in Hz, and the standard deviation of the pitch in semitones.

    Both as pyin finds them, which errs by octaves where harmonics are clear: it gives the synthesizer's two voices,
    whose pitch is known to spread by 4.8 and 4.6 semitones, 6.5 and 7.2, and takes the man's second harmonic for his
    pitch in half of his sentences.
    """
    pitches = []
    for sentence in spoken:
        pitch, voiced, _ = librosa.pyin(sentence.sound, fmin=55, fmax=450, sr=OUTPUT_RATE, frame_length=2048)
        pitches.append(pitch[voiced & ~np.isnan(pitch)])
    found = np.concatenate(pitches)
    return float(np.median(found)), float((12 * np.log2(found)).std())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m engine.mini.measure.open_voice", description=__doc__)
    parser.add_argument("folder", type=Path, help="a checkpoint with stored voices")
    parser.add_argument("--count", type=int, default=len(SENTENCES), help="sentences of each voice")
    parser.add_argument("--voice", action="append", help="only these voices")
    parser.add_argument("--keep", type=Path, help="a folder for what was said")
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_checkpoint(args.folder, LoadOptions(device="cpu", dtype="float32", progress=False))
    stream = StreamingModel(loaded, context=512)
    listeners = {"pocketsphinx": dictation()} | ({} if stream.words is None else {"own reader": reader(stream)})
    for voice in args.voice or ("woman", "man"):
        spoken = [speak(stream, text, voice, seed) for seed, text in enumerate(SENTENCES[: args.count])]
        if args.keep:
            args.keep.mkdir(parents=True, exist_ok=True)
            for number, sentence in enumerate(spoken):
                soundfile.write(args.keep / f"{voice}-{number:02d}.wav", sentence.sound, OUTPUT_RATE)
        length = sum(len(sentence.sound) for sentence in spoken) / OUTPUT_RATE
        pitch, spread = melody(spoken[:12])
        cost, first = sum(s.cost_s for s in spoken) / length, statistics.median(s.first_s for s in spoken)
        print(f"{voice}: {length:.0f} s, pitch {pitch:.0f} Hz ± {spread:.1f} semitones, "
              f"{cost:.2f} s a second, first sound after {first:.3f} s")  # fmt: skip
        for name, recognise in listeners.items():
            wrong, total = wrong_words(spoken, recognise)
            print(f"{voice}, {name}: {100 - 100 * wrong / total:.1f} % understood ({wrong} of {total} words wrong)")


if __name__ == "__main__":
    main()
