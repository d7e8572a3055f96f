"""Voices of synthesizers that are programs: festival, and where they are installed RHVoice and SVOX Pico.

festival is in Debian's main section (``festival festvox-us-slt-hts festvox-kallpc16k``). The other two are free to use,
but their voices lack the recordings that they were made from, so that Debian keeps them in ``contrib`` and
``non-free``: ``rhvoice rhvoice-english libttspico-utils``.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from engine.mini.sound.synthesis import Speech, SynthesisError, with_letter_a


def festival(texts: Sequence[str], voice: str) -> list[Speech]:
    """Reads ``texts`` with one festival voice (``kal_diphone``, ``cmu_us_slt_arctic_hts``) in one run of the program.

    Raises SynthesisError when festival is not installed or stops.
    """
    with tempfile.TemporaryDirectory() as folder:
        script = [f"(voice_{voice})"]
        for i, text in enumerate(texts):
            spoken = with_letter_a(text, "festival").replace('"', "")
            script.append(
                f'(let ((u (utt.synth (eval (list (quote Utterance) (quote Text) "{spoken}"))))) '
                f'(utt.save.wave u "{folder}/{i}.wav") (utt.save.segs u "{folder}/{i}.lab"))'
            )
        source = Path(folder, "run.scm")
        source.write_text("\n".join(script))
        try:
            subprocess.run(
                ["festival", "-b", str(source)], check=True, capture_output=True, timeout=60 + 2 * len(texts)
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise SynthesisError(f"festival could not speak with {voice}; install festival and its voice") from error
        return [_read_festival(Path(folder, f"{i}.wav"), "slt" in voice) for i in range(len(texts))]


def _read_festival(path: Path, high: bool) -> Speech:
    samples, rate = soundfile.read(path, dtype="float32")
    phones, start = [], 0.0
    for line in path.with_suffix(".lab").read_text().splitlines()[1:]:
        end, _, name = line.split()
        phones.append((name.upper(), start))
        start = float(end)
    return Speech(samples, rate, tuple(phones), high=high)


def has_rhvoice() -> bool:
    """Whether RHVoice is installed."""
    return shutil.which("RHVoice-test") is not None


def rhvoice(text: str, voice: str, rng: np.random.Generator) -> Speech:
    """Reads ``text`` with an RHVoice voice (``bdl``, ``clb``) at any speed and pitch, 24 kHz.

    ``alan`` must not be used: he may be the speaker of flite's ``awb``, who is kept for judging.
    """
    rate, pitch = (str(int(rng.integers(75, 126))) for _ in range(2))
    command = ["RHVoice-test", "-p", voice, "-r", rate, "-t", pitch, "-o"]
    return _speak(command, with_letter_a(text, "festival"), high=voice != "bdl")


def has_pico() -> bool:
    """Whether SVOX Pico is installed."""
    return shutil.which("pico2wave") is not None


def pico(text: str, accent: str, rng: np.random.Generator) -> Speech:
    """Reads ``text`` with SVOX Pico's woman of ``en-US`` or ``en-GB``, at any speed and pitch, 16 kHz."""
    rate, pitch = int(rng.integers(75, 126)), int(rng.integers(70, 131))
    marked = f'<speed level="{rate}"><pitch level="{pitch}">{with_letter_a(text, "festival")}</pitch></speed>'
    return _speak(["pico2wave", "-l", accent, "-w"], marked, as_argument=True, high=True)


def _speak(command: list[str], text: str, *, high: bool, as_argument: bool = False) -> Speech:
    """What a program says that is given a file to write and, as its last argument or its input, a text."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "speech.wav")
        run = [*command, str(file), *([text] if as_argument else [])]
        try:
            subprocess.run(run, input=None if as_argument else text.encode(), check=True, capture_output=True)
            samples, rate = soundfile.read(file, dtype="float32")
        except (OSError, subprocess.SubprocessError, soundfile.SoundFileError) as error:
            raise SynthesisError(f"{command[0]} could not say {text!r}: {error}") from error
        return Speech(samples, rate, high=high)
