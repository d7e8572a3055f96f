"""Is mini's voice understood? Recognisers listen to spoken answers.

``python -m engine.mini.measure.intelligibility`` asks the shipped checkpoint for answers in a call (typed, so that
hearing plays no part), takes the sound that a caller would get, and counts wrong words: those of pocketsphinx, which
learned from people and has nothing to do with this project, and those of mini's own ears. Pocketsphinx listens twice:
knowing no more than the words, which may come in any order, and knowing some hundred answers of which it hears one.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import load_checkpoint
from engine.client import OUTPUT_RATE
from engine.mini.layout import CHECKPOINT
from engine.mini.measure.calls import write_call
from engine.mini.measure.evaluation import replay
from engine.mini.sound.augment import RATE, resample
from engine.mini.sound.hearing import WarpedMel, edit_distance, encode_units, to_units
from engine.mini.sound.voice_data import answers
from engine.mini.world import grammar
from engine.mini.world.words import HeardWords
from engine.model.audio import pool
from engine.processing.tokens import TokenBuilder

Audio = NDArray[np.float32]
Recogniser = Callable[[Audio], str]
LONGEST_S = 12
"""What comes later in an answer is not listened to."""
CHOICES = 300
"""Answers, the spoken ones among them, of which pocketsphinx picks one."""
SAME_SOUND = {
    "to": "two", "too": "two", "for": "four", "you": "u", "are": "r", "why": "y", "see": "c", "oh": "o", "be": "b",
    "no": "know",
}  # fmt: skip
SKILLS = (grammar.dictation, grammar.arithmetic, grammar.counting, grammar.small_talk)


def questions(count: int, seed: int = 21) -> list[grammar.Turn]:
    source = random.Random(seed)
    turns: list[grammar.Turn] = []
    while len(turns) < count:
        turn = SKILLS[len(turns) % len(SKILLS)](source)
        if 3 <= len(turn.answer.split()) <= 10:
            turns.append(turn)
    return turns


def spoken_answers(turns: list[grammar.Turn], voice: str, folder: Path, model: Path) -> list[tuple[str, Audio]]:
    """(text, sound at 16 kHz) of every answer, made by ``app.replay`` from calls in which ``turns`` are typed."""
    silence = np.zeros(2 * RATE, np.int16)
    options = {"voice": voice, "barge_in": False}
    for number, turn in enumerate(turns):
        typed = {"t": 0.5, "type": "input.text", "data": {"text": turn.heard}}
        write_call(folder / f"calls/{number:03d}", silence, RATE, options=options, commands=[typed])
    spoken = []
    for bundle in replay(folder / "calls", model, folder / "out")["bundles"]:
        text = " ".join(turn["text"] for turn in bundle["turns"])
        [sound] = (folder / "out" / Path(bundle["bundle"]).name).glob("*.wav")
        samples, rate = soundfile.read(sound, dtype="float32", always_2d=True, frames=LONGEST_S * OUTPUT_RATE)
        spoken.append((text, trimmed(resample(samples.mean(1), rate, RATE))))
    return spoken


def trimmed(sound: Audio, quiet_db: float = 45.0, margin_s: float = 0.2) -> Audio:
    """``sound`` without what is quiet before and after: a recogniser that expects words hears some in silence, too."""
    loud = np.flatnonzero(np.abs(sound) > np.abs(sound).max(initial=1e-6) * 10 ** (-quiet_db / 20))
    margin = round(margin_s * RATE)
    return sound[max(0, loud[0] - margin) : loud[-1] + margin] if len(loud) else sound


def pocketsphinx(choices: Collection[str], *, repeated: bool) -> Recogniser:
    """CMU's recogniser of one of ``choices``, or of any sequence of them where ``repeated``; those with a word that it
    does not know are left out. Raises ImportError where it is not installed."""
    from pocketsphinx import Config, Decoder, get_model_path  # type: ignore[import-untyped]

    config = Config(hmm=get_model_path("en-us/en-us"), dict=get_model_path("en-us/cmudict-en-us.dict"), lm=None)
    config.set_string("-logfn", "/dev/null")
    decoder = Decoder(config)
    known = sorted(choice for choice in choices if all(decoder.lookup_word(word) for word in choice.split()))
    times = "+" if repeated else ""
    decoder.add_jsgf_string("said", f"#JSGF V1.0; grammar said; public <said> = ({' | '.join(known)}){times};")
    decoder.activate_search("said")
    return recogniser(decoder)


def recogniser(decoder: Any) -> Recogniser:
    """What a decoder of pocketsphinx takes down of a whole sound at 16 kHz."""

    def recognise(sound: Audio) -> str:
        decoder.start_utt()
        decoder.process_raw(np.round(np.clip(sound, -1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return str(found.hypstr) if found else ""

    return recognise


def own_ears(model: Path) -> Recogniser:
    """Mini's encoder and projector, and the word whose embedding is nearest to each sound token."""
    loaded = load_checkpoint(model, LoadOptions(device="cpu", dtype="float32"))
    omni, words = loaded.model, HeardWords(TokenBuilder(loaded.tokenizer, loaded.config))
    mel = WarpedMel(loaded.config.mel)
    targets = omni.llm.model.embed_tokens.weight[words.vocabulary]

    @torch.inference_mode()
    def recognise(sound: Audio) -> str:
        hidden = encode_units(omni.apm, mel, to_units([sound]))
        tokens = pool(omni.audio_projection_layer(hidden), loaded.config.audio.pool_step)[0]
        return words.text(torch.cdist(tokens.float(), targets.float()).argmin(-1).tolist())

    return recognise


def word_errors(spoken: list[tuple[str, Audio]], recognise: Recogniser) -> tuple[int, int]:
    """Wrong words and all words. Words that sound the same are the same."""
    wrong = total = 0
    for text, sound in spoken:
        said, heard = (
            [hash(SAME_SOUND.get(word, word)) for word in words.split()]
            for words in (grammar.plain(text), recognise(sound))
        )
        wrong += edit_distance(heard, said)
        total += len(said)
    return wrong, total


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m engine.mini.measure.intelligibility", description=__doc__)
    parser.add_argument("--count", type=int, default=40, help="answers of each voice")
    parser.add_argument("--model", type=Path, default=CHECKPOINT, help="checkpoint in place of the shipped one")
    args = parser.parse_args()
    voices = ["default", *sorted(path.stem for path in (args.model / "assets" / "voices").glob("*.wav"))]
    ears = own_ears(args.model)
    for voice in voices:
        with tempfile.TemporaryDirectory() as folder:
            spoken = spoken_answers(questions(args.count), voice, Path(folder), args.model)
        texts = {grammar.plain(text) for text, _ in spoken}
        words = {word for text in texts for word in text.split()}
        possible = texts | {grammar.plain(text) for text in answers(CHOICES - len(texts), seed=5)}
        recognisers = {
            f"pocketsphinx, {len(words)} words in any order": pocketsphinx(words, repeated=True),
            f"pocketsphinx, one of {len(possible)} answers": pocketsphinx(possible, repeated=False),
            "own ears": ears,
        }
        for name, recogniser in recognisers.items():
            wrong, total = word_errors(spoken, recogniser)
            print(f"{voice}, {name}: {100 - 100 * wrong / total:.0f} % understood ({wrong} of {total} words wrong)")


if __name__ == "__main__":
    main()
